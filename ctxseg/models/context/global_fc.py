"""Global context by fully-connected layers, the first rows of ZigZagNet's Table 2."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.resizing import average_pool, resize
from ctxseg.models.shapes import Array, Maps, Regions


class GlobalFC(nn.Module):
    """The map, and what a fully-connected layer makes of all of it.

    The paper says no more of them than that they "combine all subregions of the feature map as global context" (§6.1). Here the map is
    averaged over a grid of subregions, as a fully-connected layer needs a fixed number of inputs.

    Attributes:
        levels: names of maps, the last of which is read; () for the backbone's last.
        channels: of the result.
        kind: `image`: one vector, the same for every position (Mostajabi et al., CVPR 2015); `subregion`: one for
            each subregion, "adaptive to each subregion" by weights of its own.
        grid: subregions along either axis.
        norm: `batch` or `none`, of the projection of the map.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    kind: Literal["image", "subregion"] = "image"
    grid: Count = 3
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm

    READS = 1  # the backbone's last map, where `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the last level. `regions` is not used."""
        x = select(features, self.levels, self.READS)[-1]
        x = self.conv(self.channels, 1, norm=self.norm, relu=False, name="project")(x, train)
        cells = average_pool(x, (self.grid, self.grid))
        size = (1, 1) if self.kind == "image" else (self.grid, self.grid)
        layer = nn.DenseGeneral((*size, self.channels), axis=(1, 2, 3), dtype=x.dtype, name="connect")
        y = nn.relu(layer(cells))
        return x + resize(y, x.shape[1:3], "nearest", grid=True), {}
