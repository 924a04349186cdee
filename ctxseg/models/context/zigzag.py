"""ZigZagNet (Lin et al., CVPR 2019): dense top-down and bottom-up passes that exchange region context. SPEC §5.

    P^{i,d}_{t+1} = B^i                                   if t = 0,  else ReLU( W^{i,d}_{t+1} * (F^{i,d}_t + F^{i,u}_t) )   (2)
    F^{i,d}_{t+1} = P^{i,d}_{t+1} + Π_{j>i} R^{j,d}_{t+1}                        from the coarsest level down               (1)
    P^{j,u}_{t+1} = F^{j,d}_{t+1}                         if t = 0,  else ReLU( W^{j,u}_{t+1} * (F^{j,d}_{t+1} + F^{j,u}_t) ) (4)
    F^{j,u}_{t+1} = P^{j,u}_{t+1} + Π_{i<j} R^{i,u}_{t+1}                        from the finest level up                   (3)
    R = RCE(F), brought to the resolution of the level that receives it                                                   (5, 6)

Every symbol has its own weights at every stage, level and direction ("we omit the notations d, u and t", §3).
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn

from ctxseg.bounds import Count
from ctxseg.models.context.aspp import ASPP
from ctxseg.models.context.gcn import GCN
from ctxseg.models.context.global_fc import GlobalFC
from ctxseg.models.context.levels import select
from ctxseg.models.context.ppm import PPM
from ctxseg.models.context.rce import RegionContextEncoding
from ctxseg.models.layers import ConvNorm, Norm, area_resize, relu, resize
from ctxseg.models.seen import show

# What can give a map its context (Table 2), by the name in `ZigZag.region_context`; `none`: the map itself.
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
    """One stage t+1: a top-down pass, then a bottom-up pass (eqs. 1 to 4).

    Attributes:
        first: whether t = 0, where the backbone's maps enter and nothing is fused.
        up_levels: levels that the bottom-up pass has to produce, from the finest; 0 leaves the pass out.
        region_context: makes the module that gives a map its context, or None: R = F.
        train: batch statistics or running ones.

    The others are `ZigZag`'s.
    """

    first: bool
    up_levels: int
    region_context: Callable | None
    dense: bool
    combine: str
    norm: str
    context_norm: str
    bring: str
    fuse_kernel: int
    fuse_order: str
    conv: Callable
    normalisation: Callable
    train: bool

    @nn.compact
    def __call__(self, maps, _=None):
        """`maps`: (F^d_t, F^u_t), two tuples of maps, finest first → ((F^d_{t+1}, F^u_{t+1}), None)."""
        before_down, before_up = maps
        levels = len(before_down)

        down, contexts, seen = [None] * levels, [], {}
        for i in reversed(range(levels)):
            p = before_down[i] if self.first else self.fuse(before_down[i] + before_up[i], f"fuse_down{i + 1}")
            down[i] = self.receive(p, [resize(r, p.shape[1:3]) for r in contexts])
            if i > 0:
                seen[f"level {i + 1}"] = self.context(down[i], f"context_down{i + 1}")
                contexts.append(seen[f"level {i + 1}"])
                contexts = contexts if self.dense else contexts[-1:]

        show(self, "top down", seen.copy)

        up, contexts, seen = [], {}, {}
        for j in range(self.up_levels):
            p = down[j] if self.first else self.fuse(down[j] + before_up[j], f"fuse_up{j + 1}")
            received = [self.bring_down(r, p.shape[1:3], f"bring{i + 1}to{j + 1}") for i, r in contexts.items()]
            up.append(self.receive(p, received))
            if j < self.up_levels - 1:
                context = seen[f"level {j + 1}"] = self.context(up[j], f"context_up{j + 1}")
                contexts = (contexts if self.dense else {}) | {j: context}
        if seen:
            show(self, "bottom up", seen.copy)
        return (tuple(down), tuple(up)), None

    def fuse(self, x, name):
        fields = {"order": self.fuse_order, "kernel": self.fuse_kernel, "norm": self.norm, "train": self.train}
        return fuse(x, name, **fields, conv=self.conv, normalisation=self.normalisation)

    def context(self, f, name):
        r = f if self.region_context is None else self.region_context(name=name)({"f": f}, train=self.train)[0]
        if self.context_norm == "none":
            return r
        r = self.normalisation(name=f"{name}_norm")(r, self.train)
        return 2 * nn.sigmoid(r) if self.context_norm == "gate" else r

    def bring_down(self, r, size, name):
        """R at the resolution `size` of a coarser level, which halving may miss by one (Caffe's poolings): the rest is interpolated."""
        if self.bring == "average":
            return area_resize(r, size)
        step = 1
        while self.bring == "strided" and any(n > m for n, m in zip(r.shape[1:3], size, strict=True)):
            halved = self.conv(r.shape[-1], 3, stride=2, norm=self.norm, relu=False, name=f"{name}_{step}")
            r, step = halved(r if step == 1 else relu(r), self.train), step + 1
        return resize(r, size)

    def receive(self, p, contexts):
        """P + Π R (or Σ R) over the levels already passed."""
        if not contexts:
            return p
        total = contexts[0]
        for r in contexts[1:]:
            total = total * r if self.combine == "product" else total + r
        return p + total


def fuse(x, name: str, *, order, kernel, norm, train, conv, normalisation):
    """P, given the sum of two directions' maps (eqs. 2 and 4), with batch normalisation at one of three places; see `ZigZag.fuse_order`."""
    if order == "conv_norm_relu":
        return conv(x.shape[-1], kernel, norm=norm, name=name)(x, train)
    x = normalisation(kind=norm, name=f"{name}_norm")(x, train)
    if order == "norm_relu_conv":
        return conv(x.shape[-1], kernel, norm="none", relu=False, name=name)(relu(x), train)
    return conv(x.shape[-1], kernel, norm="none", name=name)(x, train)


class ZigZag(nn.Module):
    """The context module: four maps of a backbone → the fused map of level 1, which the classifier reads.

    The paper's Table 1 removes its parts one at a time (§6.1):

    - `dense=False`: a level receives the context of the adjacent level alone.
    - `exchange=False`: one pass down and up instead of `stages` of them.
    - `fusion=False`: "without fusing feature maps, the network has only one pass": no W anywhere, so one pass too, and level 1 is
      read as the pass leaves it, F^{1,u}_1 = F^{1,d}_1. What the bottom-up pass makes of the other levels then reaches
      no classifier, so it is not computed.
    - all three off: the top-down half alone. With `region_context` and `context_norm` `none` it is a plain encoder-decoder, the
      first row of the table.

    Attributes:
        levels: names of the maps, finest first; () for the backbone's last four.
        channels: C, to which every map is projected by a 1×1 convolution.
        stages: T.
        region_context: what gives a map its context: `rce`, or one of those it is compared with in Table 2: `global_image`,
            `global_subregion`, `gcn`, `ppm`, `aspp`; or `none`: R = F.
        subdivisions, region_pool: see `RegionContextEncoding`.
        dilations: see `ASPP`.
        combine: `product` or `sum`.
        exchange, fusion, dense: the switches above.
        norm: `batch` or `none`, on the projections, the fusing and the branches' convolutions.
        context_norm: what R passes before it is combined. `none`: the printed equations, whose product of several maps over
            several stages overflows float32 on unit-variance maps, and so needs pretrained weights or few levels.
            `batch`: batch normalisation, whose heavy-tailed products drown the maps. `gate` (default): 2·logistic(batch
            normalisation), a factor around 1, so that every level's context reaches the others to first order too.
        bring: how the bottom-up pass brings R to a coarser level, which the paper does not say: `bilinear`, two taps a direction, which
            at a factor of 8 read 4 of 64 positions; `average`, the mean of all; `strided`, 3×3 convolutions of stride 2, each halving,
            with normalisation, and ReLU between them. By a factor of 2, `bilinear` is `average`. The top-down pass interpolates.
        fuse_kernel: size of W.
        fuse_order: where W has its normalisation. `conv_norm_relu`: ReLU(BN(W * x)); `norm_conv_relu`: ReLU(W * BN(x)); `norm_relu_conv`:
            W * ReLU(BN(x)). The paper has ReLU(W * x).
        readout: what the classifier reads. `down`: P^{1,d}_{T+1}, one of the maps that §3 defines; `up`: P^{1,u}_{T+1}, which §5 names and
            which takes one more top-down pass.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        normalisation: the normalisation layer, likewise.
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

    READS = 4  # the backbone's last 4 maps, where `levels` names none

    READ_WHEN: ClassVar[dict] = {
        "subdivisions": ("region_context", ("rce",)),
        "region_pool": ("region_context", ("rce",)),
        "dilations": ("region_context", ("aspp",)),
        "exchange": ("fusion", (True,)),
        "stages": ("exchange", (True,)),
        "combine": ("dense", (True,)),
        # A last bottom-up pass of which level 1 alone is read brings nothing down.
        "bring": [("readout", ("up",)), ("stages", range(2, sys.maxsize))],
        "fuse_kernel": ("fusion", (True,)),
        "fuse_order": ("fusion", (True,)),
        "readout": ("fusion", (True,)),
    }

    @nn.compact
    def __call__(self, features, regions=None, train: bool = False):
        """`features` {name: `[B,h_l,w_l,·]`} → P^{1,d}_{T+1} `[B,h_1,w_1,channels]`, {}. `regions` is not used."""
        maps = tuple(
            self.conv(self.channels, 1, norm=self.norm, relu=False, name=f"project{i + 1}")(f, train)
            for i, f in enumerate(select(features, self.levels, self.READS))
        )

        fields: dict[str, Any] = {"norm": self.norm, "conv": self.conv}
        if self.region_context == "rce":
            fields |= {"subdivisions": self.subdivisions, "region_pool": self.region_pool}
        else:
            fields |= {"channels": self.channels}
        if self.region_context == "aspp":
            fields |= {"dilations": self.dilations}
        region_context = REGION_CONTEXTS[self.region_context]

        stage = partial(
            Stage,
            region_context=region_context and partial(region_context, **fields),
            dense=self.dense,
            combine=self.combine,
            norm=self.norm,
            context_norm=self.context_norm,
            bring=self.bring,
            fuse_kernel=self.fuse_kernel,
            fuse_order=self.fuse_order,
            conv=self.conv,
            normalisation=self.normalisation,
            train=train,
        )
        levels, stages = len(maps), self.stages if self.exchange and self.fusion else 1
        # How many levels of the last stage's bottom-up pass are read.
        last_up = {"down": 1, "up": levels}[self.readout] if self.fusion else 0
        carry = (maps, ())
        carry, _ = stage(first=True, up_levels=last_up if stages == 1 else levels, name="stage1")(carry)
        if stages > 2:
            alike = nn.scan(
                Stage, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=stages - 2
            )
            carry, _ = alike(first=False, up_levels=levels, **stage.keywords, name="stages")(carry, None)
        if stages > 1:
            carry, _ = stage(first=False, up_levels=last_up, name=f"stage{stages}")(carry)
        down, up = carry
        if not self.fusion:
            return down[0], {}
        if self.readout == "up":
            (down, _), _ = stage(first=False, up_levels=0, name=f"stage{stages + 1}")(carry)
        fields = {"order": self.fuse_order, "kernel": self.fuse_kernel, "norm": self.norm, "train": train}
        return fuse(down[0] + up[0], "fuse_out", **fields, conv=self.conv, normalisation=self.normalisation), {}
