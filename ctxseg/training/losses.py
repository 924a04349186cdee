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
    counted: Integer[Array, "_ H W"] | None = None,
) -> Float[Array, ""]:
    """Mean cross entropy over all pixels with a class, on all devices.

    Args:
        logits: scores; resized bilinearly to the labels' resolution.
        labels: ids in [0, K), 255 = ignore.
        axis_name: the `pmap` axis over which the batch is split, or None.
        counted: for a micro-batch, all labels of this device's batch: the sum is divided by the number of pixels with a class among these.
            None: those of `labels`.

    Returns:
        This device's share of the loss: the sum over devices (`psum`) and micro-batches is the mean over all pixels; 0 if all are ignored.
    """
    logits = resize(logits, labels.shape[1:3])
    valid = labels != IGNORE
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0).astype(jnp.int32))
    count = valid.sum() if counted is None else (counted != IGNORE).sum()
    if axis_name is not None:
        count = jax.lax.psum(count, axis_name)
    return jnp.where(valid, ce, 0.0).sum() / jnp.maximum(count, 1)


# {name: loss of the scores at pixels}, each with the arguments and the result of `cross_entropy`. `counted` is given only if there are
# several micro-batches.
LOSSES = {"cross_entropy": cross_entropy}


def total(
    output: SegmenterOutput,
    labels: Integer[Array, "b H W"],
    config,
    axis_name: str | None = None,
    counted: Integer[Array, "_ H W"] | None = None,
) -> Float[Array, ""]:
    """The training loss: the loss `config.loss.name` of the scores, plus the weighted losses of the auxiliary scores.

    Each `AuxiliaryLogits` names the field of `config.loss` that weighs it, and its targets.

    Args:
        output: output of a segmenter.
        labels: as in `cross_entropy`.
        config: `config.loss`.
        axis_name: as in `cross_entropy`.
        counted: as in `cross_entropy`.

    Returns:
        This device's share of the loss, as in `cross_entropy`.

    Raises:
        UserError: there is no loss of that name.
    """
    function = find("loss.name", config.name, LOSSES)

    def pixel_loss(logits, labels, counted):
        # A loss from outside the package need not have the argument, see `tasks.semantic.check`.
        return function(logits, labels, axis_name, **({} if counted is None else {"counted": counted}))

    loss = pixel_loss(output.logits, labels, counted)
    for auxiliary in output.aux.values():
        logits, weight = auxiliary.logits, config[auxiliary.weight]
        if not weight:
            continue
        if auxiliary.targets == "classes":
            devices = 1 if axis_name is None else jax.lax.psum(1, axis_name)
            parts = 1 if counted is None else len(counted) // len(labels)
            loss += weight * class_consistency(logits, auxiliary.counts) / (devices * parts)
        elif auxiliary.targets == "resized_labels":
            resized, all_resized = (
                None if x is None else resize(x[..., None], logits.shape[1:3], "nearest")[..., 0]
                for x in (labels, counted)
            )
            loss += weight * pixel_loss(logits, resized, all_resized)
        else:
            loss += weight * pixel_loss(logits, labels, counted)
    return loss


def of_batch(
    model, variables, batch: dict, rng, config, axis_name: str | None = None, whole: dict | None = None
) -> tuple[Float[Array, ""], tuple]:
    """The loss of segmentation on a training batch, or the share of one of its micro-batches.

    Args:
        model: a segmenter.
        variables: its variables.
        batch: `image`, `label` and, with super-pixels, `regions`, of this device.
        rng: key of the dropout.
        config: `config.loss`.
        axis_name: as in `cross_entropy`.
        whole: this device's whole batch, if `batch` is a micro-batch of it; else None.

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
    counted = None if whole is None else whole["label"]
    return total(output, batch["label"], config, axis_name, counted), (updated, output.pixels)


def class_consistency(logits: Float[Array, "k k"], counts: Bool[Array, " k"]) -> Float[Array, ""]:
    """The mean of CE(logits[k], k) over the classes k with `counts[k]` (MCIBI, eq. 17); 0 if there are none."""
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(logits.shape[0]))
    return jnp.where(counts, ce, 0).sum() / jnp.maximum(counts.sum(), 1)
