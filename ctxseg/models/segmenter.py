"""The composition that every system here is a configuration of (SPEC, top):

    image → backbone → within-image context → beyond-image memory → classifier

`Segmenter` runs it at one scale. The stages know nothing of each other but the shapes that pass between them, so any
choice of one works with any choice of the others.
"""

from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from ctxseg.errors import UserError
from ctxseg.models.layers import Conv

# Mean and standard deviation of ImageNet's RGB values, in 0..255: what published backbone weights expect.
RGB_MEAN = (123.675, 116.28, 103.53)
RGB_STD = (58.395, 57.12, 57.375)


@flax.struct.dataclass
class SegmenterOutput:
    """What a segmenter returns.

    Attributes:
        logits: float32 `[B,h,w,K]`, at feature resolution; the loss and the evaluation upsample them, once.
        aux: {name: float32 `[B,h',w',K]`}, logits that only the loss reads.
        pixels: representations that the memory learns from, `[B,h,w,C]`, or None.
        scale_weights: weights over image scales, `[B,h,w,S]`, or None.
    """

    logits: jax.Array
    aux: dict[str, jax.Array] = flax.struct.field(default_factory=dict)
    pixels: jax.Array | None = None
    scale_weights: jax.Array | None = None


class Segmenter(nn.Module):
    """Backbone, context, memory and classifier, in this order.

    Attributes:
        backbone: (images, train) → {name: map}.
        context: (maps, regions, train) → map `[B,h,w,C]`; its `levels` names the maps that it reads.
        num_classes: K.
        memory: (map, train) → map `[B,h,w,C']`, with its bank in the collection `memory`; None leaves the stage out.
        dtype: of the computation; parameters, batch statistics and logits are float32.
    """

    backbone: nn.Module
    context: nn.Module
    num_classes: int
    memory: nn.Module | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, regions=None, train: bool = False) -> SegmenterOutput:
        """Scores of every class at every position of the feature map.

        Args:
            images: uint8 or float `[B,H,W,3]`, RGB in 0..255.
            regions: int32 `[B,H,W]`, super-pixel ids, for the contexts that need them.
            train: batch statistics (and their update, if `batch_stats` is mutable) or running ones.
        """
        x = (images.astype(jnp.float32) - jnp.array(RGB_MEAN)) / jnp.array(RGB_STD)
        features = self.backbone(x.astype(self.dtype), train)
        if missing := [name for name in self.context.levels if name not in features]:
            raise UserError(
                f"config.model.context.levels has {missing[0]!r}, but the backbone gives {', '.join(features)}"
            )
        x = self.context(features, regions, train)
        if self.memory is not None:
            x = self.memory(x, train)
        classifier = Conv(
            self.num_classes, 1, kernel_init=nn.initializers.lecun_normal(), dtype=self.dtype, name="classifier"
        )
        return SegmenterOutput(logits=classifier(x).astype(jnp.float32))
