"""Attention to scale (Chen et al., CVPR 2016): one segmenter runs at several scales, and their scores are merged. SPEC §3.

g[i,c] = Σ_s w^s[i] · f^s[i,c],      w^s[i] = exp(h^s[i]) / Σ_t exp(h^t[i])                                (1, 2)
"""

import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Int32, Real

from ctxseg.bounds import Count, Factor
from ctxseg.errors import UserError
from ctxseg.models import extent
from ctxseg.models.auxiliary import AuxiliaryLogits
from ctxseg.models.layers import Conv, relu
from ctxseg.models.resizing import resize
from ctxseg.models.seen import show
from ctxseg.models.segmenter import Segmenter, SegmenterOutput
from ctxseg.models.shapes import Array, Regions


class MultiScale(nn.Module):
    """A segmenter at several scales, with merged scores. Its parameters are those of the segmenter and of the attention head.

    Attributes:
        segmenter: the segmenter, which runs at every scale with the same weights.
        scales: S, factors of the image's height and width.
        merge: how the scores of all scales are merged, at the resolution of the largest: `attention`, `average` (w = 1/|S|) or `max`.
        head_input: map that the attention head reads at every scale: `context`, which the classifier reads (the paper's fc7); `logits`
            (fc8); or a map of the backbone, such as `conv6` (fc6).
        head_layers: layers of the attention head. 2 (the paper): a convolution to head_filters channels, ReLU, and a 1×1 convolution to
            |S| maps. 1: one convolution to |S| maps.
        head_kernel: kernel size of the attention head's first convolution.
        head_filters: channels of the attention head's first convolution, if it has two.
        dtype: dtype of the computation.
    """

    segmenter: Segmenter
    scales: tuple[Factor, ...] = (1.0, 0.5)
    merge: Literal["attention", "average", "max"] = "attention"
    head_input: str = "context"
    head_layers: Literal[1, 2] = 2
    head_kernel: Literal[1, 3, 5, 7] = 3
    head_filters: Count = 512
    dtype: Any = jnp.float32

    READ_WHEN: ClassVar[dict] = {
        "head_input": ("merge", ("attention",)),
        "head_layers": ("merge", ("attention",)),
        "head_kernel": ("merge", ("attention",)),
        "head_filters": ("merge", ("attention",), "head_layers", (2,)),
    }

    def setup(self):
        nn.share_scope(self, self.segmenter)
        scores = len(self.scales)
        if self.head_layers == 2:
            self.attention1 = Conv(self.head_filters, self.head_kernel, dtype=self.dtype)
        # Initialised with zeros: at first, every scale has the same weight.
        kernel = 1 if self.head_layers == 2 else self.head_kernel
        self.attention2 = Conv(scores, kernel, kernel_init=nn.initializers.zeros, dtype=self.dtype)

    @property
    def num_classes(self):
        return self.segmenter.num_classes

    @property
    def backbone(self):
        return self.segmenter.backbone

    @property
    def memory(self):
        return self.segmenter.memory

    @property
    def pixels(self):
        return self.segmenter.pixels

    @property
    def most_superpixels(self):
        return self.segmenter.most_superpixels

    def example(self, size):
        return self.segmenter.example(size)

    def __call__(
        self,
        images: Real[Array, "b H W 3"],
        regions: Regions | None = None,
        train: bool = False,
    ) -> SegmenterOutput:
        """The merged scores, with the arguments and the result of `Segmenter`.

        `scale_weights` are w, float32 `[B,h,w,|S|]`. `aux` has the scores of each scale s as `scale/s` (extra supervision, §3.3), and the
        auxiliary scores of the largest scale. `pixels` and `features` are those of the largest scale.
        """
        shape = images.shape[1:3]
        outputs, padding = {}, {}
        for s in self.scales:
            size, sizes, lengths = extent.scaled(shape, s)
            scaled = images if s == 1 else resize(jnp.asarray(images, jnp.float32), size, lengths=lengths)
            with extent.padded(sizes, size):
                padding[s] = extent.current()
                scaled_regions = regions
                if regions is not None and s != 1:
                    scaled_regions = resize(jnp.asarray(regions)[..., None], size, "nearest", lengths=lengths)
                    scaled_regions = extent.clear(scaled_regions, -1)[..., 0]
                outputs[s] = self.segmenter(scaled, scaled_regions, train)
        largest = max(self.scales)
        result = outputs[largest]
        size = result.logits.shape[1:3]

        def to_largest(x, s):
            if s == largest and x.shape[1:3] == size:
                return x
            with extent.resumed(padding[s]):
                lengths = extent.lengths(x.shape[1:3])
            return resize(x, size, lengths=None if lengths is None else (lengths, result.lengths))

        scores = jnp.stack([to_largest(outputs[s].logits, s) for s in self.scales], axis=3)  # [B,h,w,S,K]
        weights = None
        if self.merge == "max":
            merged = scores.max(3)
            show(self, "scales", lambda: {"chosen": chosen_scale(scores)})
        elif self.merge == "average":
            weights = jnp.full((scores.shape[0], *size, len(self.scales)), 1 / len(self.scales))
            merged = scores.mean(3)
        else:
            heads = [to_largest(self._head_map(outputs[s]), s) for s in self.scales]
            with extent.resumed(padding[largest]):
                weights = self._weights(jnp.concatenate(heads, axis=-1))
            show(self, "scales", lambda: {"weights": weights})
            merged = jnp.einsum("bhws,bhwsk->bhwk", weights, scores)
        each_scale = {
            f"scale/{s}": AuxiliaryLogits(output.logits, weight="scales", targets="resized_labels")
            for s, output in outputs.items()
        }
        return dataclasses.replace(result, logits=merged, aux=result.aux | each_scale, scale_weights=weights)

    def _head_map(self, output):
        maps = output.features | {"logits": output.logits}
        if self.head_input not in maps:
            raise UserError(f"config.model.scales.head_input is {self.head_input!r}; expected one of {', '.join(maps)}")
        return maps[self.head_input]

    def _weights(self, x):
        """w, from the concatenated maps of all scales: `[B,h,w,C]` → float32 `[B,h,w,|S|]`."""
        if self.head_layers == 2:
            x = relu(self.attention1(x))
        return nn.softmax(self.attention2(x).astype(jnp.float32))


def chosen_scale(scores: Float[Array, "b h w s k"]) -> Int32[Array, "b h w"]:
    """Index of the scale that has the highest score of any class, at each position."""
    winner = scores.max(3).argmax(-1)
    return jnp.take_along_axis(scores, winner[..., None, None], -1)[..., 0].argmax(3).astype(jnp.int32)
