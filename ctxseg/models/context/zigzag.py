"""ZigZagNet (Lin et al., CVPR 2019): dense top-down and bottom-up passes that exchange region context. SPEC §5.

    P^{i,d}_{t+1} = B^i                                   if t = 0,  else ReLU( W^{i,d}_{t+1} * (F^{i,d}_t + F^{i,u}_t) )   (2)
    F^{i,d}_{t+1} = P^{i,d}_{t+1} + Π_{j>i} R^{j,d}_{t+1}                        from the coarsest level down               (1)
    P^{j,u}_{t+1} = F^{j,d}_{t+1}                         if t = 0,  else ReLU( W^{j,u}_{t+1} * (F^{j,d}_{t+1} + F^{j,u}_t) ) (4)
    F^{j,u}_{t+1} = P^{j,u}_{t+1} + Π_{i<j} R^{i,u}_{t+1}                        from the finest level up                   (3)
    R = RCE(F), resized bilinearly to the level that receives it                                                          (5, 6)

Every symbol has its own weights at every stage, level and direction ("we omit the notations d, u and t", §3).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn

from ctxseg.models.context.aspp import ASPP
from ctxseg.models.context.gcn import GCN
from ctxseg.models.context.global_fc import GlobalFC
from ctxseg.models.context.levels import select
from ctxseg.models.context.ppm import PPM
from ctxseg.models.context.rce import RegionContextEncoding
from ctxseg.models.layers import ConvNorm, Norm, resize

# What can give a map its context (Table 2), by the name in `ZigZag.region_context`.
REGION_CONTEXTS = {
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
        dense: context from all levels passed so far, or from the adjacent one alone.
        combine: `product` (the paper) or `sum` (its ablation "SCF") of the context maps.
        context_norm: `gate`, `batch` or `none`, on R before it is combined.
        train: batch statistics or running ones.

    The others are `ZigZag`'s.
    """

    first: bool
    up_levels: int
    dense: bool
    combine: str
    region_context: Callable
    norm: str
    context_norm: str
    fuse_kernel: int
    conv: Callable
    context_normalisation: Callable
    train: bool

    @nn.compact
    def __call__(self, maps, _=None):
        """`maps`: (F^d_t, F^u_t), two tuples of maps, finest first → ((F^d_{t+1}, F^u_{t+1}), None)."""
        before_down, before_up = maps
        levels = len(before_down)

        down, contexts = [None] * levels, []
        for i in reversed(range(levels)):
            p = before_down[i] if self.first else self.fuse(before_down[i] + before_up[i], f"fuse_down{i + 1}")
            down[i] = self.receive(p, contexts)
            if i > 0:
                contexts.append(self.context(down[i], f"context_down{i + 1}"))

        up, contexts = [], []
        for j in range(self.up_levels):
            p = down[j] if self.first else self.fuse(down[j] + before_up[j], f"fuse_up{j + 1}")
            up.append(self.receive(p, contexts))
            if j < self.up_levels - 1:
                contexts.append(self.context(up[j], f"context_up{j + 1}"))
        return (tuple(down), tuple(up)), None

    def fuse(self, x, name):
        return self.conv(x.shape[-1], self.fuse_kernel, norm=self.norm, name=name)(x, self.train)

    def context(self, f, name):
        r, _ = self.region_context(name=name)({"f": f}, train=self.train)
        if self.context_norm == "none":
            return r
        r = self.context_normalisation(name=f"{name}_norm")(r, self.train)
        return 2 * nn.sigmoid(r) if self.context_norm == "gate" else r

    def receive(self, p, contexts):
        """P + Π R (or Σ R) over the levels already passed, the last of which is adjacent."""
        if not contexts:
            return p
        received = [resize(r, p.shape[1:3]) for r in (contexts if self.dense else contexts[-1:])]
        total = received[0]
        for r in received[1:]:
            total = total * r if self.combine == "product" else total + r
        return p + total


