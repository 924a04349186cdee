"""Feature pyramid network (Lin et al., CVPR 2017): a top-down pass over the backbone's maps. SPEC §9."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.shapes import Array, Maps, Regions


class FPN(nn.Module):
    """From the coarsest map to the finest: repeat each value, and add the 1×1 projection of the next finer map (§3).

        M_L = W_L * C_L        M_i = W_i * C_i + up(M_{i+1})        P_i = V_i * M_i

    with 1×1 convolutions W and 3×3 convolutions V, without ReLU. As a context of a segmenter, it returns the finest map, P_1.

    Attributes:
        levels: names of the maps to read, finest first. Default: the backbone's last four.
        channels: channels of every map.
        norm: normalisation of the convolutions: `none` (the paper) or `batch`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 256
    norm: Literal["none", "batch"] = "none"
    conv: Callable = ConvNorm

    READS = 4  # the backbone's last 4 maps are read if `levels` names none

    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """The finest map. `regions` is not used."""
        return self._maps(features, train, 1)[0], {}

    def pyramid(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b _ _ {self.channels}"], ...]:
        """The maps of all levels, finest first. `regions` is not used."""
        return self._maps(features, train, None)

    @nn.compact
    def _maps(self, features, train, count):
        """The `count` finest maps; all if it is None."""
        merged: list[jax.Array] = []  # coarsest first
        maps = select(features, self.levels, self.READS)
        for i, x in reversed(list(enumerate(maps, 1))):
            lateral = self.conv(self.channels, 1, norm=self.norm, relu=False, name=f"project{i}")(x, train)
            merged.append(lateral + repeat(merged[-1], lateral.shape[1:3]) if merged else lateral)
        return tuple(
            self.conv(self.channels, 3, norm=self.norm, relu=False, name=f"smooth{i}")(x, train)
            for i, x in enumerate(merged[::-1][:count], 1)
        )


def repeat(x: Float[Array, "b h w c"], size: tuple) -> Float[Array, "b _ _ c"]:
    """`x` upsampled to `size`: position i reads position ⌊i/f⌋, where f, a power of 2, is the ratio of their strides.

    This is nearest interpolation if f divides `size`. Unlike `resize`, it also keeps positions aligned if f does not, and reads the same
    values whatever the padding (see `extent`).
    """
    if any(jax.export.is_symbolic_dim(n) for n in (*x.shape[1:3], *size)):
        # Sizes are then multiples of `extent.STRIDE`, and f divides them.
        rows, columns = (jnp.arange(n) // ((2 * n + m) // (2 * m)) for n, m in zip(size, x.shape[1:3], strict=True))
        return x[:, rows][:, :, columns]
    f, g = (1 << (-(-n // m) - 1).bit_length() for n, m in zip(size, x.shape[1:3], strict=True))
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, f, w, g, c)).reshape(b, h * f, w * g, c)
    return x[:, : size[0], : size[1]]
