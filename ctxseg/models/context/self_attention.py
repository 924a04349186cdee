"""What networks of self-attention share: how they end."""

from collections.abc import Callable

import jax.numpy as jnp


def joined(x, y, conv: Callable, channels: int, kernel: int, norm: str, train: bool):
    """What attention gave, `y` `[B,h,w,·]`, convolved as `out`; then joined with the map it started from, `x`, and convolved as `fuse`.

    Called within a module, whose submodules these become.

    Returns:
        `[B,h,w,channels]`.
    """
    y = conv(channels, kernel, norm=norm, name="out")(y, train)
    return conv(channels, kernel, norm=norm, name="fuse")(jnp.concatenate([x, y], axis=-1), train)
