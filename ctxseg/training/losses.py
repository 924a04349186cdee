"""Losses. Each is a sum on one device, divided by a count over all devices, so the result does not depend on how a batch is split."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Integer

from ctxseg.choices import find
from ctxseg.models.resizing import resize
from ctxseg.models.segmenter import SegmenterOutput
from ctxseg.models.shapes import Array

IGNORE = 255  # label of pixels without a class


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Mean cross entropy over all pixels with a class, on all devices.

    Args:
        logits: scores; resized bilinearly to the labels' resolution.
        labels: ids in [0, K), 255 = ignore.
        axis_name: the `pmap` axis over which the batch is split, or None.

    Returns:
        This device's share of the loss: the sum over devices (`psum`) is the mean over all pixels; 0 if all are ignored.
    """
    logits = resize(logits, labels.shape[1:3])
    valid = labels != IGNORE
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0).astype(jnp.int32))
    count = valid.sum()
    if axis_name is not None:
        count = jax.lax.psum(count, axis_name)
    return jnp.where(valid, ce, 0.0).sum() / jnp.maximum(count, 1)


# {name: loss of the scores at pixels}, each with the arguments and the result of `cross_entropy`.
LOSSES = {"cross_entropy": cross_entropy}


def total(
    output: SegmenterOutput,
    labels: Integer[Array, "b H W"],
    config,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The training loss: the loss `config.loss.name` of the scores, plus the weighted losses of the auxiliary scores.

    Each `AuxiliaryLogits` names the field of `config.loss` that weighs it, and its targets.

    Args:
        output: output of a segmenter.
        labels: as in `cross_entropy`.
        config: `config.loss`.
        axis_name: as in `cross_entropy`.

    Returns:
        This device's share of the loss, as in `cross_entropy`.

    Raises:
        UserError: there is no loss of that name.
    """
    pixel_loss = find("loss.name", config.name, LOSSES)
    loss = pixel_loss(output.logits, labels, axis_name)
    for auxiliary in output.aux.values():
        logits, weight = auxiliary.logits, config[auxiliary.weight]
        if not weight:
            continue
        if auxiliary.targets == "classes":
            devices = 1 if axis_name is None else jax.lax.psum(1, axis_name)
            loss += weight * class_consistency(logits, auxiliary.counts) / devices
        elif auxiliary.targets == "resized_labels":
            resized = resize(labels[..., None], logits.shape[1:3], "nearest")[..., 0]
            loss += weight * pixel_loss(logits, resized, axis_name)
        else:
            loss += weight * pixel_loss(logits, labels, axis_name)
    return loss


def of_batch(
    model, variables, batch: dict, rng, config, axis_name: str | None = None
) -> tuple[Float[Array, ""], tuple]:
    """The loss of segmentation on a training batch.

    Args:
        model: a segmenter.
        variables: its variables.
        batch: `image`, `label` and, with super-pixels, `regions`.
        rng: key of the dropout.
        config: `config.loss`.
        axis_name: as in `cross_entropy`.

    Returns:
        This device's share of the loss, and the updated batch statistics and the pixels that update the memory (None without one).
    """
    output, updated = model.apply(
        variables,
        batch["image"],
        batch.get("regions"),
        train=True,
        rngs={"dropout": rng},
        mutable=["batch_stats"],
    )
    return total(output, batch["label"], config, axis_name), (updated, output.pixels)


def class_consistency(logits: Float[Array, "k k"], counts: Bool[Array, " k"]) -> Float[Array, ""]:
    """The mean of CE(logits[k], k) over the classes k with `counts[k]` (MCIBI, eq. 17); 0 if there are none."""
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(logits.shape[0]))
    return jnp.where(counts, ce, 0).sum() / jnp.maximum(counts.sum(), 1)
