"""RoIAlign (He et al., Mask R-CNN, ICCV 2017, §3): maps within boxes, by bilinear interpolation."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int32

from ctxseg.models.convolution import materialize
from ctxseg.models.detectors.boxes import area
from ctxseg.models.shapes import Array

EPSILON = 1e-6  # keeps a box of exactly the canonical size from the level below (torchvision)


def levels_of(
    boxes: Float[Array, "*n 4"],
    lowest: int,
    highest: int,
    canonical_size: float = 224,
    canonical_level: int = 4,
) -> Int32[Array, "*n"]:
    """The map that each box is read from: ⌊`canonical_level` + log₂(√area / `canonical_size`)⌋ (FPN, eq. 1), as an index.

    Args:
        boxes: boxes.
        lowest: level of the finest map, whose index is 0. Its stride is 2^lowest.
        highest: level of the coarsest map.
        canonical_size: square root of the area of boxes at the start of `canonical_level`.
        canonical_level: see `canonical_size`.

    Returns:
        Indices, from 0 to highest − lowest.
    """
    size = jnp.sqrt(jnp.maximum(area(boxes), 0))
    level = jnp.floor(canonical_level + jnp.log2(size / canonical_size) + EPSILON)
    # `where`, because the comparison is False of NaN too.
    return jnp.where(level > lowest, jnp.minimum(level, highest), lowest).astype(jnp.int32) - lowest


def roi_align(
    maps: Sequence[Float[Array, "b _ _ c"]],
    boxes: Float[Array, "r 4"],
    images: Int[Array, " r"],
    levels: Int[Array, " r"],
    scales: Sequence[float],
    bins: int,
    samples: int,
    aligned: bool,
    lengths: Int[Array, "r 2"] | None = None,
) -> Float[Array, "r {bins} {bins} c"]:
    """The mean, in every bin of a grid over every box, of samples×samples values of a map, interpolated bilinearly.

    A sample that is more than 1 outside its map is 0; one that is less is read at the border. There is no gradient with respect to boxes.

    Args:
        maps: maps of several strides.
        boxes: boxes, in pixels of the image.
        images: index in the batch of each box.
        levels: index in `maps` of each box.
        scales: cells of each map per pixel of the image: 1/stride.
        bins: rows and columns of the grid.
        samples: rows and columns of samples in a bin.
        aligned: whether the centre of a cell is half a cell from the cell's border. If not, it is at the border, and the width and the
            height of a box are at least 1 cell, as in the first implementation.
        lengths: rows and columns of each box's map that belong to the image; the others are not read. None: all.
    """
    boxes = jax.lax.stop_gradient(boxes)
    cells, source = stack(maps, images, levels, lengths)
    boxes = boxes * jnp.asarray(scales, boxes.dtype)[levels][:, None]
    places = Places(
        positions(boxes[:, 1], boxes[:, 3], bins, samples, aligned),
        positions(boxes[:, 0], boxes[:, 2], bins, samples, aligned),
        source,
    )
    return _read(cells, places, bins, len(cells))


class Source(NamedTuple):
    """The map that a box is read from, among the cells of all maps. With a leading dimension, or of one box."""

    start: Array  # index of the map's first cell
    width: Array  # columns of the map
    rows: Array  # rows of the map that belong to the image
    columns: Array  # and columns


def stack(maps, images, levels, lengths):
    """The cells of all maps as one array `[n,c]`, and the `Source` of each box in it. The arguments are those of `roi_align`."""
    sizes = np.array([m.shape[:3] for m in maps])  # images, rows, columns
    firsts = np.cumsum([0, *sizes.prod(1)[:-1]])
    heights, widths, starts = (jnp.asarray(n, jnp.int32)[levels] for n in (sizes[:, 1], sizes[:, 2], firsts))
    if lengths is None:
        lengths = jnp.stack([heights, widths], 1)
    start = starts + images.astype(jnp.int32) * heights * widths
    cells = jnp.concatenate([m.reshape(-1, m.shape[-1]) for m in maps])
    return cells, Source(start, widths, lengths[:, 0], lengths[:, 1])


class Places(NamedTuple):
    """Where the samples of boxes are. With a leading dimension, or of one box."""

    y: Array  # `[…,n]`: positions of the rows of samples in the box's map, in cells, see `positions`
    x: Array  # and of the columns
    source: Source


def positions(start, end, bins, samples, aligned):
    """Positions of samples along one axis of boxes, in cells, `[R,bins·samples]`; the centre of the first cell is 0.

    Args:
        start: where each box starts, in cells, `[R]`.
        end: where each box ends.
        bins: see `roi_align`, and so `samples` and `aligned`.
    """
    size = end - start
    if aligned:
        start = start - 0.5
    else:
        size = jnp.maximum(size, 1)
    # Exact for simple fractions, so that a sample on the limit of its map is not rounded to outside.
    fraction = (np.arange(bins * samples) + 0.5) / (bins * samples)
    # Materialized, because XLA on CPUs otherwise computes them once for the cells and once for the weights. If the two are rounded
    # differently, a cell gets the weight of its neighbour.
    return materialize(start[:, None] + fraction.astype(start.dtype) * size[:, None])


def corners(position, length, bins):
    """The two cells that each sample reads along one axis, and their weights.

    Args:
        position: see `positions`, `[…,bins·samples]`.
        length: number of cells, `[…]`.
        bins: see `roi_align`.

    Returns:
        Cells, int32 `[…,bins,2·samples]`, and weights. The weights of a bin add up to 1, unless samples are outside the map.
    """
    last = jnp.asarray(length)[..., None] - 1
    inside = (position >= -1) & (position <= last + 1)
    position = jnp.clip(jnp.where(inside, position, 0), 0, last)  # of a box of NaN, too, the cells exist
    low = jnp.floor(position)
    share = position - low
    low = low.astype(jnp.int32)
    cells = jnp.stack([low, jnp.minimum(low + 1, last)], -1)
    samples = position.shape[-1] // bins
    weights = jnp.stack([1 - share, share], -1) * inside[..., None] / samples
    return tuple(a.reshape(*position.shape[:-1], bins, 2 * samples) for a in (cells, weights))


def _terms(places, bins):
    """Index and weight, `[…,bins,bins]` each, of every cell that the bins read."""
    source = places.source
    rows, row_weights = corners(places.y, source.rows, bins)
    columns, column_weights = corners(places.x, source.columns, bins)
    rows = source.start[..., None, None] + rows * source.width[..., None, None]
    for i in range(rows.shape[-1]):
        for j in range(columns.shape[-1]):
            yield (
                rows[..., :, None, i] + columns[..., None, :, j],
                row_weights[..., :, None, i] * column_weights[..., None, :, j],
            )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _read(cells, places, bins, count):
    """Means of bins, `[R,bins,bins,C]`, of cells `[count,C]`."""
    total = 0.0
    for index, weight in _terms(places, bins):
        total += weight[..., None] * cells.at[index].get(mode="promise_in_bounds")
    return total.astype(cells.dtype)


def _read_forward(cells, places, bins, count):
    return _read(cells, places, bins, count), places


def _read_backward(bins, count, places, gradient):
    """The transpose of `_read`. On CPUs, rows of channels are added in a loop; the transpose that JAX derives is ten times slower there."""

    def add(total, places, gradient):
        for index, weight in _terms(places, bins):
            total = total.at[index].add(weight[..., None] * gradient, mode="promise_in_bounds")
        return total

    def add_one_by_one(total, places, gradient):
        return jax.lax.scan(lambda total, one: (add(total, *one), None), total, (places, gradient))[0]

    total = jnp.zeros((count, gradient.shape[-1]), places.y.dtype)
    total = jax.lax.platform_dependent(total, places, gradient, cpu=add_one_by_one, default=add)
    return total.astype(gradient.dtype), None


_read.defvjp(_read_forward, _read_backward)
