"""VGG-16 made fully convolutional (SPEC §1): DeepLab-LargeFOV (Chen et al., ICLR 2015) and the H-ReNet paper's baseline FCN.

pool4 and pool5 have stride 1 and conv5 dilation 2, so that the stride is 8 from pool3 on; fc6 becomes conv6, a 3×3 convolution of
dilation 12.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from ctxseg.models.layers import ConvNorm, Dropout, max_pool

# Convolutions, and their width relative to conv1's, of conv1 … conv5.
BLOCKS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


class VGG16(nn.Module):
    """Image → `{'pool1', …, 'pool5', 'conv6', 'conv7'}`, the last five of stride 8.

    Attributes:
        conv7_kernel: 1, DeepLab-LargeFOV's fc7, or 3, the H-ReNet paper's baseline (its Table 2).
        width: channels of conv1; 64 in the papers. conv6 and conv7 have 16 times as many.
        norm: `none` (the papers, who start from pretrained weights) or `batch`, after every convolution.
        dropout: probability, after conv6 and conv7.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dropout_layer: the dropout layer, with `axis_name` bound.
    """

    conv7_kernel: Literal[1, 3] = 1
    width: int = 64
    norm: Literal["none", "batch"] = "none"
    dropout: float = 0.5
    conv: Callable = ConvNorm
    dropout_layer: Callable = Dropout

    @nn.compact
    def __call__(self, x, train: bool = False) -> dict[str, jnp.ndarray]:
        """`x` `[B,H,W,3]`, normalised → maps of `width` × 1, 2, 4, 8, 8, 16 and 16 channels."""
        maps = {}
        for i, (count, factor) in enumerate(BLOCKS, 1):
            for j in range(1, count + 1):
                dilation = 2 if i == 5 else 1
                x = self.conv(factor * self.width, 3, dilation=dilation, norm=self.norm, name=f"conv{i}_{j}")(x, train)
            if i <= 3:
                # 2×2 windows of stride 2; one more row or column where the size is odd.
                x = max_pool(x, 2, stride=2, padding="SAME")
            else:
                x = max_pool(x, 3, stride=1, padding=1)
            maps[f"pool{i}"] = x
        x = self.conv(16 * self.width, 3, dilation=12, norm=self.norm, name="conv6")(x, train)
        maps["conv6"] = x = self.dropout_layer(self.dropout)(x, train)
        x = self.conv(16 * self.width, self.conv7_kernel, norm=self.norm, name="conv7")(x, train)
        maps["conv7"] = self.dropout_layer(self.dropout)(x, train)
        return maps