class ZigZag(nn.Module):
    """The context module: four maps of a backbone → the fused map of level 1, which the classifier reads.

    The paper's Table 1 removes its parts one at a time (§6.1):

    - `dense=False`: a level receives the context of the adjacent level alone.
    - `exchange=False`: one pass down and up instead of `stages` of them.
    - `fusion=False`: "without fusing feature maps, the network has only one pass": no W anywhere, so one pass too, and level 1 is
      read as the pass leaves it, F^{1,u}_1 = F^{1,d}_1. What the bottom-up pass makes of the other levels then reaches
      no classifier, so it is not computed.
    - all three off: the top-down half alone, an encoder-decoder.

    Attributes:
        levels: names of the maps, finest first; () for the backbone's last four.
        channels: C, to which every map is projected by a 1×1 convolution.
        stages: T.
        region_context: what gives a map its context: `rce`, or one of those it is compared with in Table 2: `global_image`,
            `global_subregion`, `gcn`, `ppm`, `aspp`.
        subdivisions, region_pool: see `RegionContextEncoding`.
        combine: `product` or `sum`.
        exchange, fusion, dense: the switches above.
        norm: `batch` or `none`, on the projections, the fusing and the branches' convolutions.
        context_norm: what R passes before it is combined. `none`: the printed equations, whose product of several maps over
            several stages overflows float32 on unit-variance maps, and so needs pretrained weights or few levels.
            `batch`: batch normalisation, whose heavy-tailed products drown the maps. `gate` (default): 2·logistic(batch
            normalisation), a factor around 1, so that every level's context reaches the others to first order too.
        fuse_kernel: size of W.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        normalisation: the normalisation layer, likewise.
    """

    levels: tuple[str, ...] = ()
    channels: int = 256
    stages: int = 3
    region_context: Literal["rce", "global_image", "global_subregion", "gcn", "ppm", "aspp"] = "rce"
    subdivisions: tuple[int, ...] = (3, 5, 7)
    region_pool: Literal["sum", "mean"] = "mean"
    combine: Literal["product", "sum"] = "product"
    exchange: bool = True
    fusion: bool = True
    dense: bool = True
    norm: Literal["batch", "none"] = "batch"
    context_norm: Literal["gate", "batch", "none"] = "gate"
    fuse_kernel: Literal[1, 3, 5, 7] = 3
    conv: Callable = ConvNorm
    normalisation: Callable = Norm

    @nn.compact
    def __call__(self, features, regions=None, train: bool = False):
        """`features` {name: `[B,h_l,w_l,·]`} → P^{1,d}_{T+1} `[B,h_1,w_1,channels]`, {}. `regions` is not used."""
        maps = tuple(
            self.conv(self.channels, 1, norm=self.norm, relu=False, name=f"project{i + 1}")(f, train)
            for i, f in enumerate(select(features, self.levels, 4))
        )

        own = {"channels": self.channels}
        if self.region_context == "rce":
            own = {"subdivisions": self.subdivisions, "region_pool": self.region_pool}
        fields = own | {"norm": self.norm, "conv": self.conv}
        region_context = partial(REGION_CONTEXTS[self.region_context], **fields)

        fields = dict(
            dense=self.dense,
            combine=self.combine,
            region_context=region_context,
            norm=self.norm,
            context_norm=self.context_norm,
            fuse_kernel=self.fuse_kernel,
            conv=self.conv,
            context_normalisation=self.normalisation,
            train=train,
        )
        # The last stage's bottom-up pass stops at level 1: nothing reads the others.
        stages = self.stages if self.exchange and self.fusion else 1
        last_up = 1 if self.fusion else 0
        carry = (maps, ())
        carry, _ = Stage(first=True, up_levels=last_up if stages == 1 else len(maps), **fields, name="stage1")(carry)
        if stages > 2:
            alike = nn.scan(
                Stage, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=stages - 2
            )
            carry, _ = alike(first=False, up_levels=len(maps), **fields, name="stages")(carry, None)
        if stages > 1:
            carry, _ = Stage(first=False, up_levels=last_up, **fields, name=f"stage{stages}")(carry)
        down, up = carry
        if not self.fusion:
            return down[0], {}
        return self.conv(self.channels, self.fuse_kernel, norm=self.norm, name="fuse_out")(down[0] + up[0], train), {}
