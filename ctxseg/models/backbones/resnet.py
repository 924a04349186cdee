"""ResNet v1 with dilation (He et al. 2016; SPEC §1): `resnet18` … `resnet152`.

The stride of a bottleneck is in its 3×3 convolution, or in its first 1×1 as in Detectron's networks. At output strides 16 and 8, the last
stages have dilation in place of stride, so that weights trained at stride 32 fit.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import NONZERO, Count, Whole
from ctxseg.models import recomputing
from ctxseg.models.backbones.layout import STAGES, offset_groups
from ctxseg.models.layers import ConvNorm, relu
from ctxseg.models.resizing import max_pool
from ctxseg.models.shapes import Array, Maps


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: → `[B,⌈h/stride⌉,⌈w/stride⌉,features]` (ResNet-18 and -34).

    `dilations` are those of the two convolutions. They differ in a block that has dilation in place of its stride: only the second
    convolution has the new dilation. `deformable`: see `ConvNorm`; of the second convolution.
    """

    features: int
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    deformable: int = 0
    conv: Callable = ConvNorm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float[Array, "b _ _ {self.features}"]:
        first, second = self.dilations
        y = self.conv(self.features, 3, stride=self.stride, dilation=first, name="conv1")(x, train)
        y = self.conv(self.features, 3, dilation=second, relu=False, deformable=self.deformable, name="conv2")(y, train)
        return relu(y + _shortcut(self, x, self.features, train))


class Bottleneck(nn.Module):
    """1×1 to `features`, 3×3, 1×1 to 4·`features`, and a shortcut: → `[B,⌈h/stride⌉,⌈w/stride⌉,4·features]`.

    `dilations` are as in `BasicBlock`; the 3×3 convolution has the first one. `strided` is the convolution that has the stride.
    `deformable`: see `ConvNorm`; of the 3×3 convolution.
    """

    features: int
    stride: int = 1
    dilations: tuple[int, int] = (1, 1)
    strided: Literal["3x3", "1x1"] = "3x3"
    deformable: int = 0
    conv: Callable = ConvNorm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float[Array, "b _ _ {4*self.features}"]:
        first, second = (self.stride, 1) if self.strided == "1x1" else (1, self.stride)
        y = self.conv(self.features, 1, stride=first, name="conv1")(x, train)
        settings = {"dilation": self.dilations[0], "deformable": self.deformable}
        y = self.conv(self.features, 3, stride=second, **settings, name="conv2")(y, train)
        y = self.conv(4 * self.features, 1, relu=False, name="conv3")(y, train)
        return relu(y + _shortcut(self, x, 4 * self.features, train))


def _shortcut(block, x, features, train):
    if block.stride == 1 and x.shape[-1] == features:
        return x
    return block.conv(features, 1, stride=block.stride, relu=False, name="shortcut")(x, train)


class ResNet(nn.Module):
    """Image → `{'res2', 'res3', 'res4', 'res5'}`.

    Attributes:
        stage_sizes: number of blocks in res2, res3, res4 and res5.
        block: `BasicBlock` or `Bottleneck`.
        output_stride: stride of the last map, res5: 32, 16 or 8.
        stem: first convolutions. `conv7`: one 7×7 to 64 channels. `conv3_32`: three 3×3 to 32, 32 and 64 channels ("ResNet-V1c", as in
            MCIBI's published weights). `conv3`: three 3×3 to 64, 64 and 128 channels, another layout of published weights.
        strided: convolution of a bottleneck that has its stride: `3x3` (PyTorch's weights), or the first `1x1` (Detectron's weights, He et
            al.'s paper). resnet18 and resnet34 have no bottlenecks.
        deformable: number of the last blocks of res2, res3, res4 and res5 whose 3×3 convolution is deformable (the second one of resnet18
            and resnet34). Deformable R-CNN: 0,0,0,3, or with FPN 0,1,1,3. Offsets start from zero; pretrained weights need not have them.
        offset_groups: number of groups of channels of a deformable convolution that have offsets of their own.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        remat: see `recomputing`.
    """

    stage_sizes: tuple[int, int, int, int]
    block: Callable
    output_stride: Literal[32, 16, 8] = 8
    stem: Literal["conv7", "conv3_32", "conv3"] = "conv7"
    strided: Literal["3x3", "1x1"] = "3x3"
    deformable: tuple[Whole, Whole, Whole, Whole] = (0, 0, 0, 0)
    offset_groups: Count = 4
    conv: Callable = ConvNorm
    remat: recomputing.Remat = "none"

    READ_WHEN: ClassVar[dict] = {"offset_groups": ("deformable", NONZERO)}

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 3"], train: bool = False) -> Maps:
        """Normalised images → maps of stride 4, 8, … `output_stride`, with 64·2^i channels (×4 for bottlenecks).

        Raises:
            UserError: `deformable` has more blocks than a stage, or `offset_groups` does not divide its channels.
        """
        widths = [64 * 2**i for i in range(4)]
        groups = offset_groups(self.deformable, self.stage_sizes, widths, self.offset_groups)
        if self.stem == "conv7":
            x = self.conv(64, 7, stride=2, name="stem")(x, train)
        else:
            width = 32 if self.stem == "conv3_32" else 64
            x = self.conv(width, 3, stride=2, name="stem1")(x, train)
            x = self.conv(width, 3, name="stem2")(x, train)
            x = self.conv(2 * width, 3, name="stem3")(x, train)
        x = max_pool(x, 3, stride=2, padding=1)
        maps: Maps = {}
        block = recomputing.block(self, self.block)
        bottleneck: dict[str, Any] = {} if self.block is BasicBlock else {"strided": self.strided}
        for i, (blocks, (stride, first, rest)) in enumerate(
            zip(self.stage_sizes, STAGES[self.output_stride], strict=True)
        ):
            for j in range(blocks):
                x = block(
                    features=widths[i],
                    stride=stride if j == 0 else 1,
                    dilations=(first if j == 0 else rest, rest),
                    deformable=groups[i][j],
                    conv=self.conv,
                    **bottleneck,
                    name=f"res{i + 2}_{j + 1}",
                )(x, train)
            maps[f"res{i + 2}"] = x
        return maps
