"""DeepLabV3+ (Chen et al., ECCV 2018): ASPP, and a decoder that adds the detail of one fine map."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.aspp import ASPP
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.resizing import resize
from ctxseg.models.shapes import Array, Maps, Regions


class DeepLabV3Plus(nn.Module):
    """ASPP on the coarsest map, resized to the finest map and concatenated with its projection, and two 3×3 convolutions.

    Attributes:
        levels: names of maps, finest first; the first and the last one named are read. Default: the backbone's last four.
        channels: channels of ASPP and of the decoder.
        low_channels: channels to which the finest map is projected; few, so that it does not outweigh the context.
        dilations: dilations of the 3×3 branches of ASPP.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 256
    low_channels: Count = 48
    dilations: tuple[Count, ...] = (12, 24, 36)
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm

    READS = 4  # the backbone's last 4 maps are read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the first level. `regions` is not used."""
        maps = select(features, self.levels, self.READS)
        fine, coarse = maps[0], maps[-1]
        aspp = ASPP(
            channels=self.channels,
            dilations=self.dilations,
            fuse_kernel=1,
            norm=self.norm,
            conv=self.conv,
            name="aspp",
        )
        x, _ = aspp({"x": coarse}, train=train)
        low = self.conv(self.low_channels, 1, norm=self.norm, name="low")(fine, train)
        x = jnp.concatenate([resize(x, low.shape[1:3]), low], axis=-1)
        for name in ("refine1", "refine2"):
            x = self.conv(self.channels, 3, norm=self.norm, name=name)(x, train)
        return x, {}
