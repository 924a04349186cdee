"""Losses. All are sums on a device over a count on all devices, so that a batch may be split over devices in any way."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Integer

from ctxseg.choices import find
from ctxseg.models.resizing import resize
from ctxseg.models.segmenter import SegmenterOutput
from ctxseg.models.shapes import Array

IGNORE = 255  # label of pixels that count nowhere


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """Mean cross entropy over the pixels that are not ignored, of all devices.

    Args:
        logits: scores; resized bilinearly to the labels' resolution.
        labels: ids in [0, K), 255 = ignore.
        axis_name: the `pmap` axis that shares the batch, or None.

    Returns:
        This device's share of the loss: the sum over devices (`psum`) is the mean over all pixels, 0 if none counts.
    """
    logits = resize(logits, labels.shape[1:3])
    counts = labels != IGNORE
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(counts, labels, 0).astype(jnp.int32))
    total = counts.sum()
    if axis_name is not None:
        total = jax.lax.psum(total, axis_name)
    return jnp.where(counts, ce, 0.0).sum() / jnp.maximum(total, 1)


# Name → loss of the scores at pixels, called as `cross_entropy`.
LOSSES = {"cross_entropy": cross_entropy}


def total(
    output: SegmenterOutput,
    labels: Integer[Array, "b H W"],
    config,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """The training loss: `config.loss.name`'s of the scores, and of the auxiliary ones, which say what weighs them and their targets.

    Args:
        output: of a segmenter.
        labels: as in `cross_entropy`.
        config: `config.loss`.
        axis_name: as in `cross_entropy`.

    Returns:
        This device's share, as of `cross_entropy`.

    Raises:
        UserError: no loss of that name.
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


def class_consistency(logits: Float[Array, "k k"], counts: Bool[Array, " k"]) -> Float[Array, ""]:
    """mean_k CE(logits[k], k) over the classes that count (MCIBI, eq. 17), 0 without any."""
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(logits.shape[0]))
    return jnp.where(counts, ce, 0).sum() / jnp.maximum(counts.sum(), 1)
