"""Convolution, normalisation, resizing and pooling layers.

Maps are `[B,h,w,C]`. Parameters and batch statistics are float32; computation is in `dtype`.
"""

import fnmatch
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Float32, Shaped

from ctxseg.errors import UserError
from ctxseg.models import extent
from ctxseg.models.convolution import convolve, convolve_depthwise, materialize
from ctxseg.models.shapes import Array


class Conv(nn.Module):
    """k×k convolution, k odd: → `[B,⌈h/stride⌉,⌈w/stride⌉,features]`.

    Parameters `kernel` `[k,k,·,features]` and, if `use_bias`, `bias` `[features]`. A pair as `kernel_size` is height and width.
    `before`: rows and columns of padding above and to the left; None: `dilation·⌊k/2⌋` on every side. `depthwise`: each channel has a
    kernel of its own, `[k,k,1,features]`; `features` is then the number of channels of the input.
    """

    features: int
    kernel_size: int | tuple[int, int] = 1
    stride: int = 1
    dilation: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.he_normal()
    before: int | None = None
    depthwise: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"]) -> Float[Array, "b _ _ {self.features}"]:
        size = self.kernel_size if isinstance(self.kernel_size, tuple) else (self.kernel_size,) * 2
        channels = 1 if self.depthwise else x.shape[-1]
        kernel = self.param("kernel", self.kernel_init, (*size, channels, self.features), self.param_dtype)
        if max(size) > 1:
            x = extent.clear(x)
        convolution = convolve_depthwise if self.depthwise else convolve
        y = convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.dilation, self.before)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype).astype(self.dtype)
        return y


EPSILON, MOMENTUM = 1e-5, 0.9


def is_frozen(path: tuple[str, ...], frozen: tuple[str, ...]) -> bool:
    """Whether the names in `path`, joined by '/', start with one of `frozen`: `backbone/conv1` covers conv1_2.

    `*` in a prefix stands for any text: `backbone/*/norm`.
    """
    if path[:1] == ("segmenter",):  # the path of a module in `MultiScale` has it, the names of its parameters do not
        path = path[1:]
    name = "/".join(path)
    return any(
        fnmatch.fnmatchcase(name, f"{prefix}*") if "*" in prefix else name.startswith(prefix) for prefix in frozen
    )


class Norm(nn.Module):
    """Batch normalisation (`batch`), in `dtype`, or the identity (`none`).

    Parameters `scale` and `bias`, batch statistics `mean` and `var` (running averages, of momentum 0.9), all float32 `[C]`.

    Attributes:
        kind: `batch` or `none`.
        axis_name: of the `pmap` axis that the statistics are reduced over, or None.
        dtype: of the result.
        frozen: beginnings of names (see `is_frozen`) of the layers that normalise by running statistics when training too.
        epsilon: added to the variance.
    """

    kind: Literal["batch", "none"] = "batch"
    axis_name: str | None = None
    dtype: Any = jnp.float32
    frozen: tuple[str, ...] = ()
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b h w c"]:
        """`train`: normalise by the statistics of this batch, and update the running ones if `batch_stats` is mutable.

        UserError for a batch of one position: by its own mean it is 0, whatever it was.
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
                f"config.train.batch_size is 1, but {'/'.join(self.path)} normalises a map of one position by its batch, which makes all "
                "values 0: let it be 2 or more"
                + "".join(f", or config.model.{section}.norm none" for section in sections)
            )
        y, batch_mean, batch_var = batch_norm(x, scale, bias, axis_name, self.epsilon)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            # The biased variance, as in flax and TensorFlow; PyTorch's running one is n/(n − 1) times it, n positions of a batch.
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
    """Normalises `x` by its statistics over all positions, and all devices of `axis_name` (Ioffe & Szegedy 2015).

        x̂ = (x − mean) / √(var + ε)        y = scale·x̂ + bias
        ∂x = scale/√(var + ε) · (∂y − mean(∂y) − x̂·mean(∂y·x̂))

    What differentiation needs is `x` alone, so no centred or normalised copy of a map is stored.

    Returns:
        y, mean, biased variance; no gradient flows through the latter two.
    """
    return _batch_norm_forward(x, scale, bias, axis_name, epsilon)[0]


def _batch_norm_forward(x, scale, bias, axis_name, epsilon):
    x32 = x.astype(jnp.float32)
    mean = _mean(x32, axis_name)
    # Not E[x²] − mean²: in float32 that difference keeps no digit where the mean is some thousand times the deviation.
    var = _mean(jnp.square(x32 - mean), axis_name)
    deviation = lax.rsqrt(var + epsilon)
    return (_normalize(x, mean, deviation, scale, bias), mean, var), (x, mean, deviation, scale)


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

    The mask of an image depends on its place in the batch over all devices of `axis_name`, not on how many share the batch.
    Needs the random stream `dropout`.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], train: bool) -> Float[Array, "*shape"]:
        if not train or self.rate == 0:
            return x
        first = 0 if self.axis_name is None or self.is_initializing() else lax.axis_index(self.axis_name) * x.shape[0]
        keys = jax.vmap(partial(jax.random.fold_in, self.make_rng("dropout")))(first + jnp.arange(x.shape[0]))
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(kept, x / (1 - self.rate), 0)


class ConvNorm(nn.Module):
    """Convolution, normalisation, ReLU: → `[B,⌈h/stride⌉,⌈w/stride⌉,features]`.

    The convolution has a bias if `norm` is `none`. The other attributes are `Conv`'s and `Norm`'s.
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

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float[Array, "b _ _ {self.features}"]:
        x = Conv(
            self.features,
            self.kernel_size,
            self.stride,
            self.dilation,
            use_bias=self.norm == "none",
            dtype=self.dtype,
            before=self.before,
            depthwise=self.depthwise,
            name="conv",
        )(x)
        x = Norm(self.norm, self.axis_name, self.dtype, self.frozen, self.epsilon, name="norm")(x, train)
        return relu(x) if self.relu else x


