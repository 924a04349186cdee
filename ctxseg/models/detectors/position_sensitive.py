"""Position-sensitive RoI pooling (Dai et al., R-FCN, NeurIPS 2016, eq. 1; Li et al., FCIS, CVPR 2017, §3): each bin reads its own maps."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ctxseg.models.convolution import materialize
from ctxseg.models.detectors.roi_align import stack
from ctxseg.models.detectors.windows import Run, read
from ctxseg.models.shapes import Array

WHOLE = 1e-4  # cells; a limit of a bin that is nearer than this to a whole number is moved to it, since it differs by rounding only


def ps_roi_pool(
    maps: Sequence[Float[Array, "b _ _ g"]],
    boxes: Float[Array, "r 4"],
    images: Int[Array, " r"],
    levels: Int[Array, " r"],
    scales: Sequence[float],
    bins: int,
    groups: int,
    lengths: Int[Array, "r 2"] | None = None,
    rounding: Literal["torchvision", "release"] = "torchvision",
) -> Float[Array, "r {bins} {bins} c"]:
    """The mean, in every bin of a grid over every box, of the cells of the bin. Each bin reads the channels of its group.

    In cells of its map, a box starts at `start` and is `size` long. Bin p has the rows (or columns) of the map from ⌊start + p·size/bins⌋
    to ⌈start + (p + 1)·size/bins⌉, exclusive. A bin without cells is 0, and so is a bin of a box that is not finite. Both limits are as
    in exact arithmetic. The publishers round in float32, and for a few sizes read a further cell: torchvision for 57 cells in 7 bins.

    Gradients with respect to maps, in reverse mode.

    Args:
        maps: maps of several strides, with groups·groups·c channels, in the order [groups, groups, c]: row of the group, column of the
            group, channel.
        boxes: boxes, in pixels of the image.
        images: index in the batch of each box.
        levels: index in `maps` of each box.
        scales: cells of each map per pixel of the image: 1/stride.
        bins: rows and columns of the grid.
        groups: rows and columns of groups. Bin (p, q) reads group (⌊p·groups/bins⌋, ⌊q·groups/bins⌋).
        lengths: rows and columns of each box's map that belong to the image; the others are not read. None: all.
        rounding: how a box is rounded. `torchvision`: to whole cells, halves away from 0, and it has at least 1 cell. As in torchvision,
            the last row and the last column of a map are not read. `release`: as in the release of FCIS, to whole pixels, halves up, and
            it has at least 0.1 cells.
    """
    boxes = jax.lax.stop_gradient(boxes)
    cells, source = stack(maps, images, levels, lengths)
    cells = cells.reshape(len(cells) * groups**2, cells.shape[1] // groups**2)
    scale = jnp.asarray(scales, boxes.dtype)[levels][:, None]
    if rounding == "release":
        boxes, smallest, unread = jnp.floor(boxes + 0.5) * scale, 0.1, 0
    else:
        boxes = boxes * scale
        boxes, smallest, unread = jnp.sign(boxes) * jnp.floor(jnp.abs(boxes) + 0.5), 1, 1
    size = jnp.maximum(boxes[:, 2:] - boxes[:, :2], smallest)
    fractions = (np.arange(bins + 1) / bins).astype(boxes.dtype)
    limits = boxes[:, :2, None] + size[..., None] * fractions  # [r,2,bins+1]
    near = jnp.round(limits)
    limits = jnp.where(jnp.abs(limits - near) < WHOLE, near, limits)
    limits = materialize(jnp.where(jnp.isfinite(limits), limits, 0))  # as in `roi_align.positions`
    group = np.arange(bins) * groups // bins
    first, count = _cells(limits[:, 1], source.rows - unread)
    first = (source.start[:, None] + first * source.width[:, None]) * groups**2 + group * groups
    rows = Run(first[..., None], groups**2 * source.width[:, None, None], count[..., None])
    first, count = _cells(limits[:, 0], source.columns - unread)
    first = first * groups**2 + group
    columns = Run(first[:, None], jnp.full((len(boxes), 1, 1), groups**2, jnp.int32), count[:, None])
    return read(cells, rows, columns)


def _cells(limits, length):
    """First cell and number of cells of each bin along one axis, int32 `[r,bins]`, of limits `[r,bins+1]` in a map of `length` `[r]`."""
    length = length[:, None]
    first = jnp.clip(jnp.floor(limits[:, :-1]), 0, length).astype(jnp.int32)
    end = jnp.clip(jnp.ceil(limits[:, 1:]), 0, length).astype(jnp.int32)
    # An empty bin beyond the end reads a cell that exists, with weight 0.
    return jnp.minimum(first, jnp.maximum(length - 1, 0)).astype(jnp.int32), jnp.maximum(end - first, 0)
