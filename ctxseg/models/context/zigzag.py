"""ZigZagNet (Lin et al., CVPR 2019): dense top-down and bottom-up passes that exchange region context. SPEC §5.

    P^{i,d}_{t+1} = B^i                                   if t = 0,  else ReLU( W^{i,d}_{t+1} * (F^{i,d}_t + F^{i,u}_t) )   (2)
    F^{i,d}_{t+1} = P^{i,d}_{t+1} + Π_{j>i} R^{j,d}_{t+1}                        from the coarsest level down               (1)
    P^{j,u}_{t+1} = F^{j,d}_{t+1}                         if t = 0,  else ReLU( W^{j,u}_{t+1} * (F^{j,d}_{t+1} + F^{j,u}_t) ) (4)
    F^{j,u}_{t+1} = P^{j,u}_{t+1} + Π_{i<j} R^{i,u}_{t+1}                        from the finest level up                   (3)
    R = RCE(F), resized to the level that receives it                                                                     (5, 6)

W and RCE have separate weights at every stage, level and direction ("we omit the notations d, u and t", §3).
"""

import operator
import sys
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, ClassVar, Literal

import flax.linen as nn
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models.context.aspp import ASPP
from ctxseg.models.context.gcn import GCN
from ctxseg.models.context.global_fc import GlobalFC
from ctxseg.models.context.levels import select
from ctxseg.models.context.ppm import PPM
from ctxseg.models.context.rce import RegionContextEncoding
from ctxseg.models.layers import ConvNorm, Norm, relu
from ctxseg.models.resizing import area_resize, resize
from ctxseg.models.seen import show
from ctxseg.models.shapes import Array, Maps, Regions

# Modules that compute the context of a map (Table 2), by their name in `ZigZag.region_context`. `none`: the context is the map itself.
REGION_CONTEXTS: dict[str, Callable[..., nn.Module] | None] = {
    "none": None,
    "rce": RegionContextEncoding,
    "global_image": partial(GlobalFC, kind="image"),
    "global_subregion": partial(GlobalFC, kind="subregion"),
    "gcn": GCN,
    "ppm": PPM,
    "aspp": ASPP,
}


class Stage(nn.Module):
    """One stage, t → t+1: a top-down pass, then a bottom-up pass (eqs. 1 to 4). Maps are {level: `[B,h,w,C]`}, level 1 the finest.

    Attributes:
        fuse: (x, name) → ReLU( W * x ).
        encode: (F, name) → R.
        bring: (R, size, name) → R, resized to the `size` of a coarser level.
        combine: `product` or `sum` of the R that a level receives.
        dense: whether a level receives R of all levels that the pass visited before it, or only of the last one.
    """

    fuse: Callable
    encode: Callable
    bring: Callable
    combine: str
    dense: bool

    @nn.compact
    def __call__(self, down, up, up_levels):
        """F^d_t, F^u_t → F^d_{t+1}, F^u_{t+1}.

        Args:
            down: F^d_t of every level; B if t = 0.
            up: F^u_t of every level; None if t = 0.
            up_levels: last level of the bottom-up pass; 0 leaves the pass out.
        """
        first = up is None  # t = 0

        f_down, r = {}, {}
        for i in sorted(down, reverse=True):
            p = down[i] if first else self.fuse(down[i] + up[i], f"fuse_down{i}")  # (2)
            received = [resize(r[j], p.shape[1:3]) for j in self.senders(r)]
            f_down[i] = self.receive(p, received)  # (1)
            if i > 1:
                r[i] = self.encode(f_down[i], f"context_down{i}")  # (5, 6)
        self.show_contexts("top down", r)

        f_up, r = {}, {}
        for j in range(1, up_levels + 1):
            p = f_down[j] if first else self.fuse(f_down[j] + up[j], f"fuse_up{j}")  # (4)
            received = [self.bring(r[i], p.shape[1:3], f"bring{i}to{j}") for i in self.senders(r)]
            f_up[j] = self.receive(p, received)  # (3)
            if j < up_levels:
                r[j] = self.encode(f_up[j], f"context_up{j}")  # (5, 6)
        self.show_contexts("bottom up", r)
        return f_down, f_up

    def senders(self, r):
        """The levels whose R the next level receives, in the order in which the pass visited them."""
        return list(r) if self.dense else list(r)[-1:]

    def receive(self, p, contexts):
        """P + Π R, or P + Σ R; only P at the first level of a pass, which receives no context."""
        if not contexts:
            return p
        return p + reduce(operator.mul if self.combine == "product" else operator.add, contexts)

    def show_contexts(self, title, r):
        if r:
            show(self, title, lambda: {f"level {i}": x for i, x in r.items()})


# `Stage` calls these functions, with the options of `ZigZag` bound. The layers that they create belong to the calling module, as `name`.


