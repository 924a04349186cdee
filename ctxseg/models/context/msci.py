"""MSCI: multi-scale context intertwining (Lin et al., ECCV 2018). SPEC §4.

Neighbouring levels of a backbone exchange context over T stages, each through an LSTM that the other one's regions feed. For the
direction l → l+1, at the cell (y,x) of level l+1, which lies in region S_n:

    R^l[n]  = Σ F^l over the cells of S_n                                                                                (3)
    M^l[n]  = Σ R^l over S_n and the regions that touch it                                                               (4)
    G_q     = act( W_q * F^{l+1} + W_{s,q} R^l[n] + W_{a,q} M^l[n] + b_q ),       q ∈ {i, f, o} (σ) and c (tanh)
    c'      = G_f ⊙ c + G_i ⊙ G_c                      A = tanh(G_o ⊙ c')
    F^{l+1}_{t+1} = F^{l+1}_t + A                                                                    (5, all of the LSTM)

and likewise for l+1 → l: together the bidirectional connection L of (1). Then Q^l = F^l_T + D * F^{l+1}_T (2), D a learned 2× upsampling:
one level less, and again, until one is left (Algorithm 1).
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
from ctxseg.models import extent
from ctxseg.models.context.levels import select
from ctxseg.models.layers import Conv, ConvNorm
from ctxseg.models.resizing import Upsample2, resize
from ctxseg.models.seen import show
from ctxseg.models.shapes import Array, Maps, Regions


def cell_regions(regions: Regions, size: extent.Size) -> Int[Array, "b h w"]:
    """The region at the centre of each cell's receptive field, of a map of `size`.

    Stacks of padded 3×3 convolutions and poolings of stride 2 centre cell i of a map of stride s, a power of two, on pixel i·s. (The
    2×2 poolings of `vgg16` with `layout=hrenet` centre it (s − 1)/2 pixels further, which is not taken into account.)
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
    """Which regions touch: 1, and on the diagonal; else 0. Ids are in [0, count), anything else is no region.

    Two regions touch where a pixel of one is above or beside a pixel of the other.
    """

    def of_image(r):
        r = jnp.where((r >= 0) & (r < count), r, count)
        touch = jnp.eye(count, dtype=jnp.float32)
        for a, b in ((r[:-1], r[1:]), (r[:, :-1], r[:, 1:])):
            touch = touch.at[a, b].set(1, mode="drop").at[b, a].set(1, mode="drop")
        return touch

    return jax.vmap(of_image)(regions)


def region_sums(f: Float[Array, "b h w c"], cells: Int[Array, "b h w"], count: int) -> Float[Array, "b {count} c"]:
    """Sum of `f` over the cells of each region, 0 of one without; in float32 at least."""
    b, h, w, c = f.shape
    f = f.astype(jnp.promote_types(f.dtype, jnp.float32))
    ids = jnp.where((cells >= 0) & (cells < count), cells, count)
    return jax.vmap(lambda x, i: jnp.zeros((count, c), f.dtype).at[i].add(x, mode="drop"))(
        f.reshape(b, h * w, c), ids.reshape(b, h * w)
    )


def spread(r: Float[Array, "b n c"], cells: Int[Array, "b h w"]) -> Float[Array, "b h w c"]:
    """To each cell what its region has in `r`, 0 to one in none."""
    ids = jnp.where((cells >= 0) & (cells < r.shape[1]), cells, r.shape[1])
    take = jax.vmap(lambda x, i: x.at[i].get(mode="fill", fill_value=0))
    return take(r, ids)


def grid_regions(shape: tuple[Any, ...], count: int) -> Regions:
    """A regular grid in place of super-pixels of images of `shape` `[B,H,W]`: ids of ⌊√count⌋² cells, -1 in padding (see `extent`)."""
    cells = max(math.isqrt(count), 1)
    own = extent.lengths(shape[1:]) or tuple(jnp.full(shape[0], n) for n in shape[1:])
    rows, columns = (jnp.arange(n) * cells // m[:, None] for n, m in zip(shape[1:], own, strict=True))
    ids = rows[:, :, None] * cells + columns[:, None]
    return extent.clear(ids[..., None], -1)[..., 0]


def mean_around(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """The mean of the positions around each, 3×3 of them and fewer at the border."""

    def sums(x):
        for axis in (1, 2):
            n = x.shape[axis]
            x = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(4)])
            x = sum(jax.lax.slice_in_dim(x, i, i + n, axis=axis) for i in range(3))
        return x

    return sums(extent.clear(x)) / jnp.maximum(sums(extent.clear(jnp.ones_like(x[..., :1]))), 1)


