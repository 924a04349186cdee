"""Losses. All are sums on a device over a count on all devices, so that a batch may be split over devices in any way."""

import jax
import jax.numpy as jnp
import optax

from ctxseg.models.layers import resize

IGNORE = 255  # label of pixels that count nowhere


def cross_entropy(logits, labels, axis_name: str | None = None):
    """Mean cross entropy over the pixels that are not ignored, of all devices.

    Args:
        logits: float32 `[B,h,w,K]`; resized bilinearly to the labels' resolution.
        labels: integer `[B,H,W]`, ids in [0, K), 255 = ignore.
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
