"""Non-maximum suppression of a fixed length."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Int32

from ctxseg.models.detectors.boxes import iou
from ctxseg.models.shapes import Array


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    threshold: float,
    count: int,
    valid: Bool[Array, " n"] | None = None,
    groups: Int[Array, " n"] | None = None,
) -> tuple[Int32[Array, " {count}"], Bool[Array, " {count}"]]:
    """Greedy non-maximum suppression: a box is kept unless it overlaps a better kept box of its group by more than `threshold`.

    Args:
        boxes: boxes.
        scores: scores; of equal ones, the lower index is better.
        threshold: IoU from which, exclusively, a box is suppressed.
        count: length of the result.
        valid: which boxes exist; None: all.
        groups: only boxes of the same group suppress each other; None: all are of one.

    Returns:
        Indices of the best `count` kept boxes, best first; and which of them are valid, the first ones.
    """
    n = len(boxes)
    order = _order(scores, valid)
    boxes = boxes[order]
    alive = jnp.ones(n, bool) if valid is None else valid[order]
    suppresses = (iou(boxes, boxes) > threshold) & (jnp.arange(n)[:, None] < jnp.arange(n))
    if groups is not None:
        suppresses &= groups[order][:, None] == groups[order]

    # The greedy result is the only fixed point: box j is decided once all boxes before it are.
    def changed(state):
        return (state[0] != state[1]).any()

    def step(state):
        keep = state[1]
        return keep, alive & ~(suppresses & keep[:, None]).any(0)

    keep = jax.lax.while_loop(changed, step, step((alive, alive)))[1]
    return _first(keep, order, count)


def _order(scores, valid):
    if valid is not None:
        scores = jnp.where(valid, scores, -jnp.inf)
    return jax.lax.top_k(scores, len(scores))[
        1
    ]  # on CPUs much faster than argsort; the lower index of equal scores comes first


def _first(keep, order, count):
    n = len(keep)
    rank, position = jax.lax.top_k(jnp.where(keep, jnp.arange(n, 0, -1), 0).astype(jnp.float32), min(count, n))
    pad = (0, max(count - n, 0))
    return jnp.pad(order[position], pad), jnp.pad(rank > 0, pad)
