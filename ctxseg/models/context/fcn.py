"""3×3 convolutions: the head of the FCN that is the baseline of MCIBI (Jin et al., ICCV 2021) and of the networks it is compared with."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.shapes import Array, Maps, Regions


class FCNHead(nn.Module):
    """3×3 convolutions with normalisation and ReLU. The first replaces MCIBI's bottleneck, the second its fusion.

    Attributes:
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
        channels: channels of each convolution.
        convolutions: number of 3×3 convolutions.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    convolutions: Count = 2
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm

    READS = 1  # the backbone's last map is read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the last level. `regions` is not used."""
        x = select(features, self.levels, self.READS)[-1]
        for i in range(1, self.convolutions + 1):
            x = self.conv(self.channels, 3, norm=self.norm, name=f"conv{i}")(x, train)
        return x, {}
