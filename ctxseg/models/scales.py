"""Attention to scale (Chen et al., CVPR 2016): one segmenter on an image at several scales, and how their scores meet. SPEC §3.

g[i,c] = Σ_s w^s[i] · f^s[i,c],      w^s[i] = exp(h^s[i]) / Σ_t exp(h^t[i])                                (1, 2)
"""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from ctxseg.errors import UserError
from ctxseg.models.layers import Conv, relu, resize
from ctxseg.models.segmenter import Segmenter, SegmenterOutput


class MultiScale(nn.Module):
    """A segmenter whose scores at several scales are merged; its parameters are the segmenter's, and the attention head's.

    Attributes:
        segmenter: runs at every scale with the same weights.
        scales: S, factors of the image's height and width.
        merge: `attention`, `average` (w = 1/|S|) or `max`, over the scales' scores at the resolution of the largest.
        head_input: what the attention head reads at every scale: `context`, what the classifier reads (the paper's fc7); `logits` (fc8);
            or a map of the backbone, `conv6` (fc6).
        head_layers: 2 (the paper): a convolution of `head_filters` and ReLU, then a 1×1 one to |S| maps; or 1, the last with `head_kernel`.
        head_kernel: size of the first convolution.
        head_filters: its channels.
        dtype: of the computation.
    """

    segmenter: Segmenter
    scales: tuple[float, ...] = (1.0, 0.5)
    merge: Literal["attention", "average", "max"] = "attention"
    head_input: str = "context"
    head_layers: Literal[1, 2] = 2
    head_kernel: Literal[1, 3, 5, 7] = 3
    head_filters: int = 512
    dtype: Any = jnp.float32

    def setup(self):
        nn.share_scope(self, self.segmenter)
        scores = len(self.scales)
        if self.head_layers == 2:
            self.attention1 = Conv(self.head_filters, self.head_kernel, dtype=self.dtype)
        # From zeros: every scale weighs the same at first.
        kernel = 1 if self.head_layers == 2 else self.head_kernel
        self.attention2 = Conv(scores, kernel, kernel_init=nn.initializers.zeros, dtype=self.dtype)

    @property
    def num_classes(self):
        return self.segmenter.num_classes

    @property
    def memory(self):
        return self.segmenter.memory

    def __call__(self, images, regions=None, train: bool = False) -> SegmenterOutput:
        """As `Segmenter`. `scale_weights` are w, float32 `[B,h,w,|S|]`; `aux` has each scale's own scores as `scale/S`, and what else the
        segmenter gives at the largest scale, whose `pixels` and `features` are handed on.
        """
        height, width = images.shape[1:3]
        outputs = {}
        for s in self.scales:
            size = (max(round(height * s), 1), max(round(width * s), 1))
            scaled = images if size == (height, width) else resize(images.astype(jnp.float32), size)
            scaled_regions = regions if regions is None else resize(regions[..., None], size, "nearest")[..., 0]
            outputs[s] = self.segmenter(scaled, scaled_regions, train)
        largest = outputs[max(self.scales)]
        size = largest.logits.shape[1:3]
        scores = jnp.stack([resize(outputs[s].logits, size) for s in self.scales], axis=3)  # [B,h,w,S,K]
        weights = None
        if self.merge == "max":
            merged = scores.max(3)
        else:
            weights = self._weights(outputs.values(), size)
            merged = jnp.einsum("bhws,bhwsk->bhwk", weights, scores)
        aux = largest.aux | {f"scale/{s}": output.logits for s, output in outputs.items()}
        return largest.replace(logits=merged, aux=aux, scale_weights=weights)

    def _weights(self, outputs, size):
        count = len(self.scales)
        if self.merge == "average":
            batch = next(iter(outputs)).logits.shape[0]
            return jnp.full((batch, *size, count), 1 / count)
        maps = [output.features | {"logits": output.logits} for output in outputs]
        if self.head_input not in maps[0]:
            raise UserError(
                f"config.model.scales.head_input is {self.head_input!r}, but it can be {', '.join(maps[0])}"
            )
        x = jnp.concatenate([resize(m[self.head_input], size) for m in maps], axis=-1)
        if self.head_layers == 2:
            x = relu(self.attention1(x))
        return nn.softmax(self.attention2(x).astype(jnp.float32))
