"""MSCI: multi-scale context intertwining (Lin et al., ECCV 2018). SPEC §4.

Neighbouring levels of a backbone exchange context over T stages. Each receives context through an LSTM, whose inputs are the regions of
the other level. For the direction l → l+1, at the cell (y,x) of level l+1, which is in region S_n:

    R^l[n]  = Σ F^l over the cells of S_n                                                                                (3)
    M^l[n]  = Σ R^l over S_n and the regions that touch it                                                               (4)
    G_q     = act( W_q * F^{l+1} + W_{s,q} R^l[n] + W_{a,q} M^l[n] + b_q ),       q ∈ {i, f, o} (σ) and c (tanh)
    c'      = G_f ⊙ c + G_i ⊙ G_c                      A = tanh(G_o ⊙ c')
    F^{l+1}_{t+1} = F^{l+1}_t + A                                                                    (5, all of the LSTM)

The direction l+1 → l is the same with the levels exchanged. Both together are the bidirectional connection L of (1). Then
Q^l = F^l_T + D * F^{l+1}_T (2), where D is a learned 2× upsampling. This leaves one level less, and is repeated until one level is left
(Algorithm 1).
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int

from ctxseg.bounds import Count
from ctxseg.errors import UserError
from ctxseg.models import extent, initial
from ctxseg.models.context.levels import select
from ctxseg.models.layers import Conv, ConvNorm
from ctxseg.models.resizing import Upsample2, resize
from ctxseg.models.seen import show
from ctxseg.models.shapes import Array, Maps, Regions


def cell_regions(regions: Regions, size: extent.Size) -> Int[Array, "b h w"]:
    """The region at the centre of each cell's receptive field, for a map of `size`.

    With padded 3×3 convolutions and poolings of stride 2, the centre of cell i is pixel i·s, where the stride s is a power of two. (With
    the 2×2 poolings of `vgg16` with `layout=hrenet`, it is (s − 1)/2 pixels further. This is not taken into account.)
    """
    for axis, n in enumerate(size, 1):
        length = regions.shape[axis]
        stride = 1
        while -(-length // stride) > n:
            stride *= 2
        centres = jnp.minimum(jnp.arange(n) * stride, length - 1)
        regions = jnp.take(regions, centres, axis=axis)
    return regions


def adjacency(regions: Regions, count: int) -> Float32[Array, "b {count} {count}"]:
    """1 for each pair of regions that touch, and on the diagonal; else 0. Ids are in [0, count); other ids are no region.

    Two regions touch if a pixel of one is above or beside a pixel of the other.
    """

    def of_image(r):
        r = jnp.where((r >= 0) & (r < count), r, count)
        adjacent = jnp.eye(count, dtype=jnp.float32)
        for a, b in ((r[:-1], r[1:]), (r[:, :-1], r[:, 1:])):
            adjacent = adjacent.at[a, b].set(1, mode="drop").at[b, a].set(1, mode="drop")
        return adjacent

    return jax.vmap(of_image)(regions)


def region_sums(f: Float[Array, "b h w c"], cells: Int[Array, "b h w"], count: int) -> Float[Array, "b {count} c"]:
    """Sum of `f` over the cells of each region, 0 for a region without cells. The sums have at least the precision of float32."""
    b, h, w, c = f.shape
    f = f.astype(jnp.promote_types(f.dtype, jnp.float32))
    ids = jnp.where((cells >= 0) & (cells < count), cells, count)
    return jax.vmap(lambda x, i: jnp.zeros((count, c), f.dtype).at[i].add(x, mode="drop"))(
        f.reshape(b, h * w, c), ids.reshape(b, h * w)
    )


def spread(r: Float[Array, "b n c"], cells: Int[Array, "b h w"]) -> Float[Array, "b h w c"]:
    """The vector that the region of each cell has in `r`; 0 for a cell in no region.

    It has at least the precision of float32, and so has its gradient, which is a sum over the cells of a region.
    """
    r = r.astype(jnp.promote_types(r.dtype, jnp.float32))
    ids = jnp.where((cells >= 0) & (cells < r.shape[1]), cells, r.shape[1])
    take = jax.vmap(lambda x, i: x.at[i].get(mode="fill", fill_value=0))
    return take(r, ids)


def grid_regions(shape: tuple[Any, ...], count: int) -> Regions:
    """A regular grid in place of super-pixels, for images of `shape` `[B,H,W]`: ids of ⌊√count⌋² cells, -1 in padding (see `extent`)."""
    cells = max(math.isqrt(count), 1)
    lengths = extent.lengths(shape[1:]) or tuple(jnp.full(shape[0], n) for n in shape[1:])
    rows, columns = (jnp.arange(n) * cells // m[:, None] for n, m in zip(shape[1:], lengths, strict=True))
    ids = rows[:, :, None] * cells + columns[:, None]
    return extent.clear(ids[..., None], -1)[..., 0]


def mean_around(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The mean over the 3×3 positions around each position, of the same dtype; at the border, over those that are in the map."""
    dtype, x = x.dtype, x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def sums(x):
        for axis in (1, 2):
            n = x.shape[axis]
            x = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)])
            x = sum(jax.lax.slice_in_dim(x, i, i + n, axis=axis) for i in range(3))
        return x

    return (sums(extent.clear(x)) / jnp.maximum(sums(extent.clear(jnp.ones_like(x[..., :1]))), 1)).astype(dtype)


