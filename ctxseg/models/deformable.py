"""Deformable convolution (Dai et al., ICCV 2017, §2.1): every tap of the kernel reads at a position of its own.

    y(p) = Σ_n w(n) · x(s·p + d·n + Δ(p, n))

n runs over the taps, from the centre of the kernel; s is the stride, d the dilation and Δ the offsets, which another convolution computes.
Values between positions are interpolated bilinearly, and those outside the map are 0.

It is two operations: the values of all taps are read, `[B,h',w',k,l,C]`, and multiplied with the kernel by one matrix product. The backward
pass keeps these values, k·l times as many as the map has at stride 1, unless `config.model.remat` says otherwise.
`benchmarks/deformable.py` measures the speed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ctxseg.models import extent, initial
from ctxseg.models.convolution import convolve, materialize
from ctxseg.models.shapes import Array


class DeformableConv(nn.Module):
    """k×k deformable convolution, k odd: → `[B,⌈h/stride⌉,⌈w/stride⌉,features]`.

    Parameters: `kernel` `[k,k,C,features]` and, if `use_bias`, `bias` `[features]`, as those of `Conv`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = initial.he_normal()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w _"], offsets: Float[Array, "b y x g {self.kernel_size} {self.kernel_size} 2"]
    ) -> Float[Array, "b y x {self.features}"]:
        """`offsets` are those of `deformable_convolve`. The map is 0 beyond the image (see `extent`), as it is outside the map."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x = extent.clear(x)
        y = deformable_convolve(x.astype(self.dtype), offsets, kernel.astype(self.dtype), self.stride, self.dilation)
        extent.record_strided(x.shape[1:3], y.shape[1:3], self.stride)
        if self.use_bias:
            # In float32, as in `Conv`.
            y = (y + self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)).astype(self.dtype)
        return y


def deformable_convolve(
    x: Float[Array, "b h w c"],
    offsets: Float[Array, "b y x g k l 2"],
    kernel: Float[Array, "k l c o"],
    stride: int = 1,
    dilation: int = 1,
) -> Float[Array, "b y x o"]:
    """Deformable convolution of `x` with `kernel`, of the same dtype: → `[B,⌈h/stride⌉,⌈w/stride⌉,O]`.

    Tap (i, j) of the result at (y, x) reads `x` at row y·stride + (i − ⌊k/2⌋)·dilation + Δy and column
    x·stride + (j − ⌊l/2⌋)·dilation + Δx. With offsets of 0 this is `convolve`. Differentiable in reverse mode only.

    Args:
        x: a map.
        offsets: (Δy, Δx) of every tap at every position of the result, in positions of `x`. Each of the g groups is for c/g successive
            channels. Positions are computed in float32, or in the offsets' dtype if that has more bits.
        kernel: k and l are odd, and g divides c.
        stride: positions of `x` between those of the result.
        dilation: positions of `x` between the taps.
    """
    taps = _read(x, offsets, stride, dilation)
    taps = taps.reshape(*taps.shape[:3], -1)
    return convolve(taps, kernel.reshape(1, 1, -1, kernel.shape[-1]))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _read(x, offsets, stride, dilation):
    """The values that the taps read, `[B,h',w',k,l,g,C/g]`."""
    return _read_forward(x, offsets, stride, dilation)[0]


# `jit`: traced and lowered once for each shape, as in `convolution`.
@partial(jax.jit, static_argnums=(2, 3))
def _read_forward(x, offsets, stride, dilation):
    x = materialize(x)
    cells, total = _cells(x, offsets), 0.0
    for index, weight, _ in _corners(_positions(offsets, stride, dilation), _images(x, offsets), *x.shape[1:3]):
        total += weight[..., None] * cells.at[index].get(mode="promise_in_bounds")
    return total.astype(x.dtype), (x, offsets)


@partial(jax.jit, static_argnums=(0, 1))
def _read_backward(stride, dilation, residuals, gradient):
    """The gradients of `x` and of `offsets`. On CPUs, rows of channels are added in a loop over the rows of the result: with its small
    intermediate results, it needs a fifth of the memory of the gradients that JAX derives, and is as fast."""
    x, offsets = residuals
    cells = _cells(x, offsets)

    def add(total, image, positions, gradient):
        slopes = 0.0
        for index, weight, slope in _corners(positions, image, *x.shape[1:3]):
            total = total.at[index].add(weight[..., None] * gradient, mode="promise_in_bounds")
            values = cells.at[index].get(mode="promise_in_bounds").astype(total.dtype)
            slopes += slope * (values * gradient).sum(-1, keepdims=True)
        return total, slopes

    def add_by_rows(total, image, positions, gradient):
        image = jnp.broadcast_to(image, (*gradient.shape[:2], *image.shape[2:]))
        rows = [a.reshape(-1, *a.shape[2:]) for a in (image, positions, gradient)]
        total, slopes = lax.scan(lambda total, row: add(total, *row), total, tuple(rows))
        return total, slopes.reshape(positions.shape)

    positions = _positions(offsets, stride, dilation)
    total = jnp.zeros(cells.shape, jnp.promote_types(x.dtype, positions.dtype))
    total, slopes = lax.platform_dependent(
        total, _images(x, offsets), positions, materialize(gradient), cpu=add_by_rows, default=add
    )
    return total.reshape(x.shape).astype(x.dtype), jnp.moveaxis(slopes, 5, 3).astype(offsets.dtype)


_read.defvjp(_read_forward, _read_backward)


def _cells(x, offsets):
    """`[B·h·w·g,C/g]`: the channels of one group at one position are one row, contiguous in memory."""
    groups = offsets.shape[3]
    return x.reshape(-1, x.shape[-1] // groups)


def _images(x, offsets):
    """Index in the batch of each image, of as many dimensions as `_corners` needs."""
    return jnp.arange(x.shape[0]).reshape(-1, *(1,) * (offsets.ndim - 2))


def _positions(offsets, stride, dilation):
    """The positions that the taps read, `[B,h',w',k,l,g,2]`."""
    height, width = offsets.shape[1:3]
    dtype = jnp.promote_types(offsets.dtype, jnp.float32)

    def along(length, size):
        return stride * jnp.arange(length)[:, None] + dilation * (jnp.arange(size) - size // 2)

    rows = along(height, offsets.shape[4])[:, None, :, None]
    columns = along(width, offsets.shape[5])[None, :, None]
    grid = jnp.stack(jnp.broadcast_arrays(rows, columns), -1)[..., None, :]
    # Materialized, because otherwise XLA on CPUs computes them once for the cells and once for the weights, see `roi_align.positions`.
    return materialize(grid.astype(dtype) + jnp.moveaxis(offsets, 3, 5))


def _corners(positions, image, height, width):
    """Of each of the four cells around every position: its index, its weight, and the derivatives of its weight, `[…,2]`.

    Args:
        positions: `[…,g,2]`.
        image: index in the batch, `[…,1]`.
        height: rows of the map.
        width: columns.
    """
    groups = positions.shape[-2]
    columns = _neighbours(positions[..., 1], width)
    for row, y, slope_y in _neighbours(positions[..., 0], height):
        for column, x, slope_x in columns:
            cell = (image * height + row) * width + column
            yield cell * groups + jnp.arange(groups), y * x, jnp.stack([slope_y * x, y * slope_x], -1)


def _neighbours(position, length):
    """The two cells around positions along one axis, with their weights and the derivatives of these; both are 0 for cells outside.

    The cells are on the map for every position. The weights of NaN are NaN.
    """
    # Farther outside, both cells are outside too. The limit keeps the numbers of cells within int32.
    position = jnp.clip(position, -2, length)
    low = jnp.floor(position)
    share, low = position - low, low.astype(jnp.int32)
    result = []
    for cell, weight, slope in ((low, 1 - share, -1), (low + 1, share, 1)):
        inside = (cell >= 0) & (cell < length)
        result.append((jnp.clip(cell, 0, length - 1), weight * inside, slope * inside))
    return result
