"""Which object each anchor or proposal shall find, and which of them a training step reads."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int32

from ctxseg.models.shapes import Array

NEGATIVE, NEITHER = -1, -2


def match(
    iou: Float[Array, "n m"], valid: Bool[Array, " m"], high: float, low: float, keep_best: bool
) -> Int32[Array, " n"]:
    """The object that each box is matched with (Faster R-CNN, §3.1.2).

    Args:
        iou: overlaps of boxes and objects.
        valid: which objects exist. The others are matched with nothing.
        high: a box is matched with the object that it overlaps most, if its IoU is at least `high`. Of equal ones, the first.
        low: a box is a negative if its IoU with every object is below `low`.
        keep_best: whether the boxes that overlap an object most, equal ones included, are matched with the object that they overlap most,
            however little it is. An object that overlaps no box has no such boxes.

    Returns:
        Indices of objects; `NEGATIVE` (−1); `NEITHER` (−2) for boxes from `low` to `high`.
    """
    iou = jnp.where(valid, iou, NEGATIVE)
    best, object_ = iou.max(1), iou.argmax(1).astype(jnp.int32)
    result = jnp.where(best >= high, object_, jnp.where(best >= low, NEITHER, NEGATIVE))
    if keep_best:
        result = jnp.where(((iou == iou.max(0)) & (iou > 0)).any(1), object_, result)
    return result


def sample(
    rng: jax.Array, matched: Int32[Array, " n"], count: int, positive_share: float
) -> tuple[Int32[Array, " {count}"], Bool[Array, " {count}"], Bool[Array, " {count}"]]:
    """Draws positives and negatives uniformly, without replacement.

    At most ⌊count·positive_share⌋ are positives; negatives fill the rest, as far as they suffice.

    Args:
        rng: a key.
        matched: see `match`: ≥ 0 are positives, `NEGATIVE` are negatives.
        count: length of the result.
        positive_share: largest share of positives.

    Returns:
        Indices, positives first; which of them are valid; and which are positives. The valid ones come first.
    """
    n = len(matched)
    draw = jax.random.uniform(rng, (n,))

    def drawn(candidates, most):
        """Indices of `most` drawn candidates, and how many of them exist."""
        most = min(most, n)
        return jax.lax.top_k(jnp.where(candidates, draw, -1), most)[1], jnp.minimum(candidates.sum(), most)

    positives, p = drawn(matched >= 0, int(count * positive_share))
    negatives, q = drawn(matched == NEGATIVE, count)
    # Negative 0 follows positive p − 1.
    slot = jnp.arange(count)
    taken = jnp.minimum(jnp.where(slot < p, slot, len(positives) + slot - p), len(positives) + len(negatives) - 1)
    indices = jnp.concatenate([positives, negatives])[taken]
    return indices, slot < p + q, slot < p
