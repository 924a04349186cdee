"""3×3 convolutions, the head of the FCN that MCIBI (Jin et al., ICCV 2021) and what it is compared with measure their gain against."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.shapes import Array, Maps, Regions


class FCNHead(nn.Module):
    """Convolutions with normalisation and ReLU; of two, the second takes the place that MCIBI's fusion has after its bottleneck.

    Attributes:
        levels: names of maps, the last of which is read; () for the backbone's last.
        channels: of each convolution.
        convolutions: how many 3×3 ones, 1 or more.
        norm: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    convolutions: Count = 2
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm

    READS = 1  # the backbone's last map, where `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the last level. `regions` is not used."""
        x = select(features, self.levels, self.READS)[-1]
        for i in range(1, self.convolutions + 1):
            x = self.conv(self.channels, 3, norm=self.norm, name=f"conv{i}")(x, train)
        return x, {}
