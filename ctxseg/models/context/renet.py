"""ReNet layers (Visin et al. 2015) as N-ReNet and H-ReNet use them (Yan et al., "Combining the best of convolutional layers and
recurrent layers", 2016). SPEC §2.

    (h^F[y,x], c^F[y,x]) = LSTM^F(I[y,x], h^F[y-1,x], c^F[y-1,x])     y = 1 … h
    (h^B[y,x], c^B[y,x]) = LSTM^B(I[y,x], h^B[y+1,x], c^B[y+1,x])     y = h … 1
    output[y,x] = [h^F[y,x] ; h^B[y,x]]

The product of inputs and weights is computed for all positions before the scan. One scan runs over all columns of all images and both
directions at once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from ctxseg.bounds import Amount, Count
from ctxseg.models import extent, initial
from ctxseg.models.context.levels import select
from ctxseg.models.convolution import materialize
from ctxseg.models.layers import Norm
from ctxseg.models.resizing import resize
from ctxseg.models.seen import show
from ctxseg.models.shapes import Array, Maps, Regions

# A cell: (product of input and weights, function of h that multiplies it by the recurrent weights, state) → next state. The first entry of
# a state is h.


def _lstm(x, recurrent, state):
    """Input, forget and output gate and candidate, in this order. No peepholes (Hochreiter & Schmidhuber 1997, Gers et al. 2000)."""
    h, c = state
    i, f, o, g = jnp.split(x + recurrent(h), 4, axis=-1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def _gru(x, recurrent, state):
    """Reset and update gate and candidate, in this order (Cho et al. 2014). The reset gate acts on U·h, as in cuDNN."""
    (h,) = state
    xr, xz, xn = jnp.split(x, 3, axis=-1)
    hr, hz, hn = jnp.split(recurrent(h), 3, axis=-1)
    z = nn.sigmoid(xz + hz)
    return ((1 - z) * jnp.tanh(xn + nn.sigmoid(xr + hr) * hn) + z * h,)


def _irnn(x, recurrent, state):
    """ReLU recurrence, initialised with the identity (Le et al. 2015)."""
    (h,) = state
    return (nn.relu(x + recurrent(h)),)


CELLS = {"lstm": (_lstm, 4, 2), "gru": (_gru, 3, 1), "irnn": (_irnn, 1, 1)}  # step, number of gates, entries of a state


_uniform = initial.uniform(-0.2, 0.2)


def _identities(key, shape, dtype):
    return jnp.broadcast_to(jnp.eye(shape[-1], dtype=dtype), shape)


def patches(x: Float[Array, "b h w c"], size: Sequence[int]) -> Float[Array, "b _ _ {size[0]*size[1]}*c"]:
    """Cuts `x` into patches of `size` (s,t), and repeats the last row and column where necessary: `[B,⌈h/s⌉,⌈w/t⌉,s·t·C]`."""
    s, t = size
    b, height, width, channels = x.shape
    lengths = extent.lengths((height, width))
    if lengths is not None:
        for axis, count in enumerate(lengths, 1):
            index = jnp.minimum(jnp.arange(x.shape[axis]), count[:, None] - 1)
            x = jnp.take_along_axis(x, jnp.expand_dims(index, (3 - axis, 3)), axis=axis)
    h, w = -(-height // s), -(-width // t)
    x = jnp.pad(x, ((0, 0), (0, h * s - height), (0, w * t - width), (0, 0)), mode="edge")
    return x.reshape(b, h, s, w, t, channels).transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, s * t * channels)


class ReNetLayer(nn.Module):
    """Two recurrences sweep every column (`vertical`) or row of a grid of patches, one from each end.

    Parameters, those of the forward direction first: `input_kernel` `[2,s·t·C,gates·units]`, `recurrent_kernel` `[2,units,gates·units]`
    and `bias` `[2,gates·units]`. The gates are in the order of the cell.

    Attributes:
        units: d, the number of units of each direction.
        vertical: sweep columns, from the top and from the bottom; else rows, from the left and from the right.
        cell: `lstm`, `gru` or `irnn`.
        dtype: dtype of the computation.
    """

    units: int
    vertical: bool
    cell: Literal["lstm", "gru", "irnn"] = "lstm"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"]) -> Float[Array, "b h w {2*self.units}"]:
        """The units of the forward direction are the first."""
        step, gates, entries = CELLS[self.cell]
        if not self.vertical:
            x = x.swapaxes(1, 2)
        b, length, lines, inputs = x.shape
        d = self.units
        # All initial values are uniform (H-ReNet, §4.2), except that an IRNN starts from the identity and zero biases.
        recurrent_init, bias_init = _uniform, _uniform
        if self.cell == "irnn":
            recurrent_init, bias_init = _identities, nn.initializers.zeros
        kernel = self.param("input_kernel", _uniform, (2, inputs, gates * d), jnp.float32).astype(self.dtype)
        recurrent = self.param("recurrent_kernel", recurrent_init, (2, d, gates * d), jnp.float32)
        bias = self.param("bias", bias_init, (2, gates * d), jnp.float32)

        sequence = x.astype(self.dtype).swapaxes(0, 1).reshape(length * b * lines, inputs)
        flat = kernel.transpose(1, 0, 2).reshape(inputs, -1)
        projected = (sequence @ flat).reshape(length, b * lines, 2, gates * d).swapaxes(1, 2)
        projected = (projected + bias[:, None]).astype(self.dtype)
        # The backward direction starts at the other end.
        projected = jnp.stack([projected[:, 0], projected[::-1, 1]], axis=1)

        lengths, inside = extent.lengths((length, lines) if self.vertical else (lines, length)), None
        if lengths is not None:  # the backward direction passes the padding first: its state stays 0 there
            count = jnp.repeat(lengths[0 if self.vertical else 1], lines)
            inside = jnp.stack([jnp.ones((length, b * lines), bool), jnp.arange(length)[::-1, None] < count], axis=1)

        # The state is float32, since it may be a sum over a line. So is the gradient of the recurrent weights.
        state_dtype = jnp.promote_types(self.dtype, jnp.float32)

        def multiply(h):
            y = jnp.einsum("znd,zdg->zng", h.astype(self.dtype), recurrent.astype(self.dtype))
            return y.astype(state_dtype)

        def scan(state, inputs):
            x, inside = inputs
            # Not read where the gates are computed: XLA's code for that is slow on CPUs if the index of the row is a variable.
            state = step(materialize(x), multiply, state)
            if inside is not None:
                state = tuple(jnp.where(inside[..., None], s, 0) for s in state)
            return state, state[0].astype(self.dtype)

        start = (jnp.zeros((2, b * lines, d), state_dtype),) * entries
        _, h = lax.scan(scan, start, (projected, inside))
        y = jnp.concatenate([h[:, 0], h[::-1, 1]], axis=-1).reshape(length, b, lines, 2 * d).swapaxes(0, 1)
        return y if self.vertical else y.swapaxes(1, 2)


def l2_normalise(x: Float[Array, "b h w c"], scale: float) -> Float[Array, "b h w c"]:
    """The map of every image, divided by its Euclidean norm and multiplied by `scale` (H-ReNet, §4.2)."""
    norm = jnp.sqrt(jnp.sum(jnp.square(extent.clear(x).astype(jnp.float32)), axis=(1, 2, 3), keepdims=True))
    return (x / jnp.maximum(norm, 1e-12) * scale).astype(x.dtype)


class ReNet(nn.Module):
    """Groups of a vertical and a horizontal layer. After one group, every position has seen the whole image.

    H-ReNet has one group of 120 units, on conv7 or on pool4, pool5 and conv7. N-ReNet has three groups of 64, 96 and 128 units on raw
    pixels; the first one reads patches of 2×2.

    Attributes:
        levels: names of the maps to read. They are normalised, resized to the first one and concatenated. Default: the backbone's last map.
        units: d for each group, the number of units of each direction; a group has 2d output channels.
        patch: height and width of the patches that the first layer sweeps.
        cell: recurrent unit: `lstm` (the paper), `gru` or `irnn`.
        entering: normalisation of each map that is read: `none`, `batch`, or `l2`: division by the map's Euclidean norm.
        l2_scale: factor λ of the maps after `l2` normalisation; the paper tries 100, 1000 and 10000.
        dtype: dtype of the computation.
        normalisation: the normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    units: Sequence[Count] = (120,)
    patch: tuple[Count, Count] = (1, 1)
    cell: Literal["lstm", "gru", "irnn"] = "lstm"
    entering: Literal["none", "batch", "l2"] = "none"
    l2_scale: Amount = 1000.0
    dtype: Any = jnp.float32
    normalisation: Callable = Norm

    READS = 1  # the backbone's last map is read if `levels` names none

    READ_WHEN: ClassVar[dict] = {"l2_scale": ("entering", ("l2",))}

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b _ _ {2*self.units[-1]}"], dict]:
        """A map of ⌈h/s⌉ × ⌈w/t⌉ patches. `regions` is not used."""
        maps: list[Any] = []
        for i, x in enumerate(select(features, self.levels, self.READS)):
            if self.entering == "batch":
                x = self.normalisation(name=f"enter{i + 1}")(x, train)
            elif self.entering == "l2":
                x = l2_normalise(x, self.l2_scale)
            maps.append(resize(x, maps[0].shape[1:3]) if maps else x)
        x = patches(jnp.concatenate(maps, axis=-1), self.patch)
        for i, units in enumerate(self.units, 1):
            x = vertical = ReNetLayer(units, True, self.cell, self.dtype, name=f"vertical{i}")(x)
            x = horizontal = ReNetLayer(units, False, self.cell, self.dtype, name=f"horizontal{i}")(x)
            show(self, f"vertical {i}", partial(sweeps, vertical, ("from the top", "from below")))
            show(self, f"horizontal {i}", partial(sweeps, horizontal, ("from the left", "from the right")))
        return x, {}


def sweeps(x: Float[Array, "b h w _"], ends: tuple[str, str]) -> dict[str, Float[Array, "b h w ..."]]:
    """The maps of both directions of a layer, and the unit of each that varies most; `ends` names the directions."""
    maps: dict[str, Array] = {}
    for end, half in zip(ends, jnp.split(x, 2, axis=-1), strict=True):
        unit = half.var((0, 1, 2)).argmax()
        maps |= {end: half, f"{end}, one unit": jnp.take(half, unit, axis=-1)}
    return maps
