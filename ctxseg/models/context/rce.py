"""Region context encoding, the part of ZigZagNet (Lin et al., CVPR 2019, §4) that gives a map its context. SPEC §5."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int

from ctxseg.bounds import Count
from ctxseg.models import extent
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.shapes import Array, Maps, Regions


def subregions(
    length: Any, cells: int, own: Int[Array, " b"] | None = None
) -> Float32[np.ndarray, "_ {cells}"] | Float32[Array, "b _ {cells}"]:
    """Which of `cells` equal parts each of `length` neurons lies in, one-hot: `[length,cells]`.

    Neuron `y` belongs to part ⌊y·cells/length⌋. A part is empty where the map is smaller than the subdivision. With `own`, the first `own`
    neurons of each image are parted, and the others in no part: `[B,length,cells]`.
    """
    if own is None:
        return np.eye(cells, dtype=np.float32)[np.arange(length) * cells // length]
    return jax.nn.one_hot(jnp.arange(length) * cells // own[:, None], cells, dtype=jnp.float32)


class RegionContextEncoding(nn.Module):
    """RCE: every subregion of a map hears from every other one, at several subdivisions (§4, eqs. 5 and 6).

    For each K' of `subdivisions`: a 3×3 convolution, the sum (or mean) of the neurons of each cell of a K'×K'
    partition, a K'×K' convolution without padding to one C-vector and ReLU, a K'×K' deconvolution of that vector, whose
    K'×K' values every neuron of the matching cell receives. Both K'×K' steps act on one position, so they are matrix products.

    Attributes:
        subdivisions: the K' of the branches.
        region_pool: `sum` (the paper) or `mean` over the neurons of a cell.
        norm: `batch` or `none`, on the branches' 3×3 convolutions.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        levels: names of maps, the last of which is read; () for the backbone's last.
    """

    subdivisions: tuple[Count, ...] = (3, 5, 7)
    region_pool: Literal["sum", "mean"] = "mean"
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm
    levels: tuple[str, ...] = ()

    KEEPS_CHANNELS = True  # as it stands behind a projection, inside ZigZagNet
    READS = 1  # the backbone's last map, where `levels` names none

    @nn.compact
    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], dict]:
        """R, of the shape of the last level's map, F. `regions` is not used."""
        f = select(features, self.levels, self.READS)[-1]
        _, height, width, channels = f.shape
        # The branches' C→C convolutions read the same map, so they run as one convolution to len(subdivisions)·C channels.
        branches = self.conv(len(self.subdivisions) * channels, 3, norm=self.norm, relu=False, name="branches")(
            f, train
        )
        own = extent.lengths((height, width)) or (None, None)
        z = "" if own[0] is None else "b"  # parts are of each image
        r = f
        for k, x in zip(self.subdivisions, jnp.split(branches, len(self.subdivisions), axis=-1), strict=True):
            rows, columns = subregions(height, k, own[0]), subregions(width, k, own[1])
            pool_rows, pool_columns = rows, columns
            if self.region_pool == "mean":
                pool_rows, pool_columns = (m / m.sum(-2, keepdims=True).clip(1) for m in (rows, columns))
            m = jnp.einsum(f"{z}hk,bhwc,{z}wl->bklc", pool_rows.astype(x.dtype), x, pool_columns.astype(x.dtype))
            encode = nn.DenseGeneral(channels, axis=(1, 2, 3), dtype=x.dtype, name=f"encode{k}")
            decode = nn.DenseGeneral((k, k, channels), use_bias=False, dtype=x.dtype, name=f"decode{k}")
            q = decode(nn.relu(encode(m)))
            r = r + jnp.einsum(f"{z}hk,bklc,{z}wl->bhwc", rows.astype(x.dtype), q, columns.astype(x.dtype))
        return r, {}
