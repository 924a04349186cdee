"""Deformable RoI pooling (Dai et al., Deformable Convolutional Networks, ICCV 2017, §2.2): each bin is read at an offset of its own."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ctxseg.models.convolution import materialize
from ctxseg.models.detectors.roi_align import stack
from ctxseg.models.detectors.windows import Slots, read
from ctxseg.models.shapes import Array

SMALLEST = 0.1  # cells; width and height of a box are at least this, as released


def deformable_roi_pool(
    maps: Sequence[Float[Array, "b _ _ c"]],
    boxes: Float[Array, "r 4"],
    images: Int[Array, " r"],
    levels: Int[Array, " r"],
    scales: Sequence[float],
    offsets: Float[Array, "r {bins} {bins} 2"] | None,
    bins: int,
    samples: int = 4,
    lengths: Int[Array, "r 2"] | None = None,
) -> Float[Array, "r {bins} {bins} c"]:
    """The mean, in every bin of a grid over every box, of samples×samples values of a map, interpolated bilinearly.

    As in the authors' release (`DeformablePSROIPooling` with one group): a box is rounded to whole pixels, halves up. In cells, with the
    centre of the first cell at 0, it starts at left·scale − ½. Sample i of bin p is at start + (p/bins + i/(bins·samples) + offset)·size:
    the first one is at the start of the bin, not half a step from it. A sample outside its map, by more than half a cell from the centre
    of the border's cell, does not count in the mean. A bin without samples is 0, and so is a bin whose box or offset is not finite.

    Gradients with respect to maps and offsets, in reverse mode. With respect to an offset, a sample at the centre of a cell has the slope
    towards the next cell. There is no gradient with respect to boxes.

    Args:
        maps: maps of several strides.
        boxes: boxes, in pixels of the image.
        images: index in the batch of each box.
        levels: index in `maps` of each box.
        scales: cells of each map per pixel of the image: 1/stride.
        offsets: offset of each bin: dy, in heights of the box, and dx, in widths. They include the paper's factor γ = 0.1. The release
            stores dx first. None: no offsets.
        bins: rows and columns of the grid.
        samples: rows and columns of samples in a bin.
        lengths: rows and columns of each box's map that belong to the image; the others are outside. None: all.
    """
    boxes = jax.lax.stop_gradient(boxes)
    cells, source = stack(maps, images, levels, lengths)
    boxes = jnp.floor(boxes + 0.5) * jnp.asarray(scales, boxes.dtype)[levels][:, None]
    size = jnp.maximum(boxes[:, 2:] - boxes[:, :2], SMALLEST)
    # Nothing is read of a box of infinite size. The size must not make the gradient of its offsets NaN.
    finite = jnp.isfinite(size)
    start, size = jnp.where(finite, boxes[:, :2] - 0.5, jnp.nan), jnp.where(finite, size, 1)
    fractions = (np.arange(bins) / bins)[:, None] + np.arange(samples) / (
        bins * samples
    )  # of the box, up to each sample
    fractions = fractions.astype(boxes.dtype)
    rows, columns = fractions[:, None], fractions[None]
    if offsets is not None:
        rows, columns = rows + offsets[..., :1], columns + offsets[..., 1:]
    start, size = (a[..., None, None, None] for a in (start, size))
    rows = _slots(start[:, 1] + rows * size[:, 1], source.rows)
    columns = _slots(start[:, 0] + columns * size[:, 0], source.columns)
    first, width = (a[:, None, None, None] for a in (source.start, source.width))
    return read(cells, rows._replace(part=first + rows.part * width), columns, learned=offsets is not None)


def _slots(position, length):
    """The cells that the samples of each bin read along one axis, in `2·samples` slots. Samples that are near share slots.

    Args:
        position: positions of samples, in cells, `[r,…,samples]`.
        length: number of cells, `[r]`.
    """
    position = materialize(position)  # as in `roi_align.positions`
    length = length[:, None, None, None]
    last = jnp.maximum(length - 1, 0)
    inside = (position >= -0.5) & (position <= length - 0.5)
    clamped = jnp.clip(jnp.nan_to_num(jax.lax.stop_gradient(position)), 0, last)
    position = jnp.where((position >= 0) & (position <= last), position, clamped)
    low = jnp.floor(position)
    share = position - low
    low = low.astype(jnp.int32)
    # A sample needs two slots, for `low` and for the next cell. It shares both with the sample before if it has the same `low`, and one
    # if its `low` is the next cell.
    slot = jnp.cumsum(jnp.minimum(jnp.diff(low, prepend=low[..., :1]), 2), -1)
    k = np.arange(2 * low.shape[-1])[:, None]
    # The last sample that starts at or before slot k has the largest cell of all that do.
    cell = jnp.where(slot[..., None, :] <= k, low[..., None, :] + jnp.minimum(k - slot[..., None, :], 1), 0).max(-1)
    weight = inside / jnp.maximum(inside.sum(-1, keepdims=True), 1)
    weights = [
        jnp.where(slot[..., None, :] + i == k, (w * weight)[..., None, :], 0) for i, w in ((0, 1 - share), (1, share))
    ]
    used = (slot[..., -1] + 2).max((1, 2))
    return Slots(jnp.minimum(cell, last), sum(weights).sum(-1), used)
