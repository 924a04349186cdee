"""Asymmetric non-local networks, ANN (Zhu et al., ICCV 2019)."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.attention import attention
from ctxseg.models.context.levels import select
from ctxseg.models.layers import Conv, ConvNorm
from ctxseg.models.resizing import average_pool
from ctxseg.models.shapes import Array, Maps, Regions


def pyramid(x: Float[Array, "b h w c"], bins: tuple[int, ...]) -> Float[Array, "b n c"]:
    """The means over the cells of k×k grids, for each k in `bins`: n = Σk² vectors (§3.2)."""
    return jnp.concatenate([average_pool(x, (k, k)).reshape(x.shape[0], k * k, -1) for k in bins], axis=1)


class ANN(nn.Module):
    """Two non-local blocks, between two levels (AFNB) and within one level (APNB). Keys and values are the means of a pyramid of grids.

    The paper leaves normalisation and ReLU open. Here they are where the authors' code has them: both after queries and keys, between the
    two blocks and at the end; only normalisation after the fusion; neither after values and attention. The authors also have dropout of
    0.05 after each block. Here, only the classifier has dropout.

    Attributes:
        levels: names of maps; the last two named are read, or a single one as both. Default: the backbone's last two.
        channels: channels of the result; the blocks have half as many inside.
        bins: number of cells along each axis, for each grid of the pyramid.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    bins: tuple[Count, ...] = (1, 3, 6, 8)
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm
    dtype: Any = jnp.float32

    READS = 2  # the backbone's last 2 maps are read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the last level. `regions` is not used."""
        maps = select(features, self.levels, self.READS)
        low, high = maps[-2:] if len(maps) > 1 else (maps[0], maps[0])
        inner = max(self.channels // 2, 1)

        def conv(channels, size, name, relu=True):
            return self.conv(channels, size, norm=self.norm, relu=relu, name=name)

        def block(x, query, key, value_of, name, relu):
            """[W softmax(q kᵀ) v; x], and a 1×1 convolution to as many channels as x has."""
            value = Conv(inner, 1, dtype=self.dtype, name=f"{name}_value")(value_of)
            q = query.reshape(x.shape[0], -1, inner)
            y = attention(q, pyramid(key, self.bins), pyramid(value, self.bins), scale=inner**-0.5)
            # Initialised with zeros, as in the authors' code: the network starts without attention.
            project = Conv(x.shape[-1], 1, dtype=self.dtype, kernel_init=nn.initializers.zeros, name=f"{name}_project")
            y = jnp.concatenate([project(y.reshape(query.shape)), x], axis=-1)
            return conv(x.shape[-1], 1, f"{name}_fuse", relu)(y, train)

        query, key = conv(inner, 1, "fusion_query")(high, train), conv(inner, 1, "fusion_key")(low, train)
        x = conv(self.channels, 3, "bottleneck")(block(high, query, key, low, "fusion", relu=False), train)
        query = conv(inner, 1, "pyramid_query")(x, train)  # also the keys, which have the same weights
        return block(x, query, query, x, "pyramid", relu=True), {}
