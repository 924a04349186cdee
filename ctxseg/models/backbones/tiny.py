"""A small residual network for CPUs, tests and the built-in data set."""

from collections.abc import Callable
from typing import ClassVar, Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import NONZERO, Count, Whole
from ctxseg.models import recomputing
from ctxseg.models.backbones.layout import STAGES, offset_groups
from ctxseg.models.layers import ConvNorm, relu
from ctxseg.models.shapes import Array, Maps


class TinyBlock(nn.Module):
    """A 3×3 convolution, a 1×1 convolution and a shortcut. With only one 3×3 per block, the receptive field stays small.

    `deformable`: see `ConvNorm`; of the 3×3 convolution.
    """

    features: int
    stride: int = 1
    dilation: int = 1
    deformable: int = 0
    conv: Callable = ConvNorm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float[Array, "b _ _ {self.features}"]:
        settings = {"stride": self.stride, "dilation": self.dilation, "deformable": self.deformable}
        y = self.conv(self.features, 3, **settings, name="conv1")(x, train)
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
        deformable: for each of res2, res3, res4 and res5, 1 if the 3×3 convolution of its block is deformable, else 0. Offsets start
            from zero.
        offset_groups: number of groups of channels of a deformable convolution that have offsets of their own.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        remat: see `recomputing`.
    """

    width: Count = 24
    output_stride: Literal[32, 16, 8] = 8
    deformable: tuple[Whole, Whole, Whole, Whole] = (0, 0, 0, 0)
    offset_groups: Count = 4
    conv: Callable = ConvNorm
    remat: recomputing.Remat = "none"

    READ_WHEN: ClassVar[dict] = {"offset_groups": ("deformable", NONZERO)}

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 3"], train: bool = False) -> Maps:
        """Normalised images → maps of stride 4, 8, … `output_stride`.

        Raises:
            UserError: an entry of `deformable` is above 1, or `offset_groups` does not divide the channels of the map before.
        """
        widths = [self.width * n for n in (1, 2, 4, 6)]
        before = [self.width, *widths[:-1]]
        groups = offset_groups(self.deformable, (1, 1, 1, 1), before, self.offset_groups)
        x = self.conv(self.width, 3, stride=2, name="stem")(x, train)
        maps, block = {}, recomputing.block(self, TinyBlock)
        for i, (stride, dilation, _) in enumerate(STAGES[self.output_stride]):
            x = block(
                features=widths[i],
                stride=2 if i == 0 else stride,  # there is no max-pooling: res2 halves the stem's map
                dilation=dilation,
                deformable=groups[i][0],
                conv=self.conv,
                name=f"res{i + 2}_1",
            )(x, train)
            maps[f"res{i + 2}"] = x
        return maps
