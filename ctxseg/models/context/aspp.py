"""Atrous spatial pyramid pooling, DeepLabV3's context (Chen et al., "Rethinking Atrous Convolution", 2017)."""

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


class ASPP(nn.Module):
    """A 1×1 convolution, dilated 3×3 convolutions and the mean of the whole map, in parallel. A last convolution joins them.

    Attributes:
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
        channels: channels of each branch and of the result.
        dilations: dilations of the 3×3 branches; 12, 24 and 36 are for output stride 8.
        fuse_kernel: kernel size of the last convolution; 1 in DeepLabV3, 3 in the counts of MCIBI's Table 3.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    dilations: tuple[Count, ...] = (12, 24, 36)
    fuse_kernel: Literal[1, 3, 5, 7] = 3
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm

    READS = 1  # the backbone's last map is read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the last level. `regions` is not used."""
        x = select(features, self.levels, self.READS)[-1]
        parts = [self.conv(self.channels, 1, norm=self.norm, name="point")(x, train)]
        for d in self.dilations:
            parts.append(self.conv(self.channels, 3, dilation=d, norm=self.norm, name=f"dilation{d}")(x, train))
        mean = self.conv(self.channels, 1, norm=self.norm, name="mean")(average_pool(x, (1, 1)), train)
        parts.append(resize(mean, x.shape[1:3], grid=True))
        y = jnp.concatenate(parts, axis=-1)
        return self.conv(self.channels, self.fuse_kernel, norm=self.norm, name="fuse")(y, train), {}
