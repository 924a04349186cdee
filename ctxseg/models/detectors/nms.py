"""Non-maximum suppression of a fixed length."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Int32

from ctxseg.models.detectors.boxes import overlap
from ctxseg.models.shapes import Array

BLOCK = 128  # boxes that are decided together


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
    n, blocks = len(boxes), -(-len(boxes) // BLOCK)
    if valid is not None:
        scores = jnp.where(valid, scores, -jnp.inf)
    order = jax.lax.top_k(scores, n)[1]  # faster on CPUs than argsort; of equal scores, the lower index comes first

    def in_blocks(values):
        values = values[order]
        values = jnp.pad(values, ((0, blocks * BLOCK - n),) + ((0, 0),) * (values.ndim - 1))
        return values.reshape(blocks, BLOCK, *values.shape[1:])

    alive = in_blocks(jnp.ones(n, bool) if valid is None else valid)
    sides = jnp.moveaxis(in_blocks(boxes), -1, 1)  # [blocks,4,BLOCK]
    groups = None if groups is None else in_blocks(groups)
    better = jnp.arange(BLOCK)[:, None] < jnp.arange(BLOCK)

    def suppresses(i, j):
        """Whether the boxes of block i overlap those of block j too much, `[BLOCK,BLOCK]`."""
        result = overlap(sides[i][:, :, None], sides[j][:, None]) > threshold
        return result if groups is None else result & (groups[i][:, None] == groups[j])

    def decide(block, keep):
        def compare(earlier, free):
            return free & ~(suppresses(earlier, block) & keep[earlier][:, None]).any(0)

        free = jax.lax.fori_loop(0, block, compare, alive[block])
        within = suppresses(block, block) & better

        # Of a block, the greedy result is the only fixed point of this step: a box is decided once all better boxes are.
        def step(state):
            return state[1], free & ~(within & state[1][:, None]).any(0)

        kept = jax.lax.while_loop(lambda state: (state[0] != state[1]).any(), step, step((free, free)))[1]
        return keep.at[block].set(kept)

    keep = jax.lax.fori_loop(0, blocks, decide, jnp.zeros_like(alive)).reshape(-1)[:n]
    # The first positions that are kept. In float32, the only type that XLA's fast top_k on CPUs takes, they are exact up to 2²⁴.
    kept, position = jax.lax.top_k(jnp.where(keep, -jnp.arange(n, dtype=jnp.float32), -jnp.inf), min(count, n))
    pad = (0, max(count - n, 0))
    return jnp.pad(order[position], pad), jnp.pad(kept > -jnp.inf, pad)
