"""ResNeSt with radix 2 and one cardinal group (Zhang et al., CVPRW 2022; SPEC §6b): `resnest50`, `resnest101`.

Where a stage has dilation in place of its stride, nothing is pooled, as in MCIBI's published runs and in mmsegmentation. The authors' code
keeps a 3×3 average pooling of stride 1 after the split attention of such a block; timm has a 2×2 one in its shortcut.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models import recomputing
from ctxseg.models.backbones.layout import STAGES
from ctxseg.models.layers import Conv, ConvNorm, Norm, relu
from ctxseg.models.resizing import average_pool, cell_mean, max_pool, window_mean
from ctxseg.models.shapes import Array, Maps

RADIX = 2  # maps in split attention


class SplitAttention(nn.Module):
    """A weighted sum of two maps of C channels, which follow each other in `x`: `[B,h,w,2C]` → `[B,h,w,C]` (§3.1).

    The weights of a channel are a softmax over the two maps. They depend on the mean of the sum of the maps over the image.
    """

    normalisation: Callable = Norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float[Array, "b h w _"]:
        first, second = jnp.split(x, RADIX, axis=-1)
        features = first.shape[-1]
        y = average_pool(first + second, (1, 1))
        y = Conv(max(RADIX * features // 4, 32), dtype=self.dtype, name="hidden")(y)
        y = relu(self.normalisation(name="norm")(y, train))
        y = Conv(RADIX * features, dtype=self.dtype, name="scores")(y)
        weights = nn.softmax(y.astype(jnp.float32).reshape(-1, 1, 1, RADIX, features), axis=3).astype(self.dtype)
        return weights[:, :, :, 0] * first + weights[:, :, :, 1] * second


class ResNeStBlock(nn.Module):
    """1×1 to `features`, 3×3 in `RADIX` groups, split attention, 1×1 to 4·`features`, and a shortcut.

    → `[B,⌈h/stride⌉,⌈w/stride⌉,4·features]`. A stride is a 3×3 average pooling after the split attention, and a 2×2 one in the shortcut.
    """

    features: int
    stride: int = 1
    dilation: int = 1
    conv: Callable = ConvNorm
    normalisation: Callable = Norm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float[Array, "b _ _ {4*self.features}"]:
        y = self.conv(self.features, 1, name="conv1")(x, train)
        y = self.conv(RADIX * self.features, 3, dilation=self.dilation, groups=RADIX, name="conv2")(y, train)
        y = SplitAttention(self.normalisation, self.dtype, name="attention")(y, train)
        if self.stride > 1:
            y = window_mean(y, 3, self.stride)
        y = self.conv(4 * self.features, 1, relu=False, name="conv3")(y, train)
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = cell_mean(x, self.stride)
            x = self.conv(4 * self.features, 1, relu=False, name="shortcut")(x, train)
        return relu(x + y)


class ResNeSt(nn.Module):
    """Image → `{'res2', 'res3', 'res4', 'res5'}`, named and strided as a ResNet's maps.

    Attributes:
        stage_sizes: number of blocks in res2, res3, res4 and res5.
        stem_width: channels of the first two of the stem's 3×3 convolutions; the third has twice as many.
        width: channels of the 3×3 convolutions in res2, 64 in the paper; res3, res4 and res5 have 2, 4 and 8 times as many.
        output_stride: stride of the last map, res5: 32, 16 or 8.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        normalisation: the normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
        remat: see `recomputing`.
    """

    stage_sizes: tuple[Count, Count, Count, Count] = (3, 4, 6, 3)
    stem_width: Count = 32
    width: Count = 64
    output_stride: Literal[32, 16, 8] = 8
    conv: Callable = ConvNorm
    normalisation: Callable = Norm
    dtype: Any = jnp.float32
    remat: recomputing.Remat = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 3"], train: bool = False) -> Maps:
        """Normalised images → maps of stride 4, 8, … `output_stride`, with 4·`width`·2^i channels."""
        for i, (features, stride) in enumerate(((1, 2), (1, 1), (2, 1)), 1):
            x = self.conv(features * self.stem_width, 3, stride=stride, name=f"stem{i}")(x, train)
        x = max_pool(x, 3, stride=2, padding=1)
        maps: Maps = {}
        block = recomputing.block(self, ResNeStBlock)
        for i, (blocks, (stride, first, rest)) in enumerate(
            zip(self.stage_sizes, STAGES[self.output_stride], strict=True)
        ):
            for j in range(blocks):
                x = block(
                    features=self.width * 2**i,
                    stride=stride if j == 0 else 1,
                    dilation=first if j == 0 else rest,
                    conv=self.conv,
                    normalisation=self.normalisation,
                    dtype=self.dtype,
                    name=f"res{i + 2}_{j + 1}",
                )(x, train)
            maps[f"res{i + 2}"] = x
        return maps
