"""RoIAlign (He et al., Mask R-CNN, ICCV 2017, §3): maps within boxes, by bilinear interpolation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int32

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
    return jnp.clip(level, lowest, highest).astype(jnp.int32) - lowest


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
    heights, widths = (jnp.array([m.shape[i] for m in maps]) for i in (1, 2))
    starts, total = [], 0
    for m in maps:
        starts.append(total)
        total += m.shape[0] * m.shape[1] * m.shape[2]
    height, width, start = heights[levels], widths[levels], jnp.array(starts)[levels]
    boxes = boxes * jnp.asarray(scales, boxes.dtype)[levels][:, None]
    rows, columns = (height, width) if lengths is None else (lengths[:, 0], lengths[:, 1])
    y, weight_y = corners(boxes[:, 1], boxes[:, 3], rows, bins, samples, aligned)
    x, weight_x = corners(boxes[:, 0], boxes[:, 2], columns, bins, samples, aligned)
    y = start[:, None, None] + (images[:, None, None] * height[:, None, None] + y) * width[:, None, None]
    cells = jnp.concatenate([m.reshape(-1, m.shape[-1]) for m in maps])
    result = 0.0
    for i in range(2 * samples):
        for j in range(2 * samples):
            weight = weight_y[:, :, None, i] * weight_x[:, None, :, j]
            index = y[:, :, None, i] + x[:, None, :, j]
            result += weight[..., None] * cells.at[index].get(mode="promise_in_bounds")
    return result.astype(cells.dtype)


def corners(start, end, length, bins, samples, aligned):
    """Where the samples along one axis of the boxes read, and with which weight.

    Args:
        start: where each box starts, in cells, float32 `[R]`.
        end: where each box ends.
        length: number of cells of each box's map, int `[R]`.
        bins: see `roi_align`, and so `samples` and `aligned`.

    Returns:
        The two cells that each sample of each bin reads, int32 `[R,bins,2·samples]`; and their weights. The weights of a bin add up to 1,
        unless samples of it are outside the map.
    """
    size = end - start
    if aligned:
        start = start - 0.5
    else:
        size = jnp.maximum(size, 1)
    # Exact for simple fractions, so that a sample on the limit of its map is not rounded to outside.
    fraction = ((np.arange(bins * samples) + 0.5) / (bins * samples)).reshape(bins, samples)
    position = start[:, None, None] + fraction.astype(start.dtype) * size[:, None, None]
    last = length[:, None, None] - 1
    inside = (position >= -1) & (position <= last + 1)
    position = jnp.clip(position, 0, last)
    low = jnp.floor(position).astype(jnp.int32)
    high = jnp.minimum(low + 1, last)
    share = position - low
    weights = jnp.concatenate([1 - share, share], -1) * jnp.tile(inside, 2) / samples
    return jnp.concatenate([low, high], -1), weights
