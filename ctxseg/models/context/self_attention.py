"""What networks of self-attention share: how they end."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.models.shapes import Array


def joined(
    x: Float[Array, "b h w _"],
    y: Float[Array, "b h w _"],
    conv: Callable,
    channels: int,
    kernel: int,
    norm: str,
    train: bool,
) -> Float[Array, "b h w {channels}"]:
    """What attention gave, `y`, convolved as `out`; then joined with the map it started from, `x`, and convolved as `fuse`.

    Called within a module, whose submodules these become.
    """
    y = conv(channels, kernel, norm=norm, name="out")(y, train)
    return conv(channels, kernel, norm=norm, name="fuse")(jnp.concatenate([x, y], axis=-1), train)
