"""Criss-cross attention, CCNet (Huang et al., ICCV 2019)."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models import extent
from ctxseg.models.context.levels import select
from ctxseg.models.context.self_attention import joined
from ctxseg.models.layers import Conv, ConvNorm
from ctxseg.models.shapes import Array, Maps, Regions


def criss_cross(
    query: Float[Array, "b h w d"], key: Float[Array, "b h w d"], value: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """Attention of every position to its row and its column; the position itself counts once (eqs. 1, 2).

    The weights are `[B,h,w,h+w]`, not `[B,hw,hw]`.
    """
    h, w = query.shape[1:3]
    columns = jnp.einsum("bijc,bmjc->bijm", query, key, preferred_element_type=jnp.float32)
    rows = jnp.einsum("bijc,bimc->bijm", query, key, preferred_element_type=jnp.float32)
    columns = jnp.where(jnp.eye(h, dtype=bool)[:, None], -jnp.inf, columns)  # the position itself is already in its row
    scores = jnp.concatenate([columns, rows], axis=-1)
    lengths = extent.lengths((h, w))
    if lengths is not None:
        inside = [jnp.arange(n) < count[:, None] for n, count in zip((h, w), lengths, strict=True)]
        scores = jnp.where(jnp.concatenate(inside, axis=-1)[:, None, None], scores, -jnp.inf)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    y = jnp.einsum("bijm,bmjc->bijc", weights[..., :h], value)
    return y + jnp.einsum("bijm,bimc->bijc", weights[..., h:], value)


class CCNet(nn.Module):
    """Criss-cross attention, applied twice with the same weights, so that every position has context from every other.

    Attributes:
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
        channels: channels of the result.
        recurrence: how many times the attention is applied.
        norm: normalisation of the convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 512
    recurrence: Count = 2
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
        keys = max(self.channels // 8, 1)
        query, key, value = (
            Conv(n, 1, dtype=self.dtype, name=name)
            for name, n in (("query", keys), ("key", keys), ("value", self.channels))
        )
        gamma = self.param("gamma", nn.initializers.zeros, (), jnp.float32)
        for _ in range(self.recurrence):
            y = (gamma * criss_cross(query(y), key(y), value(y)) + y).astype(y.dtype)
        return joined(x, y, self.conv, self.channels, 3, self.norm, train), {}
