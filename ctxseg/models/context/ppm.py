"""Pyramid pooling module, PSPNet's context (Zhao et al., CVPR 2017)."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.resizing import average_pool, resize
from ctxseg.models.shapes import Array, Maps, Regions


class PPM(nn.Module):
    """Means over grids of several sizes, each projected, resized to the map's size, and concatenated with the map.

    Attributes:
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
        channels: channels of each projection and of the result.
        bins: number of cells along each axis, for each grid.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    bins: tuple[Count, ...] = (1, 2, 3, 6)
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm

    READS = 1  # the backbone's last map is read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the last level. `regions` is not used."""
        x = select(features, self.levels, self.READS)[-1]
        parts = [x]
        for k in self.bins:
            y = self.conv(self.channels, 1, norm=self.norm, name=f"pool{k}")(average_pool(x, (k, k)), train)
            parts.append(resize(y, x.shape[1:3], grid=True))
        y = jnp.concatenate(parts, axis=-1)
        return self.conv(self.channels, 3, norm=self.norm, name="fuse")(y, train), {}