class Direction(nn.Module):
    """P^{a→b}: the context that level b receives from level a in one stage. Attributes: as in `MSCI`."""

    channels: int
    superpixels: bool
    cell_states: bool
    region_pool: str
    dtype: Any

    def setup(self):
        gates = 4 * self.channels
        self.conv = Conv(gates, 3, dtype=self.dtype)
        dense = {"use_bias": False, "dtype": self.dtype, "kernel_init": initial.lecun_normal()}
        self.sum = nn.Dense(gates, **dense)
        self.around = nn.Dense(gates, **dense)

    def __call__(
        self,
        source: Float[Array, "b hs ws c"],
        target: Float[Array, "b h w c"],
        c: Float[Array, "b h w c"],
        source_cells: Int[Array, "b hs ws"] | None,
        target_cells: Int[Array, "b h w"] | None,
        adjacent: Float[Array, "b n n"] | None,
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        """Maps `source` and `target` and the cell state `c` → the new map and cell state of `target`.

        `source_cells` and `target_cells` are the `cell_regions` of the maps, and `adjacent` is the `adjacency`; None without super-pixels.
        """
        gates = self.conv(target)
        if self.superpixels:
            assert source_cells is not None and target_cells is not None and adjacent is not None
            count = adjacent.shape[1]
            r = region_sums(source, source_cells, count)  # in float32: a sum of many cells
            if self.region_pool == "mean":
                cells = region_sums(jnp.ones_like(source[..., :1]), source_cells, count)
                r = r / jnp.maximum(cells, 1)
                adjacent = adjacent * (cells > 0).swapaxes(1, 2)
                adjacent = adjacent / jnp.maximum(adjacent.sum(2, keepdims=True), 1)
            m = jnp.einsum("bnm,bmc->bnc", adjacent.astype(r.dtype), r)
            gates = gates + spread(self.sum(r) + self.around(m), target_cells).astype(gates.dtype)
        else:
            r = resize(source, target.shape[1:3])
            gates = gates + self.sum(r) + self.around(mean_around(r))
        i, f, o, g = jnp.split(gates, 4, axis=-1)
        kept = nn.sigmoid(f) * c if self.cell_states else 0
        c = kept + nn.sigmoid(i) * jnp.tanh(g)
        return target + jnp.tanh(nn.sigmoid(o) * c), c


class LevelPair(nn.Module):
    """P^{l→l+1} and P^{l+1→l}, which all stages and phases use, and D. Attributes: as in `MSCI`; `upsample`: whether D upsamples."""

    channels: int
    stages: int
    superpixels: bool
    cell_states: bool
    region_pool: str
    directions: str
    upsample: bool
    dtype: Any

    def setup(self):
        fields = {
            name: getattr(self, name) for name in ("channels", "superpixels", "cell_states", "region_pool", "dtype")
        }
        self.up, self.down = Direction(**fields), Direction(**fields)
        if self.upsample:
            self.deconv = Upsample2(self.channels, self.dtype)
        else:
            self.deconv = Conv(self.channels, 3, dtype=self.dtype)

    def __call__(
        self,
        fine: Float[Array, "b h w c"],
        coarse: Float[Array, "b hc wc c"],
        states: tuple[Float[Array, "b hc wc c"], Float[Array, "b h w c"]],
        fine_cells: Int[Array, "b h w"] | None,
        coarse_cells: Int[Array, "b hc wc"] | None,
        adjacent: Float[Array, "b n n"] | None,
    ) -> tuple[Float[Array, "b h w c"], tuple[Float[Array, "b hc wc c"], Float[Array, "b h w c"]]]:
        """F^l, F^{l+1} and the cell states (of l → l+1, of l+1 → l) → Q^l and the new cell states."""

        def stage(pair, carry, _):
            fine, coarse, c_up, c_down = carry
            new_fine, new_coarse = fine, coarse
            if pair.directions != "down":
                new_coarse, c_up = pair.up(fine, coarse, c_up, fine_cells, coarse_cells, adjacent)
            if pair.directions != "up":
                new_fine, c_down = pair.down(coarse, fine, c_down, coarse_cells, fine_cells, adjacent)
            return (new_fine, new_coarse, c_up, c_down), None

        scan = nn.scan(stage, variable_broadcast="params", split_rngs={"params": False}, length=self.stages)
        (fine, coarse, c_up, c_down), _ = scan(self, (fine, coarse, *states), None)
        upsampled = self.deconv(coarse)
        return fine + upsampled[:, : fine.shape[1], : fine.shape[2]], (c_up, c_down)


class MSCI(nn.Module):
    """The context module: maps of a backbone → Q_K^1, which the classifier reads.

    The rows of the paper's Table 1 are: for "no cell states" `cell_states=False`, for "no super-pixels" `superpixels=False`, and for "no
    RNN" the context `none`.

    Attributes:
        levels: names of the maps to read, finest first. Default: the backbone's last four.
        channels: C, the number of channels to which a 1×1 convolution projects every map.
        stages: T, the number of stages in which two neighbouring levels exchange context.
        phases: number of phases, each of which leaves one map fewer. `all`: until one map is left. `one`: a single phase, after which the
            maps are summed at the size of the finest.
        directions: which of two neighbouring levels receives context: `both`, only the coarser (`up`) or only the finer (`down`).
        superpixels: whether the context of a cell has two parts: the sum over its region, and the sum over its region and those around it.
            Else ("context from a local regular window", the paper's §6), they are the other level's map at the same position, and its mean
            over 3×3 positions.
        cell_states: whether the LSTMs keep their cell states from stage to stage; else they are 0 before each stage.
        reset_states: set the cell states to 0 before each phase; else they are kept from phase to phase.
        region_shape: regions from which context comes: `superpixels`, or a regular `grid` of ⌊√regions⌋² cells.
        region_pool: how features are pooled over the cells of a region and over the regions around it: `sum` (the paper) or `mean`.
        regions: maximum number of super-pixels of an image, at least config.data.superpixels; with a grid, maximum number of its cells.
        norm: normalisation of the projections: `batch` or `none`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 256
    stages: Count = 3
    phases: Literal["all", "one"] = "all"
    directions: Literal["both", "up", "down"] = "both"
    superpixels: bool = True
    cell_states: bool = True
    reset_states: bool = False
    region_shape: Literal["superpixels", "grid"] = "superpixels"
    region_pool: Literal["sum", "mean"] = "sum"
    regions: Count = 1000
    norm: Literal["batch", "none"] = "batch"
    conv: Callable = ConvNorm
    dtype: Any = jnp.float32

    READS = 4  # the backbone's last 4 maps are read if `levels` names none

    READ_WHEN: ClassVar[dict] = {
        "reset_states": ("cell_states", (True,), "phases", ("all",)),
        "region_shape": ("superpixels", (True,)),
        "region_pool": ("superpixels", (True,)),
        "regions": ("superpixels", (True,)),
    }

    @property
    def most_superpixels(self) -> int | None:
        """Maximum number of super-pixels of an image; None if super-pixels are not read."""
        return self.regions if self.superpixels and self.region_shape == "superpixels" else None

    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """A map of the size of the first level.

        Raises:
            UserError: see `intertwine`.
        """
        maps = list(self.intertwine(features, regions, train, 1 if self.phases == "one" else None).values())
        total: Any = sum(resize(q, maps[0].shape[1:3]) for q in maps)
        return total, {}

    @nn.compact
    def intertwine(
        self, features: Maps, regions: Regions | None = None, train: bool = False, phases: int | None = None
    ) -> dict[str, Float[Array, "b _ _ {self.channels}"]]:
        """The maps after `phases` phases of Algorithm 1: {name of the finest level in Q: Q}, finest first.

        Args:
            features: the maps of the backbone.
            regions: super-pixel ids. A grid needs none; it has the size of `regions` or of the map `pixels`.
            train: see `Segmenter`.
            phases: number of phases; None for all L − 1, which leave one map.

        Raises:
            UserError: super-pixels are needed, but `regions` is None; or a level has neither the size of the next finer one nor half of it.
        """
        section = "connections" if self.name == "connections" else "context"  # of the config
        names = self.levels or tuple(features)[-4:]
        maps = [
            self.conv(self.channels, 1, norm=self.norm, relu=False, name=f"project{i + 1}")(f, train)
            for i, f in enumerate(select(features, self.levels, self.READS, f"{section}.levels"))
        ]
        cells: list[Any] = [None] * len(maps)
        adjacent = None
        if self.superpixels:
            if self.region_shape == "grid":
                image = features["pixels"] if regions is None else regions
                regions = grid_regions(image.shape[:3], self.regions)
            if regions is None:
                raise UserError(
                    f"config.model.{section}.superpixels needs super-pixels: set config.data.superpixels, to 1000 for photographs"
                )
            cells = [cell_regions(regions, f.shape[1:3]) for f in maps]
            adjacent = adjacency(regions, self.regions)
            if self.region_shape == "superpixels":
                show(self, "super-pixels", lambda: {"adjacency": adjacent})

        pairs, zeros = [], []
        for i, (fine, coarse) in enumerate(zip(maps, maps[1:], strict=False)):
            halved = tuple(-(-n // 2) for n in fine.shape[1:3])
            if coarse.shape[1:3] not in (fine.shape[1:3], halved):
                raise UserError(
                    f"config.model.{section}.levels: msci upsamples by 2, so a map of {fine.shape[1:3]} cannot be followed by one "
                    f"of {coarse.shape[1:3]}"
                )
            pair = LevelPair(
                channels=self.channels,
                stages=self.stages,
                superpixels=self.superpixels,
                cell_states=self.cell_states,
                region_pool=self.region_pool,
                directions=self.directions,
                upsample=coarse.shape[1:3] != fine.shape[1:3],
                dtype=self.dtype,
                name=f"pair{i + 1}",
            )
            pairs.append(pair)
            zeros.append((jnp.zeros_like(coarse), jnp.zeros_like(fine)))
        states: list[Any] = list(zeros)
        for _ in range(len(maps) - 1 if phases is None else min(phases, len(maps) - 1)):
            if self.cell_states and self.reset_states:
                states = list(zeros)
            merged = []
            for i in range(len(maps) - 1):
                q, states[i] = pairs[i](maps[i], maps[i + 1], states[i], cells[i], cells[i + 1], adjacent)
                merged.append(q)
            maps = merged
        return dict(zip(names, maps, strict=False))
