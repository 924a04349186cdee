"""EfficientNet-Lite0, a mobile network whose ImageNet weights install as a package (SPEC §1, §10).

EfficientNet (Tan & Le, ICML 2019) without squeeze-and-excitation and with ReLU6, as TensorFlow's EfficientNet-Lite. Padding and batch
normalisation are TensorFlow's.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.models import recomputing
from ctxseg.models.backbones.layout import STAGES
from ctxseg.models.convolution import materialize, tensorflow_padding
from ctxseg.models.layers import ConvNorm
from ctxseg.models.shapes import Array, Maps

EPSILON = 1e-3
# Each group of blocks: number of blocks, kernel size, factor of the expansion, channels, and the map that it belongs to. A map's first
# group has the stride; "stem" has the stem's stride, 2.
GROUPS = (
    (1, 3, 1, 16, "stem"),
    (2, 3, 6, 24, "res2"),
    (2, 5, 6, 40, "res3"),
    (3, 3, 6, 80, "res4"),
    (3, 5, 6, 112, "res4"),
    (4, 5, 6, 192, "res5"),
    (1, 3, 6, 320, "res5"),
)


def relu6(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """min(max(x, 0), 6), computed once (see `materialize`)."""
    return materialize(_clip(x))


@jax.custom_jvp
def _clip(x):
    return jnp.clip(x, 0, 6)


# `jnp.clip` halves the gradient where a value equals a bound, which needs divisions; PyTorch's is 0 there.
_clip.defjvps(lambda dx, y, x: jnp.where((y > 0) & (y < 6), dx, 0))


class InvertedResidual(nn.Module):
    """1×1 to `expansion` times the channels, depthwise k×k, 1×1 to `features`, and a shortcut if the shape does not change.

    → `[B,⌈h/stride⌉,⌈w/stride⌉,features]` (Sandler et al., CVPR 2018). The result has no activation.

    Attributes:
        padded_for: the stride of the depthwise convolution at output stride 32. It determines the padding.
    """

    features: int
    kernel_size: int
    expansion: int
    stride: int = 1
    dilation: int = 1
    padded_for: int = 1
    conv: Callable = ConvNorm

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float[Array, "b _ _ {self.features}"]:
        y = x
        if self.expansion > 1:
            y = relu6(self.conv(self.expansion * x.shape[-1], 1, relu=False, epsilon=EPSILON, name="expand")(y, train))
        y = self.conv(
            y.shape[-1],
            self.kernel_size,
            stride=self.stride,
            dilation=self.dilation,
            relu=False,
            epsilon=EPSILON,
            before=self.dilation * tensorflow_padding(self.kernel_size, self.padded_for),
            depthwise=True,
            name="depthwise",
        )(y, train)
        y = self.conv(self.features, 1, relu=False, epsilon=EPSILON, name="project")(relu6(y), train)
        return x + y if self.padded_for == 1 and x.shape[-1] == self.features else y


class EfficientNetLite0(nn.Module):
    """Image → `{'res2', 'res3', 'res4', 'res5'}`, named and strided as a ResNet's maps.

    Attributes:
        output_stride: stride of the coarsest map, 32, 16 or 8.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        remat: see `recomputing`.
    """

    output_stride: Literal[32, 16, 8] = 8
    conv: Callable = ConvNorm
    remat: recomputing.Remat = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 3"], train: bool = False) -> Maps:
        """`x`, normalised images → maps of 24, 40, 112 and 320 channels."""
        before = tensorflow_padding(3, 2)
        x = relu6(self.conv(32, 3, stride=2, relu=False, epsilon=EPSILON, before=before, name="stem")(x, train))
        # (stride, dilation of the first depthwise convolution, dilation of the others)
        stages = {"stem": (1, 1, 1), "res2": (2, 1, 1)}
        stages |= {f"res{i}": stage for i, stage in enumerate(STAGES[self.output_stride][1:], 3)}
        maps: Maps = {}
        block = recomputing.block(self, InvertedResidual)
        for i, (count, kernel_size, expansion, features, stage) in enumerate(GROUPS, 1):
            stride, first, rest = stages[stage]
            for j in range(count):
                starts = stage != "stem" and stage not in maps and j == 0
                x = block(
                    features=features,
                    kernel_size=kernel_size,
                    expansion=expansion,
                    stride=stride if starts else 1,
                    dilation=first if starts else rest,
                    padded_for=2 if starts else 1,
                    conv=self.conv,
                    name=f"block{i}_{j + 1}",
                )(x, train)
            maps[stage] = x
        del maps["stem"]
        return maps