def fuse(x, name: str, *, order, kernel, conv, normalisation, norm, train):
    """P, from the sum of both directions' maps (eqs. 2 and 4), with batch normalisation in one of three places (`ZigZag.fuse_order`)."""
    if order == "conv_norm_relu":
        return conv(x.shape[-1], kernel, norm=norm, name=name)(x, train)
    x = normalisation(kind=norm, name=f"{name}_norm")(x, train)
    if order == "norm_relu_conv":
        return conv(x.shape[-1], kernel, norm="none", relu=False, name=name)(relu(x), train)
    return conv(x.shape[-1], kernel, norm="none", name=name)(x, train)


def encode(f, name: str, *, region_context, context_norm, normalisation, train):
    """R = RCE(F) (eqs. 5 and 6), or another `region_context` of F, or F itself if that is None. Then normalised by `context_norm`."""
    r = f if region_context is None else region_context(name=name)({"f": f}, train=train)[0]
    if context_norm == "none":
        return r
    r = normalisation(name=f"{name}_norm")(r, train)
    return 2 * nn.sigmoid(r) if context_norm == "gate" else r


def bring(r, size, name: str, *, how, conv, norm, train):
    """R, resized to the `size` of a coarser level. Repeated halving may miss it by one (after Caffe's poolings), so a `resize` follows."""
    if how == "average":
        return area_resize(r, size)
    step = 1
    while how == "strided" and any(n > m for n, m in zip(r.shape[1:3], size, strict=True)):
        halve = conv(r.shape[-1], 3, stride=2, norm=norm, relu=False, name=f"{name}_{step}")
        r, step = halve(r if step == 1 else relu(r), train), step + 1
    return resize(r, size)


