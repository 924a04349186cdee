"""Resizing and pooling of maps `[B,h,w,C]`. In padded maps (see `extent`), only the image's part is read."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Shaped

from ctxseg.models import extent
from ctxseg.models.layers import Conv
from ctxseg.models.shapes import Array


def interpolation(length: int, size: int) -> Float32[np.ndarray, "{size} {length}"]:
    """The matrix of linear interpolation from `length` samples to `size` positions, with half-pixel centres.

    Output i reads position (i + ½)·length/size − ½, clamped to the first and the last sample, without antialiasing.
    """
    position = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(length))).astype(np.float32)


def _cubic(position, valid, length, xp):
    """The matrix of cubic interpolation, `[…,length]`, at each `position` of the first `valid` of `length` samples.

    As in PyTorch (Keys 1981 with a = −3/4): four samples have weights; outside of the first and the last sample, that sample is repeated.
    """
    a, first = -0.75, xp.floor(position)
    matrix = 0.0
    for tap in (-1, 0, 1, 2):
        d = xp.abs(position - first - tap)
        near, far = ((a + 2) * d - (a + 3)) * d * d + 1, (((d - 5) * d + 8) * d - 4) * a
        sample = xp.clip(first + tap, 0, valid - 1)
        matrix += xp.where(d <= 1, near, far)[..., None] * (sample[..., None] == xp.arange(length))
    return matrix


def resize(
    x: Shaped[Array, "b h w c"],
    size: extent.Size,
    method: Literal["bilinear", "nearest", "bicubic"] = "bilinear",
    grid: bool = False,
    lengths: tuple[Any, Any] | None = None,
) -> Shaped[Array, "b _ _ c"]:
    """`x` resized to `size`, of the same dtype, with half-pixel centres and without antialiasing.

    `bilinear` is two small matrix products. Their gradients are matrix products too; the gradient of a gather would be a scatter.
    `bicubic` is the same with other weights. `nearest` reads pixel ⌊(i + ½)·h/size⌋ and accepts any dtype.

    In padded maps (see `extent`), the image's part of `x` is resized to the image's part of the result.

    Args:
        x: a map.
        size: height and width of the result.
        method: `bilinear`, `nearest`, or `bicubic`, which equals PyTorch's.
        grid: whether `x` is a grid of cells over the whole image, which has no padding.
        lengths: the image's (rows, columns) in `x` and in the result, each int32 `[B]`; None: those of the current `extent.padded`.
    """
    if lengths is None and extent.lengths(size) is not None:
        before = x.shape[1:3] if grid else extent.lengths(x.shape[1:3])
        lengths = (before, extent.lengths(size))
    if lengths is not None:
        return _resize_part(x, size, method, *lengths)
    if x.shape[1:3] == tuple(size):
        return x
    if method == "nearest":
        rows, columns = (
            ((np.arange(n) + 0.5) * m / n).astype(np.int32) for m, n in zip(x.shape[1:3], size, strict=True)
        )
        return x[:, rows][:, :, columns]
    if method == "bicubic":
        positions = ((np.arange(n) + 0.5) * m / n - 0.5 for m, n in zip(x.shape[1:3], size, strict=True))
        rows, columns = (_cubic(p, m, m, np).astype(np.float32) for p, m in zip(positions, x.shape[1:3], strict=True))
    else:
        rows, columns = (interpolation(m, n) for m, n in zip(x.shape[1:3], size, strict=True))
    x32 = x.astype(jnp.float32)
    # Full precision: TPUs multiply in bfloat16 by default, which would round the interpolation weights too.
    return jnp.einsum("Hh,bhwc,Ww->bHWc", rows, x32, columns, precision="highest").astype(x.dtype)


def _resize_part(x, size, method, before, after):
    """`resize` of a padded map. The image has `before` rows and columns in `x`, and `after` in the result."""
    sources = []  # [B,out]: the position in x that each row and column reads
    for out, m, n in zip(size, before, after, strict=True):
        m, n = (jnp.broadcast_to(jnp.asarray(v), x.shape[:1])[:, None] for v in (m, n))
        doubled = (2 * jnp.arange(out) + 1) * m  # whole numbers, so that nothing is rounded before the division
        if method == "nearest":
            sources.append(jnp.minimum(doubled // (2 * n), m - 1))
        elif method == "bicubic":
            sources.append(doubled / (2 * n) - 0.5)
        else:
            sources.append(jnp.clip(doubled / (2 * n) - 0.5, 0, m - 1))
    if method == "nearest":
        rows, columns = sources
        x = jnp.take_along_axis(x, rows[:, :, None, None], axis=1)
        return jnp.take_along_axis(x, columns[:, None, :, None], axis=2)
    if method == "bicubic":
        valid = (jnp.broadcast_to(jnp.asarray(m), x.shape[:1])[:, None] for m in before)
        rows, columns = (_cubic(p, m, n, jnp) for p, m, n in zip(sources, valid, x.shape[1:3], strict=True))
    else:
        rows, columns = (
            jnp.maximum(0, 1 - jnp.abs(position[..., None] - jnp.arange(n)))
            for position, n in zip(sources, x.shape[1:3], strict=True)
        )
    x32 = x.astype(jnp.float32)
    return jnp.einsum("bHh,bhwc,bWw->bHWc", rows, x32, columns, precision="highest").astype(x.dtype)


class Upsample2(nn.Module):
    """Learned 2× upsampling: a 3×3 convolution to four maps, which are interleaved.

    It computes the same linear maps as a 6×6 transposed convolution of stride 2, as an ordinary convolution (Shi et al., CVPR 2016).
    Value (2y+i, 2x+j, c) is channel (2i+j)·features + c of the convolution at (y, x).
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"]) -> Float[Array, "b 2*h 2*w {self.features}"]:
        b, h, w, _ = x.shape
        y = Conv(4 * self.features, 3, dtype=self.dtype, name="conv")(x)
        y = y.reshape(b, h, w, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(b, 2 * h, 2 * w, self.features)


def area_resize(x: Float[Array, "b h w c"], size: extent.Size) -> Float[Array, "b _ _ c"]:
    """`x` resized to a coarser `size`, of the same dtype: each position is the mean of the positions that it covers (see `bins`).

    In padded maps (see `extent`), the image's part of `x` is averaged to the image's part of the result.
    """
    before, after = extent.lengths(x.shape[1:3]), extent.lengths(size)
    if x.shape[1:3] == tuple(size):
        return x
    if before is None or after is None:
        return average_pool(x, size)
    rows, columns = (_bins_of_part(m, h, n, k) for m, h, n, k in zip(before, x.shape[1:3], after, size, strict=True))
    x32 = extent.clear(x.astype(jnp.float32))
    return jnp.einsum("bkh,bhwc,blw->bklc", rows, x32, columns, precision="highest").astype(x.dtype)


def bins(length: int, count: int) -> Float32[np.ndarray, "{count} {length}"]:
    """The matrix that averages `length` samples in `count` bins; bin i reaches from ⌊i·length/count⌋ to ⌈(i+1)·length/count⌉.

    No bin is empty. Neighbouring bins overlap if `count` does not divide `length` (adaptive pooling, as in PSPNet).
    """
    i, position = np.arange(count)[:, None], np.arange(length)
    inside = (position >= i * length // count) & (position < -(-(i + 1) * length // count))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def average_pool(x: Float[Array, "b h w c"], size: tuple[int, ...]) -> Float[Array, "b {size[0]} {size[1]} c"]:
    """The mean over each cell of a grid of `size` cells (see `bins`), of the same dtype."""
    lengths = extent.lengths(x.shape[1:3])
    if lengths is not None:
        rows, columns = (_bins_of_part(m, n, k, k) for m, n, k in zip(lengths, x.shape[1:3], size, strict=True))
        x32 = extent.clear(x.astype(jnp.float32))
        return jnp.einsum("bkh,bhwc,blw->bklc", rows, x32, columns, precision="highest").astype(x.dtype)
    rows, columns = (bins(n, k) for n, k in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("kh,bhwc,lw->bklc", rows, x.astype(jnp.float32), columns, precision="highest").astype(x.dtype)


def _bins_of_part(valid, length, count, size):
    """`bins` of the first samples of each image, those without padding: float32 `[B,size,length]`.

    Args:
        valid: number of these samples, int32 `[B]`.
        length: number of samples, with padding.
        count: number of bins, or int32 `[B]`.
        size: rows of the result; the rows from `count` on are 0.
    """
    valid, count = (jnp.broadcast_to(n, valid.shape)[:, None, None] for n in (valid, count))
    i, position = jnp.arange(size)[:, None], jnp.arange(length)
    inside = (position >= i * valid // count) & (position < -(-(i + 1) * valid // count)) & (i < count)
    return inside / jnp.maximum(inside.sum(-1, keepdims=True), 1)


def max_pool(
    x: Float[Array, "b h w c"], size: int, stride: int, padding: int | Literal["SAME", "CAFFE"]
) -> Float[Array, "b _ _ c"]:
    """Maximum over size×size windows, padded by −∞: → `[B,⌊(h+2·padding−size)/stride⌋+1,…,C]`.

    `padding` is a number of rows and columns, `SAME` or `CAFFE`. `SAME`, for windows of 2 and stride 2, adds a row or column at the end
    if the size is odd. `CAFFE`, for windows of 3 and stride 2, pads by 1 and rounds the size up: `[B,⌊h/2⌋+1,⌊w/2⌋+1,C]`. If the size is
    even, only one row or column of the last window is not padding.
    """
    pairs: str | Sequence[tuple[int, int]]
    if padding == "SAME":
        pairs = padding
    elif padding == "CAFFE":
        pairs = [(1, 2 - n % 2) for n in x.shape[1:3]]
    else:
        pairs = ((padding, padding), (padding, padding))
    return nn.max_pool(extent.clear(x, -jnp.inf), (size, size), (stride, stride), pairs)


def window_mean(x: Float[Array, "b h w c"], size: int, stride: int = 1) -> Float[Array, "b _ _ c"]:
    """Sum over the size×size window around every `stride`-th position, size odd, divided by size². Outside the map there are zeros.

    The divisor is size² at the border too, as in Caffe's average pooling and PyTorch's default. → `[B,⌈h/stride⌉,⌈w/stride⌉,C]`.
    """
    half = size // 2
    x32 = extent.clear(x.astype(jnp.float32))
    return nn.avg_pool(x32, (size, size), (stride, stride), ((half, half), (half, half))).astype(x.dtype)


def cell_mean(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b _ _ c"]:
    """The mean over each cell of size×size positions: → `[B,⌈h/size⌉,⌈w/size⌉,C]`. The last cells may have fewer positions."""
    if size == 1:
        return x
    cells = partial(nn.avg_pool, window_shape=(size, size), strides=(size, size), padding="SAME")
    mask = extent.inside(x.shape[1:3])
    if mask is None:
        return cells(x.astype(jnp.float32), count_include_pad=False).astype(x.dtype)
    share = cells(mask[..., None].astype(jnp.float32))  # of each cell's positions
    return (cells(extent.clear(x.astype(jnp.float32))) / jnp.maximum(share, size**-2)).astype(x.dtype)


def repeat(x: Float[Array, "b h w c"], factor: int, size: extent.Size) -> Float[Array, "b _ _ c"]:
    """`x` with each row and column `factor` times, cropped to `size`: position i is position ⌊i/factor⌋ of `x`."""
    b, h, w, c = x.shape
    y = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
    return y.reshape(b, h * factor, w * factor, c)[:, : size[0], : size[1]]