def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """max(x, 0), computed once however many layers read it (see `materialize`)."""
    return materialize(nn.relu(x))


def interpolation(length: int, size: int) -> Float32[np.ndarray, "{size} {length}"]:
    """Linear interpolation of `length` samples at `size` positions, centres at +½.

    Output i reads position (i + ½)·length/size − ½, clamped to the first and the last sample, unsmoothed.
    """
    position = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(length))).astype(np.float32)


def resize(
    x: Shaped[Array, "b h w c"],
    size: extent.Size,
    method: Literal["bilinear", "nearest"] = "bilinear",
    grid: bool = False,
    lengths: tuple[Any, Any] | None = None,
) -> Shaped[Array, "b _ _ c"]:
    """`x` brought to `size`, of the same dtype, pixel centres at +½, without antialiasing.

    `bilinear` is two small matrix products, whose gradients are matrix products again (a gather's would be a scatter).
    `nearest` reads pixel ⌊(i + ½)·h/size⌋ and takes any dtype.

    Of padded maps (see `extent`), the image's part is resized to the image's part of the result.

    Args:
        x: a map.
        size: height and width of the result.
        method: `bilinear` or `nearest`.
        grid: whether `x` is a grid of cells over the whole image, and not a map that has padding.
        lengths: instead of what `extent` says: the image's rows and columns in `x`, and in the result, each int32 `[B]`.
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
    rows, columns = (interpolation(m, n) for m, n in zip(x.shape[1:3], size, strict=True))
    x32 = x.astype(jnp.float32)
    # In full: TPUs multiply in bfloat16 by default, and positions would be rounded with the values.
    return jnp.einsum("Hh,bhwc,Ww->bHWc", rows, x32, columns, precision="highest").astype(x.dtype)


def _resize_part(x, size, method, before, after):
    """`resize` where the image has `before` rows and columns of `x`, and `after` of the result."""
    sources = []  # [B,out]: the position in x that each row and column reads
    for out, m, n in zip(size, before, after, strict=True):
        m, n = (jnp.broadcast_to(jnp.asarray(v), x.shape[:1])[:, None] for v in (m, n))
        doubled = (2 * jnp.arange(out) + 1) * m  # whole numbers, so that nothing is rounded before the division
        if method == "nearest":
            sources.append(jnp.minimum(doubled // (2 * n), m - 1))
        else:
            sources.append(jnp.clip(doubled / (2 * n) - 0.5, 0, m - 1))
    if method == "nearest":
        rows, columns = sources
        x = jnp.take_along_axis(x, rows[:, :, None, None], axis=1)
        return jnp.take_along_axis(x, columns[:, None, :, None], axis=2)
    rows, columns = (
        jnp.maximum(0, 1 - jnp.abs(position[..., None] - jnp.arange(n)))
        for position, n in zip(sources, x.shape[1:3], strict=True)
    )
    x32 = x.astype(jnp.float32)
    return jnp.einsum("bHh,bhwc,bWw->bHWc", rows, x32, columns, precision="highest").astype(x.dtype)


class Upsample2(nn.Module):
    """Learned 2× upsampling, a 3×3 convolution to four maps that are interleaved.

    The same linear maps as a 6×6 transposed convolution of stride 2, at the cost of an ordinary one (Shi et al., CVPR 2016).
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
    """`x` brought to `size`: the mean of the positions that each position of a coarser map covers (see `bins`), of the same dtype.

    Of padded maps (see `extent`), the image's part of `x` is averaged to the image's part of the result.
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
    """Averages over `count` bins of `length` samples, bin i from ⌊i·length/count⌋ to ⌈(i+1)·length/count⌉.

    No bin is empty, and neighbours overlap where `count` does not divide `length` (adaptive pooling, as PSPNet has it).
    """
    i, position = np.arange(count)[:, None], np.arange(length)
    inside = (position >= i * length // count) & (position < -(-(i + 1) * length // count))
    return (inside / inside.sum(1, keepdims=True)).astype(np.float32)


def average_pool(x: Float[Array, "b h w c"], size: tuple[int, ...]) -> Float[Array, "b {size[0]} {size[1]} c"]:
    """Mean over each of `size` bins (see `bins`), of the same dtype."""
    own = extent.lengths(x.shape[1:3])
    if own is not None:
        rows, columns = (_bins_of_part(m, n, k, k) for m, n, k in zip(own, x.shape[1:3], size, strict=True))
        x32 = extent.clear(x.astype(jnp.float32))
        return jnp.einsum("bkh,bhwc,blw->bklc", rows, x32, columns, precision="highest").astype(x.dtype)
    rows, columns = (bins(n, k) for n, k in zip(x.shape[1:3], size, strict=True))
    return jnp.einsum("kh,bhwc,lw->bklc", rows, x.astype(jnp.float32), columns, precision="highest").astype(x.dtype)


def _bins_of_part(own, length, count, size):
    """`count` `bins` (a number, or int32 `[B]`) of the first `own` int32 `[B]` of `length` samples: float32 `[B,size,length]`.

    Bins from `count` on have nothing.
    """
    own, count = (jnp.broadcast_to(n, own.shape)[:, None, None] for n in (own, count))
    i, position = jnp.arange(size)[:, None], jnp.arange(length)
    inside = (position >= i * own // count) & (position < -(-(i + 1) * own // count)) & (i < count)
    return inside / jnp.maximum(inside.sum(-1, keepdims=True), 1)


def attention(
    queries: Float[Array, "b n d"],
    keys: Float[Array, "b m d"],
    values: Float[Array, "b m c"],
    scale: float = 1.0,
    chunk: int = 1024,
    mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n c"]:
    """softmax(scale · Q Kᵀ) V without the whole matrix of weights, forward and backward.

    Args:
        queries: Q.
        keys: K.
        values: V.
        scale: of the scores; 1/√d in Vaswani et al. 2017.
        chunk: queries whose weights, `[B,chunk,m]`, are in memory at one time.
        mask: the keys that count, or None for all.

    Returns:
        Of the values' dtype; weights are computed in float32.
    """
    b, n, d = queries.shape

    @jax.checkpoint
    def attend(q):
        scores = jnp.einsum("bnd,bmd->bnm", q, keys, preferred_element_type=jnp.float32) * scale
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, -jnp.inf)
        return jnp.einsum("bnm,bmc->bnc", jax.nn.softmax(scores).astype(values.dtype), values)

    if not jax.export.is_symbolic_dim(n) and n <= chunk:
        return attend(queries)
    parts = -(-n // chunk)
    padded = jnp.pad(queries, ((0, 0), (0, parts * chunk - n), (0, 0)))
    y = lax.map(attend, padded.reshape(b, parts, chunk, d).swapaxes(0, 1))
    return y.swapaxes(0, 1).reshape(b, parts * chunk, -1)[:, :n]


def max_pool(
    x: Float[Array, "b h w c"], size: int, stride: int, padding: int | Literal["SAME", "CAFFE"]
) -> Float[Array, "b _ _ c"]:
    """Maximum over size×size windows, padded by −∞: → `[B,⌊(h+2·padding−size)/stride⌋+1,…,C]`.

    `padding` may be `SAME`: one more row or column, at the end, where windows of 2 and stride 2 do not divide the size. Or `CAFFE`, for
    windows of 3 and stride 2: padded by 1, and the size rounded up, `[B,⌊h/2⌋+1,⌊w/2⌋+1,C]`; the last window of an even size has one row.
    """
    pairs: str | Sequence[tuple[int, int]]
    if padding == "SAME":
        pairs = padding
    elif padding == "CAFFE":
        pairs = [(1, 2 - n % 2) for n in x.shape[1:3]]
    else:
        pairs = ((padding, padding), (padding, padding))
    return nn.max_pool(extent.clear(x, -jnp.inf), (size, size), (stride, stride), pairs)


def window_mean(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b h w c"]:
    """Sum over the size×size window around each position, size odd, zero outside, divided by size².

    At the border too, as Caffe's average pooling (and PyTorch's by default): the padding counts.
    """
    half = size // 2
    x32 = extent.clear(x.astype(jnp.float32))
    return nn.avg_pool(x32, (size, size), padding=((half, half), (half, half))).astype(x.dtype)
