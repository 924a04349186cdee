"""HRNetV2 (Wang et al., TPAMI 2020; SPEC §6b): `hrnetv2_w18`, `hrnetv2_w32`, `hrnetv2_w48`.

Branches of strides 4, 8, 16 and 32 run in parallel. After each module, every branch gets the sum of all.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.bounds import Count
from ctxseg.models import recomputing
from ctxseg.models.backbones.resnet import BasicBlock, Bottleneck
from ctxseg.models.layers import ConvNorm, relu
from ctxseg.models.resizing import repeat, resize
from ctxseg.models.shapes import Array, Maps

Branches: TypeAlias = tuple[Float[Array, "b _ _ _"], ...]


class Exchange(nn.Module):
    """Basic blocks in each branch, then the exchange between all branches; no shape changes (§3.2, "repeated multi-resolution fusions").

    Branch i becomes ReLU(Σ_j f_ji(x_j)). f_ii is the identity. For a coarser branch j, f_ji is a 1×1 convolution, and the map is then
    upsampled. For a finer one, it is 3×3 convolutions of stride 2, the last of which changes the number of channels.
    """

    blocks: int
    upsampling: Literal["bilinear", "nearest"]
    conv: Callable = ConvNorm

    @nn.compact
    def __call__(self, maps: Branches, train: bool) -> Branches:
        maps = tuple(self._blocks(i, x, train) for i, x in enumerate(maps, 1))
        return tuple(
            relu(sum(self._to(i, j, x, maps[i - 1], train) for j, x in enumerate(maps, 1)))
            for i in range(1, len(maps) + 1)
        )

    def _blocks(self, i, x, train):
        for j in range(1, self.blocks + 1):
            x = BasicBlock(x.shape[-1], conv=self.conv, name=f"branch{i}_{j}")(x, train)
        return x

    def _to(self, i, j, x, target, train):
        """`x`, the map of branch j, with the shape of `target`, the map of branch i."""
        if j > i:
            x = self.conv(target.shape[-1], 1, relu=False, name=f"up{j}_{i}")(x, train)
            if self.upsampling == "nearest":
                return repeat(x, 2 ** (j - i), target.shape[1:3])
            return resize(x, target.shape[1:3])
        for k in range(1, i - j + 1):
            last = k == i - j
            features = target.shape[-1] if last else x.shape[-1]
            x = self.conv(features, 3, stride=2, relu=not last, name=f"down{j}_{i}_{k}")(x, train)
        return x


class HRNet(nn.Module):
    """Image → `{'res2', 'res3', 'res4', 'res5', 'concat'}`: the branches, finest first, and all of them at stride 4, concatenated.

    Attributes:
        width: channels of the branch of stride 4: 18, 32 or 48 in the paper; each next branch has twice as many.
        stem_width: channels of the stem's convolutions and of the 3×3 convolutions in stage 1, 64 in the paper.
        modules: number of modules in stages 2, 3 and 4; each ends with an exchange between the branches.
        blocks: number of basic blocks in each branch of a module, and of bottlenecks in stage 1.
        upsampling: of the exchange from coarser to finer branches. `bilinear`: the authors' code for segmentation, MCIBI's published runs,
            mmsegmentation. `nearest`: the networks that are trained on ImageNet, and timm.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        remat: see `recomputing`.
    """

    width: Count = 48
    stem_width: Count = 64
    modules: tuple[Count, Count, Count] = (1, 4, 3)
    blocks: Count = 4
    upsampling: Literal["bilinear", "nearest"] = "bilinear"
    conv: Callable = ConvNorm
    remat: recomputing.Remat = "none"

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 3"], train: bool = False) -> Maps:
        """Normalised images → maps of stride 4, 8, 16 and 32 with `width` × 1, 2, 4 and 8 channels; `concat` has 15 times `width`."""
        for i in (1, 2):
            x = self.conv(self.stem_width, 3, stride=2, name=f"stem{i}")(x, train)
        block = recomputing.block(self, Bottleneck)
        for i in range(1, self.blocks + 1):
            x = block(self.stem_width, conv=self.conv, name=f"stage1_{i}")(x, train)
        maps: Branches = (x,)
        module = recomputing.block(self, Exchange)
        for stage, count in enumerate(self.modules, 2):
            # The coarsest branch begins a new one. In stage 2, the finest one also gets its number of channels.
            new = self.conv(self.width * 2 ** (stage - 1), 3, stride=2, name=f"transition{stage - 1}_{stage}")
            coarser = new(maps[-1], train)
            if stage == 2:
                maps = (self.conv(self.width, 3, name="transition1_1")(x, train),)
            maps = (*maps, coarser)
            for i in range(1, count + 1):
                maps = module(self.blocks, self.upsampling, self.conv, name=f"stage{stage}_{i}")(maps, train)
        result = {f"res{i}": y for i, y in enumerate(maps, 2)}
        fine = maps[0].shape[1:3]
        result["concat"] = jnp.concatenate([resize(y, fine) for y in maps], axis=-1)
        return result
