"""The mask of a detection from those of all boxes near it (FCIS, Li et al., CVPR 2017, §4.2, "Inference")."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from ctxseg.models.detectors import boxes as box_ops
from ctxseg.models.shapes import Array

SEARCH = 2  # cells of the grid on which the extent of a mask is searched, per cell of a mask


def merge_masks(
    masks: Float[Array, "n m m k"],
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n k"],
    rows: Int[Array, " d"],
    classes: Int[Array, " d"],
    overlap: float,
    threshold: float,
    count: int,
) -> tuple[Float32[Array, "d m m"], Float32[Array, "d 4"]]:
    """For each detection, the mean of the masks of its class of all boxes that overlap it, weighted by their scores of this class.

    Each mask is binary: 1 where its probability is at least `threshold`. Outside its box a mask is 0. The box of a detection becomes that
    of the cells where the mean is at least `threshold`, found on a grid over the union of the boxes. The release finds them among the
    image's pixels.

    Args:
        masks: probabilities of each class in the cells of a grid over each box.
        boxes: boxes.
        scores: probabilities of the classes; 0 for a box that does not exist.
        rows: row of `boxes` of each detection.
        classes: class of each detection.
        overlap: IoU from which a box's mask counts.
        threshold: probability from which a cell is inside.
        count: at most as many boxes, those with the best scores, count.

    Returns:
        Means on a grid over the new boxes, and these. A detection without a cell at the threshold keeps its box.
    """
    m = masks.shape[1]
    near = box_ops.iou(boxes[rows], boxes) >= overlap  # [d,n]
    weights, chosen = jax.lax.top_k(jnp.where(near, scores.T[classes], 0), min(count, len(boxes)))
    weights = weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-12)
    parts, own = masks[chosen, :, :, classes[:, None]], boxes[chosen]  # [d,p,m,m], [d,p,4]

    def mean(grid, cells):
        """The weighted mean at the centres of `cells`×`cells` cells of boxes `[d,4]`."""
        along = []
        for axis in (1, 0):
            low, high = grid[:, axis, None], grid[:, axis + 2, None]
            points = (low + (jnp.arange(cells) + 0.5) / cells * (high - low))[:, None]  # [d,1,cells]
            start, size = own[..., axis, None], (own[..., axis + 2] - own[..., axis])[..., None]
            place = jnp.clip((points - start) / jnp.where(size > 0, size, 1) * m - 0.5, 0, m - 1)
            inside = (points >= start) & (points <= start + size) & (size > 0)
            along.append((jnp.maximum(0, 1 - jnp.abs(place[..., None] - jnp.arange(m))), inside))  # [d,p,cells,m]
        (y, in_y), (x, in_x) = along
        values = jnp.einsum("dpym,dpmn,dpxn->dpyx", y, parts.astype(jnp.float32), x, precision="highest")
        within = (values >= threshold) & in_y[..., :, None] & in_x[..., None, :]
        return jnp.einsum("dp,dpyx->dyx", weights, within.astype(jnp.float32), precision="highest")

    counted = (weights > 0)[..., None]
    union = jnp.concatenate(
        [
            jnp.where(counted, own[..., :2], jnp.inf).min(1),
            jnp.where(counted, own[..., 2:], -jnp.inf).max(1),
        ],
        1,
    )
    kept = boxes[rows]
    union = jnp.where(jnp.isfinite(union).all(1, keepdims=True), union, kept)
    cells = SEARCH * m
    occupied = mean(union, cells) >= threshold - 1e-6  # a sum of weights, rounded
    edges = []
    for axis in (1, 2):  # columns, then rows
        any_ = occupied.any(axis)
        first, last = any_.argmax(1), cells - any_[:, ::-1].argmax(1)
        start, size = union[:, axis - 1], union[:, axis + 1] - union[:, axis - 1]
        edges.append((start + first / cells * size, start + last / cells * size))
    (left, right), (top, bottom) = edges
    tight = jnp.where(occupied.any((1, 2))[:, None], jnp.stack([left, top, right, bottom], 1), kept)
    return mean(tight, m), tight
