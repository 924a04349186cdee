"""Encoder-decoder: a top-down pass over the backbone's maps, similar to RefineNet (Lin et al., CVPR 2017)."""

from collections.abc import Callable
from typing import ClassVar, Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.aspp import ASPP
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.resizing import resize
from ctxseg.models.shapes import Array, Maps, Regions


class EncoderDecoder(nn.Module):
    """From the coarsest map to the finest: resize, add the projection of the next finer map, and convolve.

    Attributes:
        levels: names of the maps to read, finest first. Default: the backbone's last four.
        channels: channels of every projection and of the result.
        aspp: whether ASPP replaces the projection of the coarsest map.
        dilations: dilations of the 3×3 branches of ASPP.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 256
    aspp: bool = False
    dilations: tuple[Count, ...] = (12, 24, 36)
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm

    READS = 4  # the backbone's last 4 maps are read if `levels` names none

    READ_WHEN: ClassVar[dict] = {"dilations": ("aspp", (True,))}

    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the first level. `regions` is not used."""
        return self.pyramid(features, regions, train)[0], {}

    @nn.compact
    def pyramid(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b _ _ {self.channels}"], ...]:
        """The maps of all levels, finest first: the result of each step, and the projection of the coarsest map."""
        *finer, x = select(features, self.levels, self.READS)
        if self.aspp:
            aspp = ASPP(channels=self.channels, dilations=self.dilations, norm=self.norm, conv=self.conv, name="aspp")
            x, _ = aspp({"x": x}, train=train)
        else:
            x = self.conv(self.channels, 1, norm=self.norm, name=f"project{len(finer) + 1}")(x, train)
        maps = [x]
        for i in reversed(range(len(finer))):
            lateral = self.conv(self.channels, 1, norm=self.norm, relu=False, name=f"project{i + 1}")(finer[i], train)
            x = resize(x, lateral.shape[1:3]) + lateral
            x = self.conv(self.channels, 3, norm=self.norm, name=f"refine{i + 1}")(x, train)
            maps.append(x)
        return tuple(reversed(maps))
