"""Convolution, normalisation, resizing and pooling: the only file that calls `lax.conv` or `jax.image`.

Maps are `[B,h,w,C]`. Parameters and batch statistics are float32; computation is in `dtype`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _plain_conv(x, kernel, stride, dilation):
    pad = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _cpu_weight_gradient(x, dy, size, stride, dilation):
    """Gradient of the kernel, one matrix product per tap: `x` `[B,h,w,I]`, `dy` `[B,h',w',O]` → `[size,size,I,O]`."""
    pad = dilation * (size // 2)
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((n - 1) * stride + 1 for n in dy.shape[1:3])
    dy = dy.reshape(-1, dy.shape[-1])
    taps = [
        x[:, i : i + height : stride, j : j + width : stride].reshape(-1, x.shape[-1]).T @ dy
        for i in range(0, size * dilation, dilation)
        for j in range(0, size * dilation, dilation)
    ]
    return jnp.stack(taps).reshape(size, size, *taps[0].shape)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x, kernel, stride: int = 1, dilation: int = 1):
    """Convolution of `x` `[B,h,w,I]` by `kernel` `[k,k,I,O]`, padded by `dilation·⌊k/2⌋` → `[B,⌈h/stride⌉,⌈w/stride⌉,O]`.

    XLA computes the gradient of the kernel several times slower on CPUs than the convolution itself, so there, and only
    there, it is k² matrix products, and a 1×1 convolution is one. Reverse-mode derivatives only.
    """

    def pointwise(x, kernel):
        x = x[:, ::stride, ::stride]
        return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)

    plain = partial(_plain_conv, stride=stride, dilation=dilation)
    return lax.platform_dependent(x, kernel, cpu=pointwise if kernel.shape[0] == 1 else plain, default=plain)


def _conv_forward(x, kernel, stride, dilation):
    return conv(x, kernel, stride, dilation), (x, kernel)


def _conv_backward(stride, dilation, residuals, dy):
    def plain(x, kernel, dy):
        return jax.vjp(partial(_plain_conv, stride=stride, dilation=dilation), x, kernel)[1](dy)

    def cpu(x, kernel, dy):
        if kernel.shape[0] == 1:
            dx = jnp.einsum("bhwo,io->bhwi", dy, kernel[0, 0])
            dx = _place(dx, x.shape, stride)
        else:
            (dx,) = jax.vjp(lambda x: _plain_conv(x, kernel, stride, dilation), x)[1](dy)
        return dx, _cpu_weight_gradient(x, dy, kernel.shape[0], stride, dilation).astype(kernel.dtype)

    return lax.platform_dependent(*residuals, dy, cpu=cpu, default=plain)


conv.defvjp(_conv_forward, _conv_backward)


def _place(x, shape, stride):
    """`x` at every `stride`-th position of a map of `shape`, zeros between: the transpose of `[:, ::stride, ::stride]`."""
    if stride == 1:
        return x
    extra = [(0, n - (m - 1) * stride - 1, stride - 1) for m, n in zip(x.shape[1:3], shape[1:3], strict=True)]
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *extra, (0, 0, 0)))


class Conv(nn.Module):
    """k×k convolution, padded by `dilation·⌊k/2⌋` on every side: `[B,h,w,·]` → `[B,⌈h/stride⌉,⌈w/stride⌉,features]`, k odd.

    The padding is that of the published weights (symmetric); XLA's "SAME" pads an even map of stride 2 on one side only.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.he_normal()

    @nn.compact
    def __call__(self, x):
        k = self.kernel_size
        kernel = self.param("kernel", self.kernel_init, (k, k, x.shape[-1], self.features), self.param_dtype)
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.dilation)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype).astype(self.dtype)
        return y


class Norm(nn.Module):
    """Batch normalisation (`batch`) or the identity (`none`): `[B,h,w,C]` → the same shape, in `dtype`.

    Attributes:
        kind: `batch` or `none`.
        axis_name: of the `pmap` axis that the statistics are reduced over, or None.
        dtype: of the result; the statistics are float32.
    """

    kind: Literal["batch", "none"] = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        if self.kind == "none":
            return x
        return nn.BatchNorm(
            use_running_average=not train,
            momentum=0.9,
            epsilon=1e-5,
            axis_name=self.axis_name,
            dtype=self.dtype,
            name="bn",
        )(x)


class ConvNorm(nn.Module):
    """Convolution, normalisation, ReLU: `[B,h,w,·]` → `[B,⌈h/stride⌉,⌈w/stride⌉,features]`. The bias is there if `norm` is `none`."""

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    norm: Literal["batch", "none"] = "batch"
    relu: bool = True
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool):
        use_bias = self.norm == "none"
        x = Conv(self.features, self.kernel_size, self.stride, self.dilation, use_bias, self.dtype, name="conv")(x)
        x = Norm(self.norm, self.axis_name, self.dtype, name="norm")(x, train)
        return nn.relu(x) if self.relu else x


def interpolation(length: int, size: int) -> np.ndarray:
    """Linear interpolation of `length` samples at `size` positions, pixel centres at +½: float32 `[size, length]`.

    Output i reads position (i + ½)·length/size − ½, clamped to the first and the last sample; no smoothing when shrinking.
    """
    position = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(length))).astype(np.float32)


def resize(x, size: tuple[int, int], method: Literal["bilinear", "nearest"] = "bilinear"):
    """`x` `[B,h,w,C]` → `[B,*size,C]` of the same dtype, pixel centres at +½, without antialiasing.

    `bilinear` is two small matrix products, whose gradients are matrix products again (a gather's would be a scatter).
    `nearest` reads pixel ⌊(i + ½)·h/size⌋ and takes any dtype.
    """
    if x.shape[1:3] == tuple(size):
        return x
    if method == "nearest":
        rows, columns = (
            ((np.arange(n) + 0.5) * m / n).astype(np.int32) for m, n in zip(x.shape[1:3], size, strict=True)
        )
        return x[:, rows][:, :, columns]
    rows, columns = (interpolation(m, n) for m, n in zip(x.shape[1:3], size, strict=True))
    x32 = x.astype(jnp.float32)
    return jnp.einsum("Hh,bhwc,Ww->bHWc", rows, x32, columns).astype(x.dtype)


def max_pool(x, size: int, stride: int, padding: int):
    """Maximum over size×size windows, padded by −∞ on every side: `[B,h,w,C]` → `[B,⌊(h+2·padding−size)/stride⌋+1,…,C]`."""
    return nn.max_pool(x, (size, size), (stride, stride), ((padding, padding), (padding, padding)))
