"""Global context by a fully-connected layer, as in the first rows of ZigZagNet's Table 2."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models import initial
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.resizing import average_pool, resize
from ctxseg.models.shapes import Array, Maps, Regions


class GlobalFC(nn.Module):
    """The map, plus the output of a fully-connected layer that reads all of it.

    The paper says only that such layers "combine all subregions of the feature map as global context" (§6.1). A fully-connected layer
    needs a fixed number of inputs. So the map is averaged over a grid of subregions first.

    Attributes:
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
        channels: channels of the result.
        kind: `image`: one vector for all positions (Mostajabi et al., CVPR 2015). `subregion`: one vector for each subregion,
            with separate weights ("adaptive to each subregion").
        grid: number of subregions along each axis.
        norm: normalisation of the map's projection: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    kind: Literal["image", "subregion"] = "image"
    grid: Count = 3
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm

    READS = 1  # the backbone's last map is read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the last level. `regions` is not used."""
        x = select(features, self.levels, self.READS)[-1]
        x = self.conv(self.channels, 1, norm=self.norm, relu=False, name="project")(x, train)
        cells = average_pool(x, (self.grid, self.grid))
        size = (1, 1) if self.kind == "image" else (self.grid, self.grid)
        layer = nn.DenseGeneral(
            (*size, self.channels), axis=(1, 2, 3), dtype=x.dtype, kernel_init=initial.lecun_normal(), name="connect"
        )
        # Spread in float32, since the gradient of a vector is a sum over its positions.
        y = nn.relu(layer(cells)).astype(jnp.float32)
        return (x + resize(y, x.shape[1:3], "nearest", grid=True)).astype(x.dtype), {}
