"""Large kernels: the global convolutional network, GCN (Peng et al., CVPR 2017)."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.levels import select
from ctxseg.models.layers import Conv, ConvNorm
from ctxseg.models.shapes import Array, Maps, Regions


class GCN(nn.Module):
    """A k×k convolution as the sum of two separable branches: k×1 then 1×k, and 1×k then k×1.

    The branches have no activation (§3.1). A 1×1 convolution with normalisation and ReLU follows their sum.

    Attributes:
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
        channels: channels of the result.
        kernel: k, the kernel size of the branches.
        norm: normalisation of the 1×1 convolution after the branches: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    kernel: Literal[3, 5, 7, 9, 11, 13, 15] = 15
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm

    READS = 1  # the backbone's last map is read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the last level. `regions` is not used."""
        x = select(features, self.levels, self.READS)[-1]
        column, row = (self.kernel, 1), (1, self.kernel)
        total: Any = 0  # an array after the first branch
        for name, sizes in (("columns_first", (column, row)), ("rows_first", (row, column))):
            y = x
            for i, size in enumerate(sizes, 1):
                y = Conv(self.channels, size, dtype=x.dtype, name=f"{name}{i}")(y)
            total += y
        return self.conv(self.channels, 1, norm=self.norm, name="out")(total, train), {}
