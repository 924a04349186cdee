"""Losses. All are sums on a device over a count on all devices, so that a batch may be split over devices in any way."""

import jax
import jax.numpy as jnp
import optax

from ctxseg.choices import find
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


# Name → loss of the scores at pixels, called as `cross_entropy`.
LOSSES = {"cross_entropy": cross_entropy}


def total(output, labels, config, seen=None, axis_name: str | None = None):
    """The training loss: `config.loss.name`'s of the scores, and of what else the segmenter gives, each with its weight.

    - `scale/S` (Attention to Scale, §3.3): a scale's own scores against labels at their resolution, `config.loss.scales`.
    - `memory` (MCIBI, §3.5): mean_k CE(H2(M[k]), k) over the classes that the memory has seen, `config.loss.memory`.
    - `head/LEVEL`: an auxiliary head's scores (PSPNet, §4), `config.loss.heads`.
    - any other auxiliary scores, `config.loss.auxiliary`.

    Args:
        output: a `SegmenterOutput`.
        labels: as in `cross_entropy`.
        config: `config.loss`.
        seen: bool `[K]`, the memory's.
        axis_name: as in `cross_entropy`.

    Returns:
        This device's share, as of `cross_entropy`.

    Raises:
        UserError: no loss of that name.
    """
    pixel_loss = find("loss.name", config.name, LOSSES)
    loss = pixel_loss(output.logits, labels, axis_name)
    for name, logits in output.aux.items():
        if name == "memory":
            if config.memory:
                devices = 1 if axis_name is None else jax.lax.psum(1, axis_name)
                loss += config.memory * memory_consistency(logits[0, 0], seen) / devices
        elif name.startswith("scale/"):
            if config.scales:
                small = resize(labels[..., None], logits.shape[1:3], "nearest")[..., 0]
                loss += config.scales * pixel_loss(logits, small, axis_name)
        elif name.startswith("head/"):
            if config.heads:
                loss += config.heads * pixel_loss(logits, labels, axis_name)
        elif config.auxiliary:
            loss += config.auxiliary * pixel_loss(logits, labels, axis_name)
    return loss


def memory_consistency(logits, seen):
    """mean_k CE(logits[k], k) over the seen classes (MCIBI, eq. 17), 0 without any: float32 `[K,K]`, bool `[K]` → scalar."""
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(logits.shape[0]))
    return jnp.where(seen, ce, 0).sum() / jnp.maximum(seen.sum(), 1)
