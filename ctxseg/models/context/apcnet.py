"""Adaptive pyramid context, APCNet (He et al., CVPR 2019)."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.levels import select
from ctxseg.models.layers import Conv, ConvNorm, relu
from ctxseg.models.resizing import average_pool
from ctxseg.models.shapes import Array, Maps, Regions


class AdaptiveContext(nn.Module):
    """Adaptive context module (ACM) of one scale: every position sums the means of a k×k grid, weighted by its affinities (§3.2).

    The affinities are computed from the position and the mean of the image. Attributes: as in `APCNet`, but `bins` is k.
    """

    channels: int
    bins: int
    norm: str
    conv: Callable
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float[Array, "b h w {self.channels}"]:
        """The context of every position."""

        def conv1x1(y, name):
            return self.conv(self.channels, 1, norm=self.norm, name=name)(y, train)

        cells = conv1x1(average_pool(x, (self.bins, self.bins)), "pool")
        cells = cells.reshape(x.shape[0], self.bins**2, self.channels)
        x = conv1x1(x, "reduce")
        # Added in float32, since the gradient of the vector is a sum over all positions.
        whole = conv1x1(average_pool(x, (1, 1)), "global").astype(jnp.float32)
        affinity = nn.sigmoid(Conv(self.bins**2, 1, dtype=self.dtype, name="affinity")(x + whole))
        z = conv1x1(jnp.einsum("bhwk,bkc->bhwc", affinity, cells), "residual")
        return conv1x1(relu(z + x), "fuse")


class APCNet(nn.Module):
    """Adaptive contexts of several scales, concatenated with the map.

    Attributes:
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
        channels: channels of each context and of the result.
        bins: number of cells along each axis of the grid, for each scale.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    bins: tuple[Count, ...] = (1, 2, 3, 6)
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
        fields = (self.norm, self.conv, self.dtype)
        contexts = [AdaptiveContext(self.channels, k, *fields, name=f"context{k}")(x, train) for k in self.bins]
        y = jnp.concatenate([x, *contexts], axis=-1)
        return self.conv(self.channels, 3, norm=self.norm, name="fuse")(y, train), {}
