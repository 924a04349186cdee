"""A small residual network for CPUs, tests and the built-in data set."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models import recomputing
from ctxseg.models.backbones.layout import STAGES
from ctxseg.models.layers import ConvNorm, relu
from ctxseg.models.shapes import Array, Maps


class TinyBlock(nn.Module):
    """A 3×3 convolution, a 1×1 convolution and a shortcut. With only one 3×3 per block, the receptive field stays small."""

    features: int
    stride: int = 1
    dilation: int = 1
    conv: Callable = ConvNorm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float[Array, "b _ _ {self.features}"]:
        y = self.conv(self.features, 3, stride=self.stride, dilation=self.dilation, name="conv1")(x, train)
        y = self.conv(self.features, 1, relu=False, name="conv2")(y, train)
        if self.stride != 1 or x.shape[-1] != self.features:
            x = self.conv(self.features, 1, stride=self.stride, relu=False, name="shortcut")(x, train)
        return relu(y + x)


class Tiny(nn.Module):
    """Image → `{'res2', 'res3', 'res4', 'res5'}`, with the names and strides of a ResNet's maps.

    With one block per stage, `res5` sees a window of 63×63 pixels at every output stride. The data set `scenes` has classes
    for which this is too little.

    Attributes:
        width: channels of the stem; res2, res3, res4 and res5 have 1, 2, 4 and 6 times as many.
        output_stride: stride of the last map, res5: 32, 16 or 8.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        remat: see `recomputing`.
    """

    width: Count = 24
    output_stride: Literal[32, 16, 8] = 8
    conv: Callable = ConvNorm
    remat: recomputing.Remat = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 3"], train: bool = False) -> Maps:
        """Normalised images → maps of stride 4, 8, … `output_stride`."""
        x = self.conv(self.width, 3, stride=2, name="stem")(x, train)
        maps, block = {}, recomputing.block(self, TinyBlock)
        for i, (stride, dilation, _) in enumerate(STAGES[self.output_stride]):
            x = block(
                features=self.width * (1, 2, 4, 6)[i],
                stride=2 if i == 0 else stride,  # there is no max-pooling: res2 halves the stem's map
                dilation=dilation,
                conv=self.conv,
                name=f"res{i + 2}_1",
            )(x, train)
            maps[f"res{i + 2}"] = x
        return maps
