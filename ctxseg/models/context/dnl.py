"""Disentangled non-local block (Yin et al., ECCV 2020)."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ctxseg.bounds import Count, Factor
from ctxseg.models import extent
from ctxseg.models.attention import attention
from ctxseg.models.context.levels import select
from ctxseg.models.context.self_attention import joined
from ctxseg.models.layers import Conv, ConvNorm
from ctxseg.models.shapes import Array, Maps, Regions


def disentangled(
    query: Float[Array, "b n d"],
    key: Float[Array, "b n d"],
    value: Float[Array, "b n c"],
    unary: Float[Array, "b n 1"],
    temperature: float,
    mask: Bool[Array, "b n"] | None = None,
) -> Float[Array, "b n c"]:
    """Σ_j ( softmax_j( (q_i − μ_q)·(k_j − μ_k) / (√d·temperature) ) + softmax_j(m_j) ) v_j  (eq. 12).

    The whitened term compares positions with each other. The unary term finds the salient positions of the image. `mask`: which
    positions to attend to; None for all.
    """
    counts = None if mask is None else mask[..., None]
    dtype = jnp.promote_types(value.dtype, jnp.float32)
    query, key = (x.astype(dtype) for x in (query, key))
    query, key = ((x - jnp.mean(x, 1, keepdims=True, where=counts)).astype(value.dtype) for x in (query, key))
    pairwise = attention(query, key, value, scale=query.shape[-1] ** -0.5 / temperature, mask=mask)
    weights = jax.nn.softmax(unary.astype(jnp.float32), axis=1, where=counts).astype(value.dtype)
    return (pairwise + jnp.einsum("bmo,bmc->boc", weights, value).astype(dtype)).astype(value.dtype)


class DNL(nn.Module):
    """A disentangled non-local block between two 3×3 convolutions.

    Attributes:
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
        channels: channels of the result; the non-local block has half as many inside.
        temperature: divisor of the scores in the softmax of the pairwise term; 0.05 in the published code.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    temperature: Factor = 0.05
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm
    dtype: Any = jnp.float32

    READS = 1  # the backbone's last map is read if `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the last level. `regions` is not used."""
        x = select(features, self.levels, self.READS)[-1]
        y = self.conv(self.channels, 3, norm=self.norm, name="reduce")(x, train)
        inner = max(self.channels // 2, 1)
        query, key, value, unary = [
            Conv(n, 1, dtype=self.dtype, name=name)(y).reshape(y.shape[0], -1, n)
            for name, n in (("query", inner), ("key", inner), ("value", inner), ("mask", 1))
        ]
        z = disentangled(query, key, value, unary, self.temperature, extent.positions(y.shape[1:3]))
        z = z.reshape(*y.shape[:3], inner)
        y = y + self.conv(self.channels, 1, norm=self.norm, relu=False, name="project")(z, train)
        return joined(x, y, self.conv, self.channels, 3, self.norm, train), {}
