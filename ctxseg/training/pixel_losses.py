"""Losses of the scores at pixels, by name, for `config.loss.name`.

Each has the arguments of `cross_entropy`, and those of its own, which are fields of `config.loss`. Each returns this device's share: the
sum over devices (`psum`) is the loss of the batch, however the batch is split. `cross_entropy` and `focal` are means over pixels, so they
do not depend on micro-batches either. The other losses depend on all pixels at once; with micro-batches, they are the mean of those of the
micro-batches.
"""

import math
import statistics
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Float, Integer

from ctxseg.models.resizing import resize
from ctxseg.models.shapes import Array

IGNORE = 255  # label of pixels without a class


def cross_entropy(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    axis_name: str | None = None,
    counted: Integer[Array, "_ H W"] | None = None,
    *,
    class_weights: Sequence[float] = (),
    smoothing: float = 0.0,
) -> Float[Array, ""]:
    """Mean cross entropy over all pixels with a class, on all devices.

        Σ_i w(y_i) · (−Σ_k q_ik log p_ik) / Σ_i w(y_i),     q_i = (1 − ε) onehot(y_i) + ε/K

    with label smoothing ε (Szegedy et al., CVPR 2016, §7). PyTorch weighs each class of q by its own weight; here the weight is that of
    the pixel's class.

    Args:
        logits: scores; resized bilinearly to the labels' resolution.
        labels: ids in [0, K), 255 = ignore.
        axis_name: the `pmap` axis over which the batch is split, or None.
        counted: for a micro-batch, all labels of this device's batch: the sum is divided by the weights of the pixels with a class among
            these. None: those of `labels`.
        class_weights: w, K numbers; (): 1 for all classes.
        smoothing: ε.

    Returns:
        This device's share of the loss: the sum over devices and micro-batches is the mean over all pixels; 0 if all are ignored.
    """
    logits, ce, valid = _cross_entropies(logits, labels)
    if smoothing:
        of_all = jax.nn.logsumexp(logits, axis=-1) - logits.mean(-1)
        ce = (1 - smoothing) * ce + smoothing * of_all
    return _mean(ce, labels, valid, class_weights, axis_name, counted)


def focal(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    axis_name: str | None = None,
    counted: Integer[Array, "_ H W"] | None = None,
    *,
    class_weights: Sequence[float] = (),
    focal_gamma: float = 2.0,
) -> Float[Array, ""]:
    """Mean of −(1 − p_y)^γ log p_y (Lin et al., ICCV 2017, eq. 4, with a softmax; `class_weights` have the place of its α)."""
    _, ce, valid = _cross_entropies(logits, labels)
    # 1 − p_y, kept from 0, where the power has no gradient if γ < 1.
    rest = jnp.maximum(-jnp.expm1(-ce), 1e-7)
    return _mean(rest**focal_gamma * ce, labels, valid, class_weights, axis_name, counted)


def dice(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    axis_name: str | None = None,
    counted: Integer[Array, "_ H W"] | None = None,
) -> Float[Array, ""]:
    """1 − the mean over the classes that occur of 2 Σ p_k t_k / (Σ p_k + Σ t_k) (Milletari et al., 3DV 2016, with sums in place of sums of
    squares, as Sudre et al., DLMIA 2017). p are probabilities, t is 1 for the pixel's class, and the sums are over all pixels with a class.
    """
    p, valid = _probabilities(logits, labels)
    p = jnp.where(valid[..., None], p, 0)
    t = _one_hot(labels, valid, p.shape[-1])
    axes = (0, 1, 2)
    both, probable, true = (_sum_of_all(x.sum(axes), axis_name) for x in (p * t, p, t))
    overlap = 2 * both / jnp.maximum(probable + true, 1e-12)
    present = true > 0
    loss = jnp.where(present, 1 - overlap, 0).sum() / jnp.maximum(present.sum(), 1)
    return _share(loss, axis_name) / _parts(labels, counted)


def lovasz(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    axis_name: str | None = None,
    counted: Integer[Array, "_ H W"] | None = None,
) -> Float[Array, ""]:
    """The Lovász extension of 1 − IoU, averaged over the classes that occur (Lovász-softmax, Berman et al., CVPR 2018, eq. 11, Alg. 1).

    For a class, the pixels' errors |t − p| are sorted, largest first. Each counts as much as the Jaccard loss grows when its pixel joins
    those before it. All pixels of the batch are sorted together, on every device.
    """
    p, valid = _probabilities(logits, labels)
    k = p.shape[-1]
    valid, p = valid.reshape(-1), p.reshape(-1, k)
    t = _one_hot(labels, valid.reshape(labels.shape), k).reshape(-1, k)
    errors = jnp.where(valid[:, None], jnp.abs(t - p), 0)

    def growth(columns):
        """By how much each pixel's error counts: `[N]` of a class."""
        error, true = columns
        order = jnp.argsort(-error)
        true = true[order]
        total = true.sum()
        jaccard = 1 - (total - jnp.cumsum(true)) / jnp.maximum(total + jnp.cumsum(1 - true), 1)
        steps = jnp.diff(jaccard, prepend=0.0)
        return jnp.zeros_like(error).at[order].set(steps), total > 0

    # Ignored pixels are last, and their error is 0.
    ranked = jnp.where(valid[:, None], errors, -1.0)
    gathered = lax.stop_gradient((ranked.T, t.T))
    first = jnp.int32(0)
    if axis_name is not None:
        gathered = lax.all_gather(gathered, axis_name, axis=1, tiled=True)
        first = lax.axis_index(axis_name) * len(valid)
    weights, present = lax.map(growth, gathered)
    weights = lax.dynamic_slice_in_dim(weights, first, len(valid), axis=1)
    loss = jnp.where(present[:, None], weights * errors.T, 0).sum() / jnp.maximum(present.sum(), 1)
    return loss / _parts(labels, counted)


