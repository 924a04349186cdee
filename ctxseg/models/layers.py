"""Convolution, normalisation and dropout layers.

Maps are `[B,h,w,C]`. Parameters and batch statistics are float32; computation is in `dtype`. Sums of many values are float32 in any case:
bfloat16 has 8 significant bits, so adding ones stops at 256. The gradient of a value that is used at many positions is such a sum too.
"""

import fnmatch
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Float32

from ctxseg.errors import UserError
from ctxseg.models import extent, initial
from ctxseg.models.convolution import convolve, convolve_depthwise, materialize
from ctxseg.models.deformable import DeformableConv
from ctxseg.models.shapes import Array


class Conv(nn.Module):
    """k×k convolution, k odd: → `[B,⌈h/stride⌉,⌈w/stride⌉,features]`.

    Parameters: `kernel` `[k,k,C,features]` and, if `use_bias`, `bias` `[features]`. A pair as `kernel_size` is height and width.
    `before`: rows and columns of padding above and to the left; None: `dilation·⌊k/2⌋` on every side. `depthwise`: each channel has its
    own kernel, `[k,k,1,features]`; `features` is then the number of channels of the input. `groups`: as many convolutions, each from and to
    an equal part of the channels; the kernel is `[k,k,C/groups,features]`.
    """

    features: int
    kernel_size: int | tuple[int, int] = 1
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    kernel_init: Callable = initial.he_normal()
    before: int | None = None
    depthwise: bool = False
    groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"]) -> Float[Array, "b _ _ {self.features}"]:
        size = self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size,) * 2
        channels = 1 if self.depthwise else x.shape[-1] // self.groups
        kernel = self.param("kernel", self.kernel_init, (*size, channels, self.features), self.param_dtype)
        if max(size) > 1:
            x = extent.clear(x)
        convolution = convolve_depthwise if self.depthwise else convolve
        parts = [jnp.split(a.astype(self.dtype), self.groups, axis=-1) for a in (x, kernel)]
        ys = [convolution(*pair, self.stride, self.dilation, self.before) for pair in zip(*parts, strict=True)]
        y = jnp.concatenate(ys, axis=-1) if len(ys) > 1 else ys[0]
        extent.record_strided(x.shape[1:3], y.shape[1:3], self.stride)
        if self.use_bias:
            # The bias is added in float32, since its gradient is a sum over all positions.
            y = (y + self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)).astype(self.dtype)
        return y


def promote_all_but_bias(inputs, kernel, bias, dtype):
    """`promote_dtype` of flax's dense layers that leaves the bias, and so the result, in float32, since the bias's gradient is a sum."""
    return inputs.astype(dtype), kernel.astype(dtype), bias


EPSILON, MOMENTUM = 1e-5, 0.9


def is_frozen(path: tuple[str, ...], frozen: tuple[str, ...]) -> bool:
    """Whether `path`, joined by '/', begins with one of the prefixes in `frozen`; `backbone/conv1` matches conv1_2 too.

    `*` in a prefix stands for any text: `backbone/*/norm`.
    """
    # `MultiScale` shares its scope with `segmenter`: the paths of modules contain that name, the names of parameters do not.
    if path[:1] == ("segmenter",):
        path = path[1:]
    name = "/".join(path)
    return any(
        fnmatch.fnmatchcase(name, f"{prefix}*") if "*" in prefix else name.startswith(prefix) for prefix in frozen
    )