class ZigZag(nn.Module):
    """The context module: four maps of a backbone → the fused map of level 1, which the classifier reads, or of all levels, for detectors.

    The paper's Table 1 removes the parts of the network one at a time (§6.1):

    - `dense=False`: a level receives only the context of the adjacent level.
    - `exchange=False`: there is one stage, not `stages`.
    - `fusion=False`: there is no W, and so only one stage ("without fusing feature maps, the network has only one pass"). The
      classifier reads level 1 after that stage, F^{1,u}_1 = F^{1,d}_1. It does not depend on the other levels of the bottom-up pass, so
      these are not computed.
    - all three False: only the top-down pass. If `region_context` and `context_norm` are `none` too, this is a plain encoder-decoder,
      the first row of the table.

    Attributes:
        levels: names of the maps to read, finest first. Default: the backbone's last four.
        channels: C, the number of channels to which a 1×1 convolution projects every map.
        stages: T, the number of stages, each a top-down and a bottom-up pass.
        region_context: module that computes the context R of a map: `rce` (the paper), or one that Table 2 compares it with:
            `global_image`, `global_subregion`, `gcn`, `ppm`, `aspp`. `none`: R is the map itself.
        subdivisions: with region_context=rce: K' of each branch, which divides the map into K'×K' cells.
        region_pool: with region_context=rce: how the positions of a cell are pooled: `sum` (the paper) or `mean`.
        dilations: with region_context=aspp: dilations of the 3×3 branches.
        combine: how the contexts R that a level receives are combined: `product` (the paper) or `sum`.
        exchange: whether the passes exchange context over several stages; else there is one stage ("no exchange", Table 1).
        fusion: whether convolutions W fuse the maps of both directions; else there is one stage without W ("no fusion", Table 1).
        dense: whether a level receives the context of all levels before it in the pass; else only that of the adjacent level ("no dense
            pathways", Table 1).
        norm: normalisation of the projections, of the fusing convolutions and of those that compute the contexts: `batch` or `none`.
        context_norm: normalisation of the contexts R before they are combined. `none`: as in the printed equations. On maps of unit
            variance, the product of several maps over several stages then overflows float32, so this needs pretrained weights or few
            levels. `batch`: batch normalisation. Its products are heavy-tailed and outweigh the maps. `gate` (default): 2·sigmoid(batch
            normalisation), a factor around 1, so that the context of every level also reaches the others to first order.
        bring: how the bottom-up pass resizes a context R to a coarser level, which the paper does not say. `bilinear`: two taps per axis,
            so a factor of 8 reads 4 of 64 positions. `average`: the mean of all positions. `strided`: one 3×3 convolution of stride 2 for
            each factor of 2, with normalisation, and ReLU between them. At a factor of 2, `bilinear` equals `average`. The top-down pass
            always interpolates.
        fuse_kernel: kernel size of W, the convolution that fuses the maps of both directions.
        fuse_order: order of convolution, normalisation and ReLU where maps are fused. `conv_norm_relu`: ReLU(BN(W * x)); `norm_conv_relu`:
            ReLU(W * BN(x)); `norm_relu_conv`: W * ReLU(BN(x)). The paper has ReLU(W * x).
        readout: map of level 1 that the classifier reads. `down`: P^{1,d}_{T+1}, one of the maps that the paper's §3 defines. `up`:
            P^{1,u}_{T+1}, which its §5 names and which needs one more top-down pass.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        normalisation: the normalisation layer, with `dtype` and `axis_name` bound.
    """

    levels: tuple[str, ...] = ()
    channels: Count = 256
    stages: Count = 3
    region_context: Literal["rce", "global_image", "global_subregion", "gcn", "ppm", "aspp", "none"] = "rce"
    subdivisions: tuple[Count, ...] = (3, 5, 7)
    region_pool: Literal["sum", "mean"] = "mean"
    dilations: tuple[Count, ...] = (12, 24, 36)
    combine: Literal["product", "sum"] = "product"
    exchange: bool = True
    fusion: bool = True
    dense: bool = True
    norm: Literal["batch", "none"] = "batch"
    context_norm: Literal["gate", "batch", "none"] = "gate"
    bring: Literal["bilinear", "average", "strided"] = "bilinear"
    fuse_kernel: Literal[1, 3, 5, 7] = 3
    fuse_order: Literal["conv_norm_relu", "norm_conv_relu", "norm_relu_conv"] = "conv_norm_relu"
    readout: Literal["down", "up"] = "down"
    conv: Callable = ConvNorm
    normalisation: Callable = Norm

    READS = 4  # the backbone's last 4 maps are read if `levels` names none

    READ_WHEN: ClassVar[dict] = {
        "subdivisions": ("region_context", ("rce",)),
        "region_pool": ("region_context", ("rce",)),
        "dilations": ("region_context", ("aspp",)),
        "exchange": ("fusion", (True,)),
        "stages": ("exchange", (True,)),
        "combine": ("dense", (True,)),
        # If only level 1 of the last bottom-up pass is read, that pass resizes nothing.
        "bring": [("readout", ("up",)), ("stages", range(2, sys.maxsize))],
        "fuse_kernel": ("fusion", (True,)),
        "fuse_order": ("fusion", (True,)),
        "readout": ("fusion", (True,)),
    }
    READ_AS_NECK = ("bring",)  # `pyramid` reads all levels of the last bottom-up pass

    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w {self.channels}"], dict]:
        """P^{1,d}_{T+1}, of the size of the first level. `regions` is not used."""
        return self._maps(features, train, whole=False)[0], {}

    def pyramid(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b _ _ {self.channels}"], ...]:
        """P^{i,d}_{T+1} of all levels i, finest first; P^{i,u}_{T+1} with readout=up; F^{i,u}_1 without fusion. `regions` is not used.

        Unlike `__call__`, it computes the last bottom-up pass completely, and has a fusing convolution for each level.
        """
        return self._maps(features, train, whole=True)

    @nn.compact
    def _maps(self, features, train, whole):
        """The map of level 1, or of all levels if `whole`."""
        maps = {  # B^i
            i: self.conv(self.channels, 1, norm=self.norm, relu=False, name=f"project{i}")(x, train)
            for i, x in enumerate(select(features, self.levels, self.READS), 1)
        }
        conv: dict[str, Any] = {"conv": self.conv, "norm": self.norm, "train": train}
        normalisation: dict[str, Any] = {"normalisation": self.normalisation, "train": train}
        fuse_maps: Callable = partial(fuse, order=self.fuse_order, kernel=self.fuse_kernel, **(conv | normalisation))
        stage = partial(
            Stage,
            fuse=fuse_maps,
            encode=partial(
                encode, region_context=self._region_context(), context_norm=self.context_norm, **normalisation
            ),
            bring=partial(bring, how=self.bring, **conv),
            combine=self.combine,
            dense=self.dense,
        )
        T = self.stages if self.exchange and self.fusion else 1
        # How many levels of the last bottom-up pass are read.
        last_levels = len(maps) if whole else {"down": 1, "up": len(maps)}[self.readout] if self.fusion else 0

        down = maps
        up: Any = None  # there is no F^u_0
        for t in range(T):  # (1) to (6)
            down, up = stage(name=f"stage{t + 1}")(down, up, len(maps) if t < T - 1 else last_levels)
        if not self.fusion:
            return tuple(up.values()) if whole else (down[1],)  # F^{1,d}_1 = F^{1,u}_1
        if self.readout == "up":  # P^{i,u}_{T+1} needs F^{i,d}_{T+1}
            down, _ = stage(name=f"stage{T + 1}")(down, up, 0)
        # A stored network of one level has the name `fuse_out`.
        return tuple(fuse_maps(down[i] + up[i], f"fuse_out{i if i > 1 else ''}") for i in (maps if whole else (1,)))

    def _region_context(self):
        """The class that computes a map's context, with its fields bound; None for `none`."""
        module = REGION_CONTEXTS[self.region_context]
        if module is None:
            return None
        fields: dict[str, Any] = {"norm": self.norm, "conv": self.conv}
        if self.region_context == "rce":
            fields |= {"subdivisions": self.subdivisions, "region_pool": self.region_pool}
        else:
            fields |= {"channels": self.channels}
        if self.region_context == "aspp":
            fields |= {"dilations": self.dilations}
        return partial(module, **fields)