class Direction(nn.Module):
    """P^{a→b}: what level b takes from level a, one stage at a time.

    Attributes:
        channels: C.
        superpixels: R and M of regions. Else, "context from a local regular window" (§6, "Ablation Study of MSCI"): R is the other
            level's map at the same place, interpolated, and M its mean over 3×3 positions.
        cell_states: whether c is kept from stage to stage; else it is 0 before each.
        region_pool: `sum` or `mean`, over a region's cells and over the regions around.
        dtype: of the computation.
    """

    channels: int
    superpixels: bool
    cell_states: bool
    region_pool: str
    dtype: Any

    def setup(self):
        gates = 4 * self.channels
        self.conv = Conv(gates, 3, dtype=self.dtype)
        dense = {"use_bias": False, "dtype": self.dtype}
        self.sum = nn.Dense(gates, **dense)
        self.around = nn.Dense(gates, **dense)

    def __call__(
        self,
        source: Float[Array, "b hs ws c"],
        target: Float[Array, "b h w c"],
        c: Float[Array, "b h w c"],
        source_cells: Int[Array, "b hs ws"] | None,
        target_cells: Int[Array, "b h w"] | None,
        touch: Float[Array, "b n n"] | None,
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        """Maps `source` and `target` and the cell state `c` → the new map and cell state of `target`.

        `*_cells` are `cell_regions` of either map and `touch` the `adjacency`; None without super-pixels.
        """
        gates = self.conv(target)
        if self.superpixels:
            assert source_cells is not None and target_cells is not None and touch is not None
            count = touch.shape[1]
            r = region_sums(source, source_cells, count)  # in float32: a sum of many cells
            if self.region_pool == "mean":
                cells = region_sums(jnp.ones_like(source[..., :1]), source_cells, count)
                r = r / jnp.maximum(cells, 1)
                touch = touch * (cells > 0).swapaxes(1, 2)
                touch = touch / jnp.maximum(touch.sum(2, keepdims=True), 1)
            m = jnp.einsum("bnm,bmc->bnc", touch.astype(r.dtype), r)
            gates = gates + spread(self.sum(r) + self.around(m), target_cells).astype(gates.dtype)
        else:
            r = resize(source, target.shape[1:3])
            gates = gates + self.sum(r) + self.around(mean_around(r))
        i, f, o, g = jnp.split(gates, 4, axis=-1)
        kept = nn.sigmoid(f) * c if self.cell_states else 0
        c = kept + nn.sigmoid(i) * jnp.tanh(g)
        return target + jnp.tanh(nn.sigmoid(o) * c), c


class LevelPair(nn.Module):
    """P^{l→l+1} and P^{l+1→l}, reused over stages and phases, and the upsampling D. Attributes: see `Direction` and `MSCI`."""

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
        touch: Float[Array, "b n n"] | None,
    ) -> tuple[Float[Array, "b h w c"], tuple[Float[Array, "b hc wc c"], Float[Array, "b h w c"]]]:
        """F^l, F^{l+1} and the cell states (of l → l+1, of l+1 → l) → Q^l and the new cell states."""

        def stage(pair, carry, _):
            fine, coarse, c_up, c_down = carry
            new_fine, new_coarse = fine, coarse
            if pair.directions != "down":
                new_coarse, c_up = pair.up(fine, coarse, c_up, fine_cells, coarse_cells, touch)
            if pair.directions != "up":
                new_fine, c_down = pair.down(coarse, fine, c_down, coarse_cells, fine_cells, touch)
            return (new_fine, new_coarse, c_up, c_down), None

        scan = nn.scan(stage, variable_broadcast="params", split_rngs={"params": False}, length=self.stages)
        (fine, coarse, c_up, c_down), _ = scan(self, (fine, coarse, *states), None)
        lifted = self.deconv(coarse)
        return fine + lifted[:, : fine.shape[1], : fine.shape[2]], (c_up, c_down)


class MSCI(nn.Module):
    """The context module: maps of a backbone → Q_K^1, which the classifier reads.

    The rows of the paper's Table 1 are `cell_states=False`, `superpixels=False` and, for "no RNN", the context `none`.

    Attributes:
        levels: names of the maps, finest first; () for the backbone's last four.
        channels: C, to which every map is projected by a 1×1 convolution.
        stages: T.
        phases: `all`, K = L − 1, or `one`, after which the L − 1 maps are summed at the finest one's size.
        directions: `both`; or one alone: `up`, l → l+1, in which the coarser map receives, or `down`.
        superpixels, cell_states: see `Direction`.
        reset_states: cell states are 0 before each phase, and not kept from one to the next.
        region_shape: `superpixels`, or a regular `grid` of ⌊√regions⌋² cells in place of them.
        region_pool: `sum` (the paper) or `mean`.
        regions: super-pixels of an image, at most; `config.data.superpixels`.
        norm: `batch` or `none`, on the projections.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: of the computation.
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

    READS = 4  # the backbone's last 4 maps, where `levels` names none

    READ_WHEN: ClassVar[dict] = {
        "reset_states": ("cell_states", (True,), "phases", ("all",)),
        "region_shape": ("superpixels", (True,)),
        "region_pool": ("superpixels", (True,)),
        "regions": ("superpixels", (True,)),
    }

    @property
    def most_superpixels(self) -> int | None:
        """How many super-pixels an image may have; None where none are read."""
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
        """The maps after some phases of Algorithm 1, or after all L − 1 of them: {name of the finest level it is of: Q}, finest first.

        Args:
            features, regions: see `__call__`; a grid takes its size from `regions`, or from the map `pixels`.
            train: batch statistics or running ones.
            phases: how many; None for all, which leave one map.

        Raises:
            UserError: no regions, but super-pixels; or a level that is not as large as the next finer one, or half of it.
        """
        section = "connections" if self.name == "connections" else "context"  # of the config
        names = self.levels or tuple(features)[-4:]
        maps = [
            self.conv(self.channels, 1, norm=self.norm, relu=False, name=f"project{i + 1}")(f, train)
            for i, f in enumerate(select(features, self.levels, self.READS, section))
        ]
        cells: list[Any] = [None] * len(maps)
        touch = None
        if self.superpixels:
            if self.region_shape == "grid":
                image = features["pixels"] if regions is None else regions
                regions = grid_regions(image.shape[:3], self.regions)
            if regions is None:
                raise UserError(
                    f"config.model.{section}.superpixels needs super-pixels: set config.data.superpixels, 1000 for photographs"
                )
            cells = [cell_regions(regions, f.shape[1:3]) for f in maps]
            touch = adjacency(regions, self.regions)
            if self.region_shape == "superpixels":
                show(self, "super-pixels", lambda: {"adjacency": touch})

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
                q, states[i] = pairs[i](maps[i], maps[i + 1], states[i], cells[i], cells[i + 1], touch)
                merged.append(q)
            maps = merged
        return dict(zip(names, maps, strict=False))
