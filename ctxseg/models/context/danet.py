"""Dual attention, DANet (Fu et al., CVPR 2019)."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models import extent
from ctxseg.models.attention import attention
from ctxseg.models.context.levels import select
from ctxseg.models.layers import Conv, ConvNorm
from ctxseg.models.shapes import Array, Maps, Regions


def channel_attention(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Σ_j softmax_j( max_j e − e ) x_j, where e_ij = x_i · x_j between channels (§3.3; max_j e − e is from the published code)."""
    flat = extent.clear(x).reshape(x.shape[0], -1, x.shape[-1])
    energy = jnp.einsum("bni,bnj->bij", flat, flat, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(energy.max(-1, keepdims=True) - energy).astype(x.dtype)
    return jnp.einsum("bij,bnj->bni", weights, flat).reshape(x.shape)


class DANet(nn.Module):
    """The sum of two parallel branches: attention between positions, and attention between channels.

    Attributes:
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
        channels: channels of the result.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm
    dtype: Any = jnp.float32

    READS = 1  # the backbone's last map is read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the last level. `regions` is not used."""
        x = select(features, self.levels, self.READS)[-1]
        branches = []
        for name, attend in (("position", self._position), ("channel", channel_attention)):
            y = self.conv(self.channels, 3, norm=self.norm, name=f"{name}_reduce")(x, train)
            gamma = self.param(f"{name}_gamma", nn.initializers.zeros, (), jnp.float32)
            y = (gamma * attend(y) + y).astype(y.dtype)
            branches.append(self.conv(self.channels, 3, norm=self.norm, name=f"{name}_out")(y, train))
        return sum(branches), {}

    def _position(self, x):
        keys = max(self.channels // 8, 1)
        flat = [
            Conv(n, 1, dtype=self.dtype, name=name)(x).reshape(x.shape[0], -1, n)
            for name, n in (("query", keys), ("key", keys), ("value", self.channels))
        ]
        return attention(*flat, mask=extent.positions(x.shape[1:3])).reshape(x.shape)
