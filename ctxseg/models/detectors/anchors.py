"""Anchors: the boxes at every position of a map, relative to which the proposals are coded (Faster R-CNN, §3.1.1)."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from ctxseg.models.shapes import Array


def base_anchors(size: float, ratios: Sequence[float], rounded: bool) -> Float32[np.ndarray, "a 4"]:
    """Boxes of area size² centred on (0, 0), one for each ratio = height / width.

    Args:
        size: square root of the area, in pixels.
        ratios: heights divided by widths.
        rounded: whether the coordinates are rounded to whole pixels, half to even, as in torchvision.
    """
    height = size * np.sqrt(np.asarray(ratios, np.float64))
    width = size**2 / height
    boxes = np.stack([-width, -height, width, height], -1) / 2
    return (np.round(boxes) if rounded else boxes).astype(np.float32)


def grid_anchors(
    shape: tuple[int, int], stride: tuple[int, int], base: Float32[np.ndarray, "a 4"]
) -> Float32[Array, "n 4"]:
    """The boxes `base` at every position of a map, row by row; those of one position are neighbours.

    Args:
        shape: height and width of the map.
        stride: rows and columns of the image between neighbouring positions. Position (y, x) has its centre at (y·stride, x·stride).
        base: boxes centred on (0, 0), see `base_anchors`.

    Returns:
        float32 `[h·w·a,4]`, in pixels of the image.
    """
    y, x = (jnp.arange(n, dtype=jnp.float32) * s for n, s in zip(shape, stride, strict=True))
    y, x = jnp.broadcast_arrays(y[:, None], x)
    return (jnp.stack([x, y, x, y], -1)[:, :, None] + base).reshape(-1, 4)
