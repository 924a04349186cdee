"""Object-contextual representations, OCRNet (Yuan et al., ECCV 2020)."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32

from ctxseg.bounds import Count
from ctxseg.models import extent
from ctxseg.models.attention import attention
from ctxseg.models.classifier import Classifier
from ctxseg.models.context.levels import select
from ctxseg.models.context.self_attention import joined
from ctxseg.models.layers import ConvNorm
from ctxseg.models.resizing import resize
from ctxseg.models.shapes import Array, Maps, Regions


class OCR(nn.Module):
    """Attention from pixels to one representation of each class: the mean of all pixels, weighted by an auxiliary classification.

        f_k = Σ_i softmax_i(m_k) x_i             (3)          m: auxiliary scores, from the map before the last
        w_ik = softmax_k( φ(x_i)ᵀ ψ(f_k) )       (4, 6)
        y_i = ρ( Σ_k w_ik δ(f_k) )               (5)          z_i = g([x_i; y_i])       (7)

    Attributes:
        num_classes: K.
        levels: names of maps. The last two named are read, or a single one as both; the auxiliary classifier reads the first of the two.
            Default: the backbone's last two.
        channels: channels of the pixels' representations, of their context and of the result.
        key_channels: channels of the queries, keys and values.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
    """

    num_classes: int
    levels: tuple[str, ...] = ()
    channels: Count = 512
    key_channels: Count = 256
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm
    dtype: Any = jnp.float32

    READS = 2  # the backbone's last 2 maps are read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict[str, Float32[Array, "b _ _ {self.num_classes}"]]]:
        """A map of the size of the last level, and {"ocr": m}. `regions` is not used."""
        maps = select(features, self.levels, self.READS)
        before, last = maps[-2:] if len(maps) > 1 else (maps[0], maps[0])
        x = self.conv(self.channels, 3, norm=self.norm, name="pixels")(last, train)
        auxiliary = self.conv(self.channels, 3, norm=self.norm, name="auxiliary")(before, train)
        scores = Classifier(self.num_classes, conv=self.conv, dtype=self.dtype, name="regions")(auxiliary, train)
        objects = soft_object_regions(x, scores)

        def two_convolutions(y, name):
            for i in (1, 2):
                y = self.conv(self.key_channels, 1, norm=self.norm, name=f"{name}{i}")(y, train)
            return y

        query, key = two_convolutions(x, "query"), two_convolutions(objects, "key")
        value = self.conv(self.key_channels, 1, norm=self.norm, name="value")(objects, train)
        queries, keys, values = [t.reshape(t.shape[0], -1, self.key_channels) for t in (query, key, value)]
        y = attention(queries, keys, values, scale=self.key_channels**-0.5).reshape(query.shape)
        return joined(x, y, self.conv, self.channels, 1, self.norm, train), {"ocr": scores}


def soft_object_regions(x: Float[Array, "b h w c"], scores: Float32[Array, "b _ _ k"]) -> Float[Array, "b k 1 c"]:
    """f_k, from the representations `x` of pixels and their `scores`, which are resized to the size of `x`."""
    scores = resize(scores, x.shape[1:3])
    counts = extent.positions(x.shape[1:3])
    counts = None if counts is None else counts[..., None]
    weights = jax.nn.softmax(scores.reshape(x.shape[0], -1, scores.shape[-1]), axis=1, where=counts)
    objects = jnp.einsum("bnk,bnc->bkc", weights.astype(x.dtype), x.reshape(x.shape[0], -1, x.shape[-1]))
    return objects[:, :, None]
