"""Multi-scale features of DeepLab-MSc (Chen et al., ICLR 2015, §4.3), a baseline of Attention to Scale."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.levels import select
from ctxseg.models.layers import Conv, relu
from ctxseg.models.resizing import resize
from ctxseg.models.shapes import Array, Maps, Regions


class MSc(nn.Module):
    """Two-layer heads on the image and on finer maps, concatenated with the last map. A linear classifier adds the scores of all parts.

    Attributes:
        levels: names of maps. All but the last have a head; the classifier reads the last one unchanged, and the heads are resized to it.
            Default: pixels, pool1 … pool4 and conv7 of vgg16; pixels and the last four maps of another backbone.
        channels: channels of the 3×3 and the 1×1 convolution of each head.
        dtype: dtype of the computation.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 128
    dtype: Any = jnp.float32

    READS = 5  # the backbone's last 5 maps are read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], dict]:
        """A map of the size of the last level, with that level's channels and `channels` for each head. `regions` is not used."""
        levels = self.levels
        if not levels and "pool1" in features:
            levels = ("pixels", "pool1", "pool2", "pool3", "pool4", "conv7")
        *finer, last = select(features, levels, self.READS)
        parts = [last]
        for i, f in enumerate(finer, 1):
            for j, size in ((1, 3), (2, 1)):
                f = relu(Conv(self.channels, size, dtype=self.dtype, name=f"head{i}_{j}")(f))
            parts.append(resize(f, last.shape[1:3]))
        return jnp.concatenate(parts, axis=-1), {}
