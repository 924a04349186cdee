"""Region context encoding (RCE), which computes the context of a map in ZigZagNet (Lin et al., CVPR 2019, §4). SPEC §5."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int

from ctxseg.bounds import Count
from ctxseg.models import extent, initial
from ctxseg.models.context.levels import select
from ctxseg.models.layers import ConvNorm
from ctxseg.models.shapes import Array, Maps, Regions


def subregions(
    length: Any, cells: int, valid: Int[Array, " b"] | None = None
) -> Float32[np.ndarray, "_ {cells}"] | Float32[Array, "b _ {cells}"]:
    """In which of `cells` equal parts each of `length` positions is, one-hot: `[length,cells]`.

    Position y is in part ⌊y·cells/length⌋. Some parts are empty if the map is smaller than the subdivision. With `valid`, the first
    `valid` positions of each image are divided, and the others, which are padding, are in no part: `[B,length,cells]`.
    """
    if valid is None:
        return np.eye(cells, dtype=np.float32)[np.arange(length) * cells // length]
    return jax.nn.one_hot(jnp.arange(length) * cells // valid[:, None], cells, dtype=jnp.float32)


class RegionContextEncoding(nn.Module):
    """RCE: every subregion of a map receives context from all others, at several subdivisions (§4, eqs. 5 and 6).

    There is a branch for each K' of `subdivisions`. It has a 3×3 convolution and sums (or averages) the positions of each cell of a
    K'×K' partition. A K'×K' convolution without padding, with ReLU, makes one C-vector of the cells. A K'×K' deconvolution of that
    vector gives one vector for each cell, which is added at all positions of the cell. Both K'×K' kernels cover the whole grid, so they
    are matrix products.

    Attributes:
        subdivisions: K' of each branch, which divides the map into K'×K' cells.
        region_pool: how the positions of a cell are pooled: `sum` (the paper) or `mean`.
        norm: normalisation of the branches' 3×3 convolutions: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
    """

    subdivisions: tuple[Count, ...] = (3, 5, 7)
    region_pool: Literal["sum", "mean"] = "mean"
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm
    levels: tuple[str, ...] = ()

    KEEPS_CHANNELS = True  # in ZigZagNet, a projection precedes it
    READS = 1  # the backbone's last map is read if `levels` names none

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
        lengths = extent.lengths((height, width)) or (None, None)
        z = "" if lengths[0] is None else "b"  # with padding, the subregions differ between images
        r, dense = f, partial(nn.DenseGeneral, dtype=f.dtype, kernel_init=initial.lecun_normal())
        for k, x in zip(self.subdivisions, jnp.split(branches, len(self.subdivisions), axis=-1), strict=True):
            rows, columns = subregions(height, k, lengths[0]), subregions(width, k, lengths[1])
            pool_rows, pool_columns = rows, columns
            if self.region_pool == "mean":
                pool_rows, pool_columns = (m / m.sum(-2, keepdims=True).clip(1) for m in (rows, columns))
            m = jnp.einsum(f"{z}hk,bhwc,{z}wl->bklc", pool_rows.astype(x.dtype), x, pool_columns.astype(x.dtype))
            encode = dense(channels, axis=(1, 2, 3), name=f"encode{k}")
            decode = dense((k, k, channels), use_bias=False, name=f"decode{k}")
            q = decode(nn.relu(encode(m)))
            r = r + jnp.einsum(f"{z}hk,bklc,{z}wl->bhwc", rows.astype(x.dtype), q, columns.astype(x.dtype))
        return r, {}
