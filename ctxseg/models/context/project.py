"""A 1×1 convolution of each map, for detectors without a top-down pass. SPEC §9."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.shapes import Array, Maps, Regions


class Projection(nn.Module):
    """ReLU(W_i * C_i) for each map C_i, with 1×1 convolutions W_i. As a context of a segmenter, it returns the last map.

    Attributes:
        levels: names of the maps to read, finest first. Default: the backbone's last map.
        channels: channels of every map.
        norm: normalisation of the convolutions: `none` (FCIS, Deformable R-CNN) or `batch`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 256
    norm: Literal["none", "batch"] = "none"
    conv: Callable = ConvNorm

    READS = 1  # the backbone's last map is read if `levels` names none

    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """The last map. `regions` is not used."""
        return self._maps(features, train, slice(-1, None))[0], {}

    def pyramid(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b _ _ {self.channels}"], ...]:
        """The maps of all levels, finest first. `regions` is not used."""
        return self._maps(features, train, slice(None))

    @nn.compact
    def _maps(self, features, train, which):
        maps = list(enumerate(select(features, self.levels, self.READS), 1))[which]
        return tuple(self.conv(self.channels, 1, norm=self.norm, name=f"project{i}")(x, train) for i, x in maps)
