"""Region proposals (Ren et al., Faster R-CNN, NIPS 2015, §3.1; on several levels: Lin et al., FPN, CVPR 2017, §4.1). SPEC §9."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int

from ctxseg.models import initial
from ctxseg.models.detectors import boxes as box_ops
from ctxseg.models.detectors.nms import nms
from ctxseg.models.layers import Conv, ConvNorm
from ctxseg.models.shapes import Array

NO_WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # the deltas of anchors are not weighted
MINIMUM_SIZE = 1e-3  # pixels; smaller proposals are dropped, as in torchvision


class RPNHead(nn.Module):
    """A 3×3 convolution with ReLU, then 1×1 convolutions to the scores and the deltas of every anchor. All levels share it.

    Attributes:
        anchors: A, the number of anchors at a position.
        channels: channels of the 3×3 convolution; 0: as many as the map has.
        norm: normalisation of the 3×3 convolution: `none` or `batch`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
    """

    anchors: int
    channels: int = 0
    norm: Literal["none", "batch"] = "none"
    conv: Callable = ConvNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool
    ) -> tuple[Float32[Array, "b h*w*{self.anchors}"], Float32[Array, "b h*w*{self.anchors} 4"]]:
        """Scores (logits) and deltas of the anchors, in the order of `anchors.grid_anchors`."""
        x = self.conv(self.channels or x.shape[-1], 3, norm=self.norm, name="conv")(x, train)
        init = initial.normal(0.01)
        scores = Conv(self.anchors, 1, kernel_init=init, dtype=self.dtype, name="scores")(x)
        deltas = Conv(4 * self.anchors, 1, kernel_init=init, dtype=self.dtype, name="deltas")(x)
        scores, deltas = (y.astype(jnp.float32).reshape(len(x), -1, n) for y, n in ((scores, 1), (deltas, 4)))
        return scores[..., 0], deltas


def propose(
    scores: Sequence[Float32[Array, "b _"]],
    deltas: Sequence[Float32[Array, "b _ 4"]],
    anchors: Sequence[Float32[Array, "_ 4"]],
    valid: Sequence[Bool[Array, "b _"]],
    sizes: Int[Array, "b 2"],
    before: int,
    after: int,
    threshold: float,
    each_level: bool,
) -> tuple[Float32[Array, "b r 4"], Float32[Array, "b r"], Bool[Array, "b r"]]:
    """The best boxes that the anchors predict, after non-maximum suppression on each level.

    Args:
        scores: of the anchors of each level.
        deltas: of the anchors of each level.
        anchors: boxes of each level, the same for all images.
        valid: which anchors exist.
        sizes: height and width of each image, at which boxes are clipped.
        before: how many of the best anchors of each level enter the suppression.
        after: how many boxes remain.
        threshold: IoU from which, exclusively, a box is suppressed.
        each_level: whether `after` counts the boxes of each level; else, those of the image.

    Returns:
        Boxes, in pixels, best first (with `each_level`: best of the finest level first); their scores; and which of them are valid. r is
        `after`, or less if there are fewer anchors.
    """

    def level(anchors, scores, deltas, valid, size):
        """One level of one image."""
        best, index = jax.lax.top_k(jnp.where(valid, scores, -jnp.inf), min(before, len(scores)))
        boxes = box_ops.clip(box_ops.decode(deltas[index], anchors[index], NO_WEIGHTS), size)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= MINIMUM_SIZE).all(-1)
        kept, is_kept = nms(boxes, best, threshold, min(after, len(best)), (best > -jnp.inf) & large)
        return boxes[kept], jnp.where(is_kept, best[kept], -jnp.inf)

    levels = [
        jax.vmap(level, (None, 0, 0, 0, 0))(*inputs, sizes)
        for inputs in zip(anchors, scores, deltas, valid, strict=True)
    ]
    boxes, best = (jnp.concatenate(parts, 1) for parts in zip(*levels, strict=True))
    if not each_level:
        best, index = jax.lax.top_k(best, min(after, best.shape[1]))
        boxes = jnp.take_along_axis(boxes, index[..., None], 1)
    return boxes, best, best > -jnp.inf
