"""VGG-16 made fully convolutional (SPEC §1): DeepLab-LargeFOV (Chen et al., ICLR 2015) and the H-ReNet paper's baseline FCN.

pool4 and pool5 have stride 1 and conv5 has dilation 2, so the stride is 8 from pool3 on. fc6 becomes conv6, a 3×3 convolution of
dilation 12. The two layouts differ in pool1 … pool3, in a pooling before conv6 and in conv7.

Where the cells are: at stride 8, the padded 3×3 poolings of `largefov` centre cell i on pixel 8i, and the 2×2 poolings of `hrenet` on
8i + 3.5. All resizing here has half-pixel centres (SPEC §0). For `hrenet` this is exact if 8 divides the size of the image. For
`largefov` it moves scores towards the middle of the image: in a crop of 321 pixels, which has 41 cells, by 3.4 pixels at the border
and not at all in the middle. DeepLab's released networks do not move scores. Their test network's Interp layer (zoom 8) aligns the
corners, on images padded to 513 = 8·64 + 1. In training, they compare the scores with the labels of every eighth pixel. To do the
same, `pixel_losses.cross_entropy`, `inference` and `models.scales` would have to align corners when they resize the scores of this layout.
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import Count, Portion
from ctxseg.models import recomputing
from ctxseg.models.layers import ConvNorm, Dropout
from ctxseg.models.resizing import max_pool, window_mean
from ctxseg.models.shapes import Array, Maps

# (number of convolutions, their width relative to conv1's) of conv1 … conv5.
BLOCKS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


class VGG16(nn.Module):
    """Image → `{'pool1', …, 'pool5', 'conv6', 'conv7'}`, the last five of stride 8.

    Attributes:
        layout: `largefov`: DeepLab-LargeFOV as in its published Caffe network. pool1 … pool3 are 3×3 and padded by 1 (n rows become
            ⌊n/2⌋ + 1), a 3×3 average pooling of stride 1 precedes conv6, and conv7 is 1×1. `hrenet`: the baseline of the H-ReNet paper (its
            Table 2). pool1 … pool3 are 2×2 (n rows become ⌈n/2⌉), there is no average pooling, and conv7 is 3×3.
        conv7_kernel: kernel size of conv7: 1 or 3; 0: that of the layout.
        width: channels of conv1, 64 in the papers; conv6 and conv7 have 16 times as many.
        norm: normalisation after every convolution: `none` (the papers, which start from pretrained weights) or `batch`.
        dropout: dropout probability after conv6 and conv7.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dropout_layer: the dropout layer, with `axis_name` bound.
        remat: see `recomputing`.
    """

    layout: Literal["largefov", "hrenet"] = "largefov"
    conv7_kernel: Literal[0, 1, 3] = 0
    width: Count = 64
    norm: Literal["none", "batch"] = "none"
    dropout: Portion = 0.5
    conv: Callable = ConvNorm
    dropout_layer: Callable = Dropout
    remat: recomputing.Remat = "none"

    # The layers that ImageNet weights lack: `config.model.kernel_std` draws them as those after the backbone.
    UNTRAINED: ClassVar[tuple[str, ...]] = ("conv6", "conv7")

    @staticmethod
    def effective(fields: dict) -> dict:
        """{"conv7_kernel": the kernel size that results from the fields of the section}."""
        return {"conv7_kernel": fields["conv7_kernel"] or (1 if fields["layout"] == "largefov" else 3)}

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 3"], train: bool = False) -> Maps:
        """Normalised images → maps of `width` × 1, 2, 4, 8, 8, 16 and 16 channels."""
        largefov = self.layout == "largefov"
        maps = {}
        for i, (count, factor) in enumerate(BLOCKS, 1):

            def convolutions(self, x, i=i, count=count, factor=factor):
                for j in range(1, count + 1):
                    conv = self.conv(
                        factor * self.width, 3, dilation=2 if i == 5 else 1, norm=self.norm, name=f"conv{i}_{j}"
                    )
                    x = conv(x, train)
                return x

            x = recomputing.blocks(self, convolutions)(self, x)
            if i > 3:
                x = max_pool(x, 3, stride=1, padding=1)
            elif largefov:
                x = max_pool(x, 3, stride=2, padding="CAFFE")
            else:
                # 2×2 windows of stride 2; one more row or column if the size is odd.
                x = max_pool(x, 2, stride=2, padding="SAME")
            maps[f"pool{i}"] = x
        if largefov:
            x = window_mean(x, 3)
        x = self.conv(16 * self.width, 3, dilation=12, norm=self.norm, name="conv6")(x, train)
        maps["conv6"] = x = self.dropout_layer(self.dropout)(x, train)
        kernel = self.effective({"conv7_kernel": self.conv7_kernel, "layout": self.layout})["conv7_kernel"]
        x = self.conv(16 * self.width, kernel, norm=self.norm, name="conv7")(x, train)
        maps["conv7"] = self.dropout_layer(self.dropout)(x, train)
        return maps