class Norm(nn.Module):
    """Batch normalisation (`batch`), in `dtype`, or the identity (`none`).

    Parameters: `scale` and `bias`. Batch statistics: `mean` and `var`, running averages with momentum 0.9. All are float32 `[C]`.

    Attributes:
        kind: `batch` or `none`.
        axis_name: `pmap` axis over which the statistics are averaged, or None.
        dtype: dtype of the result.
        frozen: name prefixes (see `is_frozen`) of the layers that use their running statistics in training too.
        epsilon: added to the variance.
    """

    kind: Literal["batch", "none"] = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    frozen: tuple[str, ...] = ()
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """With `train`, normalises by the statistics of this batch, and updates the running ones if `batch_stats` is mutable.

        Raises:
            UserError: the whole batch has only one position, which would always be normalised to 0.
        """
        if self.kind == "none":
            return x
        channels = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, channels, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, channels, jnp.float32)
        if not train or is_frozen(self.path, self.frozen):
            return _normalize(x, mean.value, lax.rsqrt(var.value + self.epsilon), scale, bias).astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name  # `init` runs outside `pmap`
        if not self.is_initializing() and x.shape[:3] == (1, 1, 1) and (not axis_name or lax.axis_size(axis_name) == 1):
            sections = [section for section in ("context", "connections") if section in self.path]
            raise UserError(
                f"config.train.batch_size / config.train.micro_batches is 1, but {'/'.join(self.path)} normalises a map of one position "
                "over that many images, so all values would be 0: make it 2 or more"
                + "".join(f", or config.model.{section}.norm to none" for section in sections)
            )
        y, batch_mean, batch_var = batch_norm(x, scale, bias, axis_name, self.epsilon)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            # The biased variance, as in flax and TensorFlow. PyTorch's is n/(n − 1) times as large, for n positions in a batch.
            mean.value = MOMENTUM * mean.value + (1 - MOMENTUM) * batch_mean
            var.value = MOMENTUM * var.value + (1 - MOMENTUM) * batch_var
        return y.astype(self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: Float[Array, "b h w c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    axis_name: str | None = None,
    epsilon: float = EPSILON,
) -> tuple[Float32[Array, "b h w c"], Float32[Array, " c"], Float32[Array, " c"]]:
    """Normalises `x` by its mean and variance over all positions and all devices of `axis_name` (Ioffe & Szegedy 2015).

        x̂ = (x − mean) / √(var + ε)        y = scale·x̂ + bias
        ∂x = scale/√(var + ε) · (∂y − mean(∂y) − x̂·mean(∂y·x̂))

    The only map that the backward pass needs is `x`, so no centred or normalised copy is stored.

    Returns:
        y, mean, biased variance; no gradient flows through the latter two.
    """
    return _batch_norm_forward(x, scale, bias, axis_name, epsilon)[0]


@partial(jax.jit, static_argnums=(3, 4))  # traced and lowered once for each shape, as in `convolution`
def _batch_norm_forward(x, scale, bias, axis_name, epsilon):
    x32 = x.astype(jnp.float32)
    mean = _mean(x32, axis_name)
    # Not E[x²] − mean²: in float32, no digit of that difference is right if the mean is a few thousand times the deviation.
    var = _mean(jnp.square(x32 - mean), axis_name)
    deviation = lax.rsqrt(var + epsilon)
    return (_normalize(x, mean, deviation, scale, bias), mean, var), (x, mean, deviation, scale)


@partial(jax.jit, static_argnums=(0, 1))
def _batch_norm_backward(axis_name, epsilon, residuals, gradients):
    x, mean, deviation, scale = residuals
    dy = gradients[0]
    normalized = (x.astype(jnp.float32) - mean) * deviation
    dscale, dbias = (dy * normalized).sum((0, 1, 2)), dy.sum((0, 1, 2))
    positions = dy.size // dy.shape[-1]
    a, b = dscale / positions, dbias / positions
    if axis_name is not None:
        a, b = lax.pmean((a, b), axis_name)
    return (scale * deviation * (dy - b - normalized * a)).astype(x.dtype), dscale, dbias


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _mean(x, axis_name):
    mean = x.mean((0, 1, 2))
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def _normalize(x, mean, deviation, scale, bias):
    return (x.astype(jnp.float32) - mean) * (deviation * scale) + bias


class Dropout(nn.Module):
    """Zeroes each value with probability `rate` when training, and scales the others by 1/(1 − rate) (Srivastava et al. 2014).

    The mask of an image depends on its index in the batch over all devices of `axis_name`, not on the number of devices.
    Needs the random stream `dropout`.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], train: bool) -> Float[Array, "*shape"]:
        if not train or self.rate == 0:
            return x
        return jnp.where(_kept(self, self.rate, x.shape), x / (1 - self.rate), 0)


def _kept(module, rate, shape):
    """Which values of a batch of this shape are kept, bool. Those of an image depend on its index in the batch over all devices."""
    first = 0 if module.axis_name is None or module.is_initializing() else lax.axis_index(module.axis_name) * shape[0]
    keys = jax.vmap(partial(jax.random.fold_in, module.make_rng("dropout")))(first + jnp.arange(shape[0]))
    return jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape[1:]))(keys)


class StochasticDepth(nn.Module):
    """Zeroes a whole sample with probability `rate` when training, and scales the others by 1/(1 − rate) (Huang et al., ECCV 2016).

    It is applied to the branch of a residual block. The mask does not depend on the number of devices, as in `Dropout`.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], rate: Any, train: bool) -> Float[Array, "*shape"]:
        """`rate`: a number, or a scalar array."""
        if not train:
            return x
        kept = _kept(self, rate, (x.shape[0], *(1,) * (x.ndim - 1)))
        return jnp.where(kept, x / (1 - jnp.asarray(rate, x.dtype)), 0)


class ConvNorm(nn.Module):
    """Convolution, normalisation, ReLU: → `[B,⌈h/stride⌉,⌈w/stride⌉,features]`.

    The convolution has a bias if `norm` is `none`. `deformable`: number of groups of channels with offsets of their own; 0: a plain
    convolution. The offsets are a convolution too, `offset`, which starts from 0, so that the initial network is that with plain
    convolutions. The other attributes are those of `Conv` and `Norm`; `before`, `depthwise` and `groups` are for plain convolutions.
    """

    features: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    norm: Literal["batch", "none"] = "batch"
    relu: bool = True
    axis_name: str | None = None
    dtype: Any = jnp.float32
    frozen: tuple[str, ...] = ()
    epsilon: float = EPSILON
    before: int | None = None
    depthwise: bool = False
    groups: int = 1
    deformable: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float[Array, "b _ _ {self.features}"]:
        sizes = (self.kernel_size, self.stride, self.dilation)
        settings: dict[str, Any] = {"use_bias": self.norm == "none", "dtype": self.dtype, "name": "conv"}
        if self.deformable:
            k = self.kernel_size
            zeros, count = nn.initializers.zeros, 2 * self.deformable * k * k
            offsets = Conv(count, *sizes, kernel_init=zeros, name="offset")(x)  # in float32, as they are positions
            offsets = offsets.reshape(*offsets.shape[:3], self.deformable, k, k, 2)
            x = DeformableConv(self.features, *sizes, **settings)(x, offsets)
        else:
            settings |= {"before": self.before, "depthwise": self.depthwise, "groups": self.groups}
            x = Conv(self.features, *sizes, **settings)(x)
        x = Norm(self.norm, self.axis_name, self.dtype, self.frozen, self.epsilon, name="norm")(x, train)
        return relu(x) if self.relu else x


def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """max(x, 0), computed once even if several layers read it (see `materialize`)."""
    return materialize(nn.relu(x))