def ohem(
    logits: Float[Array, "b h w k"],
    labels: Integer[Array, "b H W"],
    axis_name: str | None = None,
    counted: Integer[Array, "_ H W"] | None = None,
    *,
    ohem_threshold: float = 0.7,
    ohem_least: int = 100_000,
) -> Float[Array, ""]:
    """Mean cross entropy of the hard pixels: those whose class has a probability of at most `ohem_threshold`; if these are fewer than
    `ohem_least`, of the `ohem_least` pixels of the batch with the largest losses (online hard example mining: Shrivastava et al., CVPR
    2016; of pixels as in the code of HRNet and OCRNet).

    Pixels whose loss equals that of the last one all count.
    """
    _, ce, valid = _cross_entropies(logits, labels)
    ce = jnp.where(valid, ce, 0)
    limit = lax.stop_gradient(jnp.where(valid, ce, -1))
    cut = jnp.minimum(-math.log(ohem_threshold), _nth_largest(limit, ohem_least, axis_name))
    hard = valid & (limit >= cut)
    count = hard.sum()
    if axis_name is not None:
        count = lax.psum(count, axis_name)
    return jnp.where(hard, ce, 0).sum() / jnp.maximum(count, 1) / _parts(labels, counted)


def median_frequency(frequencies: Sequence[float]) -> list[float]:
    """Weights of classes by their frequencies: the median frequency divided by that of the class (Eigen and Fergus, ICCV 2015, §6.3.2).

    `frequencies` are those of `data.summary.frequencies`. A class that does not occur has the weight 0, and does not count for the median.
    """
    middle = statistics.median(f for f in frequencies if f > 0)
    return [middle / f if f > 0 else 0.0 for f in frequencies]


# {name: loss of the scores at pixels}.
LOSSES = {"cross_entropy": cross_entropy, "focal": focal, "dice": dice, "lovasz": lovasz, "ohem": ohem}


def _cross_entropies(logits, labels):
    """Scores at the labels' resolution, the cross entropy of each pixel, and which pixels have a class."""
    logits = resize(logits, labels.shape[1:3])
    valid = labels != IGNORE
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, labels, 0).astype(jnp.int32))
    return logits, ce, valid


def _probabilities(logits, labels):
    """Probabilities at the labels' resolution, and which pixels have a class."""
    return jax.nn.softmax(resize(logits, labels.shape[1:3])), labels != IGNORE


def _one_hot(labels, valid, k):
    return ((labels[..., None] == jnp.arange(k)) & valid[..., None]).astype(jnp.float32)


def _mean(values, labels, valid, class_weights, axis_name, counted):
    """The share of the mean of the values of pixels, weighted by their classes."""
    if class_weights:
        table = jnp.zeros(256).at[: len(class_weights)].set(jnp.asarray(class_weights, jnp.float32))
        values = values * table[labels]  # 0 of ignored pixels
        count = table[labels if counted is None else counted].sum()
    else:
        count = valid.sum() if counted is None else (counted != IGNORE).sum()
    if axis_name is not None:
        count = lax.psum(count, axis_name)
    return jnp.where(valid, values, 0.0).sum() / jnp.where(count > 0, count, 1)


def _sum_of_all(x, axis_name):
    """The sum of `x` over all devices; its gradient is that of this device's `x`."""
    if axis_name is None:
        return x
    return lax.psum(lax.stop_gradient(x), axis_name) + x - lax.stop_gradient(x)


def _share(loss, axis_name):
    """This device's share of a loss that is a function of `_sum_of_all`: an equal part of its value, and all of this device's gradient."""
    if axis_name is None:
        return loss
    value = lax.stop_gradient(loss)
    return loss - value + value / lax.axis_size(axis_name)


def _parts(labels, counted):
    """The number of micro-batches of a batch."""
    return 1 if counted is None else len(counted) // len(labels)


def _nth_largest(values, n, axis_name) -> Float[Array, ""]:
    """The n-th largest of the values on all devices, exactly; 0 if fewer than n are at least 0, or if it is less.

    Floats that are at least 0 are ordered as their bits are: the bits of the result are found one after another, by counting.
    """
    bits = lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)  # negative for negative values

    def add_bit(i, found):
        higher = found | (jnp.int32(1) << (30 - i))
        count = (bits >= higher).sum()
        if axis_name is not None:
            count = lax.psum(count, axis_name)
        return jnp.where(count >= n, higher, found)

    return lax.bitcast_convert_type(lax.fori_loop(0, 31, add_bit, jnp.int32(0)), jnp.float32)
