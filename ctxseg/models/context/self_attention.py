"""The last layers that all self-attention networks share."""

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
    """Convolves `y`, the result of attention, as `out`, concatenates it with `x`, the map before attention, and convolves both as `fuse`.

    It is called in a module. The convolutions become submodules of that module.
    """
    y = conv(channels, kernel, norm=norm, name="out")(y, train)
    return conv(channels, kernel, norm=norm, name="fuse")(jnp.concatenate([x, y], axis=-1), train)
