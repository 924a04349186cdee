"""Vision Transformers (SPEC §6b): ViT (Dosovitskiy et al., ICLR 2021) and DINOv2 (Oquab et al. 2024; registers: Darcet et al., ICLR 2024).

An image is cut into patches, which become tokens:

    t_0 = [class; registers; patches(image)] + positions                      one row of positions for the class token and each patch
    t   = t + s1 · attention(norm1(t)),    t = t + s2 · MLP(norm2(t))         in each block; s1, s2: layer scale, DINOv2 only

The blocks are the same computation with other parameters, so they are compiled once, as the body of a loop.

Images may have any size. Positions are learned for a square grid, and resized to the grid of each image, without its padding.
"""

from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ctxseg.bounds import OFF, Amount, Count, Portion, Whole
from ctxseg.errors import UserError
from ctxseg.models import extent, initial, recomputing
from ctxseg.models.attention import attention
from ctxseg.models.layers import Dropout, StochasticDepth, promote_all_but_bias
from ctxseg.models.resizing import area_resize, resize
from ctxseg.models.shapes import Array, Maps

EPSILON = 1e-6
STD = 0.02
# Maps of the pyramid, and their strides.
PYRAMID = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class SelfAttention(nn.Module):
    """Attention of all tokens to all, with several heads (Vaswani et al. 2017, §3.2): `[B,n,C]` → `[B,n,C]`.

    Parameters: `qkv`, a dense layer `[C,3C]` (queries, keys and values, each of all heads), and `out`, `[C,C]`.
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"], mask: Bool[Array, "b n"] | None) -> Float[Array, "b n c"]:
        b, n, c = x.shape
        size = c // self.heads
        x = _dense(self, 3 * c, "qkv")(x).reshape(b, n, 3, self.heads, size)
        queries, keys, values = x.transpose(2, 0, 3, 1, 4).reshape(3, b * self.heads, n, size)
        mask = None if mask is None else jnp.repeat(mask, self.heads, axis=0)
        y = attention(queries, keys, values, size**-0.5, mask=mask)
        return _dense(self, c, "out")(y.reshape(b, self.heads, n, size).swapaxes(1, 2).reshape(b, n, c))


class Block(nn.Module):
    """A block of a transformer: attention and an MLP, each with normalisation before it and a shortcut.

    Its fields are those of `ViT`.
    """

    heads: int
    layer_scale: float = 0.0
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dropout_layer: Any = Dropout
    axis_name: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n c"], mask: Bool[Array, "b n"] | None, position: Any, train: bool
    ) -> Float[Array, "b n c"]:
        """The tokens after the block.

        Args:
            x: the tokens.
            mask: which tokens are no padding; None without padding.
            position: of the block, from 0, the first, to 1, the last. Its stochastic depth is in proportion to this.
            train: whether to drop.
        """
        width = x.shape[-1]
        y = SelfAttention(self.heads, self.dtype, name="attention")(_norm(self, "norm1")(x), mask)
        x = self._add(x, y, "scale1", position, train)
        y = nn.gelu(_dense(self, 4 * width, "hidden")(_norm(self, "norm2")(x)), approximate=False)
        y = _dense(self, width, "out")(self.dropout_layer(self.dropout)(y, train))
        return self._add(x, y, "scale2", position, train)

    def _add(self, x, branch, name, position, train):
        branch = self.dropout_layer(self.dropout)(branch, train)
        if self.layer_scale:
            factors = self.param(name, nn.initializers.constant(self.layer_scale), (x.shape[-1],), jnp.float32)
            branch = (branch * factors).astype(self.dtype)
        if self.stochastic_depth:
            branch = StochasticDepth(self.axis_name)(branch, self.stochastic_depth * position, train)
        return x + branch


def _norm(module, name):
    """Layer normalisation; sums, mean and variance are float32."""
    return nn.LayerNorm(EPSILON, dtype=module.dtype, use_fast_variance=False, name=name)


def _dense(module, features, name):
    def layer(x):
        dense = nn.Dense(
            features,
            dtype=module.dtype,
            kernel_init=initial.truncated_normal(STD),
            promote_dtype=promote_all_but_bias,
            name=name,
        )
        return dense(x).astype(module.dtype)

    return layer


class Patches(nn.Module):
    """Tokens of patches: `[B,H,W,3]` → `[B,⌈H/size⌉,⌈W/size⌉,features]`; zeros below and to the right fill the last patches.

    Parameters: `kernel` `[size,size,3,features]` and `bias`.
    """

    features: int
    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b H W _"]) -> Float[Array, "b _ _ {self.features}"]:
        b, _, _, channels = x.shape
        kernel = self.param("kernel", initial.lecun_normal(), (self.size, self.size, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        height, width = (-(-n // self.size) for n in x.shape[1:3])
        # A fixed amount of padding, of which a part is cut off: the exact one could be negative for all that JAX knows of a symbolic size.
        x = jnp.pad(extent.clear(x), ((0, 0), (0, self.size - 1), (0, self.size - 1), (0, 0)))
        x = x[:, : height * self.size, : width * self.size].astype(self.dtype)
        x = x.reshape(b, height, self.size, width, self.size, channels).swapaxes(2, 3)
        x = x.reshape(b, height, width, self.size**2 * channels)
        return (x @ kernel.reshape(-1, self.features).astype(self.dtype) + bias).astype(self.dtype)


class ViT(nn.Module):
    """Image → `{'layer9', …, 'res2', 'res3', 'res4', 'res5', 'layer19', 'layer23'}`: maps of the chosen layers, and a pyramid of them.

    `layerI` is the output of block I + 1, normalised, of stride `patch_size`; the last of them is the last map. `res2` … `res5` are the
    first, second, third and last chosen layer, resized to strides 4, 8, 16 and 32 without parameters. Where fewer layers are chosen, the
    last takes their place. The last two chosen layers follow the pyramid: contexts that read one or two maps read them.

    Attributes:
        width: channels of the tokens, and of all maps.
        depth: number of blocks.
        heads: number of heads of the attention; a divisor of width.
        patch_size: height and width of a patch in pixels, the stride of the chosen layers.
        layers: numbers of the layers, counted from 0, that become maps, in ascending order. (): four at equal distances, the last one
            included.
        layer_norms: normalisation of the chosen layers. `own`: each has one of its own, as in MCIBI's networks. `shared`: all have the
            same one, as in DINOv2 and in ViT's own weights. `none`: no normalisation.
        registers: number of additional tokens that belong to no patch. DINOv2 has 0, or 4 in its weights with registers.
        layer_scale: initial value of the learned factors of each block's branches; 0: there are no factors.
        grid: rows and columns of the learned positions: those of the weights, image size / patch size. For example 24 for weights of 384
            pixels and patches of 16.
        interpolation: how the positions are resized to an image's own grid.
        dropout: dropout probability after the positions, the attention and both layers of each MLP.
        stochastic_depth: probability that the last block's branches are left out for an image. It rises linearly from 0 at the first block.
        dropout_layer: the dropout layer, with `axis_name` bound.
        axis_name: `pmap` axis of the devices, or None.
        dtype: dtype of the computation; normalisation and softmax are computed in float32.
        remat: see `recomputing`.
    """

    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    patch_size: Literal[4, 8, 14, 16, 32] = 16
    layers: Annotated[tuple[Whole, ...], OFF] = ()
    layer_norms: Literal["own", "shared", "none"] = "own"
    registers: Whole = 0
    layer_scale: Amount = 0.0
    grid: Count = 14
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    dropout: Portion = 0.0
    stochastic_depth: Portion = 0.0
    dropout_layer: Any = Dropout
    axis_name: str | None = None
    dtype: Any = jnp.float32
    remat: recomputing.Remat = "none"

    @staticmethod
    def effective(fields: dict) -> dict:
        """{"layers": the chosen layers that result from the fields of the section}."""
        depth = fields["depth"]
        return {"layers": tuple(fields["layers"]) or tuple(sorted({-(-depth * i // 4) - 1 for i in (1, 2, 3, 4)}))}

    @property
    def depths(self) -> dict[str, int]:
        """{name prefix of parameters, within the backbone: number of layers after them}; what is not named has none after it.

        Everything after the blocks counts as one layer, as in BEiT (Bao et al. 2022), whose rates fall with this number.
        """
        first = dict.fromkeys(("patches/", "class_token", "registers", "positions"), self.depth + 1)
        return first | {f"block{i}/": self.depth + 1 - i for i in range(1, self.depth + 1)}

    @nn.compact
    def __call__(self, x: Float[Array, "b H W 3"], train: bool = False) -> Maps:
        """Normalised images → maps of `width` channels.

        Raises:
            UserError: `heads` does not divide `width`, or `layers` are not in ascending order or beyond `depth`.
        """
        layers = self._checked_layers()
        shape = x.shape[1:3]
        patches = Patches(self.width, self.patch_size, self.dtype, name="patches")(x)
        b, height, width, _ = patches.shape
        if self.patch_size & (self.patch_size - 1):
            extent.record((height, width), self.patch_size)
        x, mask = self._embed(patches)
        x = self.dropout_layer(self.dropout)(x, train)
        blocks = self._blocks_one_by_one if self.is_initializing() else self._blocks
        shared = _norm(self, "norm") if self.layer_norms == "shared" else None
        maps: Maps = {}
        for i, y in zip(layers, blocks(x, mask, layers, train), strict=True):
            norm = shared or (_norm(self, f"norm{i}") if self.layer_norms == "own" else lambda x: x)
            maps[f"layer{i}"] = norm(y[:, 1 + self.registers :]).reshape(b, height, width, self.width)
        chosen = list(maps.values())
        sources = [*chosen[:-1][:3], *[chosen[-1]] * 4][:3] + [chosen[-1]]
        pyramid = {
            name: _resized(source, tuple(-(-n // stride) for n in shape), stride > self.patch_size)
            for (name, stride), source in zip(PYRAMID.items(), sources, strict=True)
        }
        names = list(maps)
        return {name: maps[name] for name in names[:-2]} | pyramid | {name: maps[name] for name in names[-2:]}

    def _block(self, **fields):
        return Block(
            heads=self.heads,
            layer_scale=self.layer_scale,
            dropout=self.dropout,
            stochastic_depth=self.stochastic_depth,
            dropout_layer=self.dropout_layer,
            axis_name=self.axis_name,
            dtype=self.dtype,
            **fields,
        )

    def _blocks_one_by_one(self, x, mask, layers, train):
        """Each of `layers`, `[B,n,C]`."""
        outputs = [x := self._block(name=f"block{i + 1}")(x, mask, 0, train) for i in range(self.depth)]
        return [outputs[i] for i in layers]

    def _blocks(self, x, mask, layers, train):
        """As `_blocks_one_by_one`. A loop over the blocks reads their parameters as one array for each name."""
        block, count = self._block(parent=None), len(layers)

        def stack(path, *arrays):
            kernel = path[-1].key == "kernel"  # a kernel is only read in the computation's dtype
            return jnp.stack([a.astype(self.dtype) if kernel else a for a in arrays])

        params = self.variables["params"]
        stacked = jax.tree_util.tree_map_with_path(stack, *(params[f"block{i + 1}"] for i in range(self.depth)))
        each = {
            "params": stacked,
            "position": jnp.arange(self.depth) / max(self.depth - 1, 1),
            # Where the output is kept; the last place is for outputs that nobody reads.
            "place": jnp.array([layers.index(i) if i in layers else count for i in range(self.depth)]),
        }
        if train and (self.dropout or self.stochastic_depth):
            each["key"] = jax.random.split(self.make_rng("dropout"), self.depth)

        def step(carry, each):
            x, kept = carry
            rngs = {"dropout": each["key"]} if "key" in each else None
            x = block.apply({"params": each["params"]}, x, mask, each["position"], train, rngs=rngs)
            return (x, jax.lax.dynamic_update_index_in_dim(kept, x, each["place"], 0)), None

        if recomputing.of_blocks(self):
            step = jax.checkpoint(step, prevent_cse=False)
        (_, kept), _ = jax.lax.scan(step, (x, jnp.zeros((count + 1, *x.shape), x.dtype)), each)
        return list(kept[:count])

    def _checked_layers(self):
        if self.width % self.heads:
            raise UserError(
                f"config.model.backbone.heads is {self.heads}; expected a divisor of config.model.backbone.width, {self.width}"
            )
        layers = self.effective({"layers": self.layers, "depth": self.depth})["layers"]
        if list(layers) != sorted(set(layers)) or layers[-1] >= self.depth:
            raise UserError(
                f"config.model.backbone.layers is {layers}; expected numbers in ascending order below config.model.backbone.depth, "
                f"{self.depth}"
            )
        return layers

    def _embed(self, patches):
        """The tokens of an image, class token, registers and patches, with their positions; and which of them are no padding, or None."""
        b, height, width, c = patches.shape
        class_token = self.param("class_token", nn.initializers.zeros, (c,))
        positions = self.param("positions", initial.truncated_normal(STD), (1 + self.grid**2, c))
        grid = positions[1:].reshape(1, self.grid, self.grid, c)
        if extent.current() is not None:
            grid = jnp.broadcast_to(grid, (b, *grid.shape[1:]))  # each image has its own positions
        grid = resize(grid, (height, width), self.interpolation, grid=True)
        others = (class_token + positions[0])[None]
        if self.registers:
            others = jnp.concatenate([others, self.param("registers", initial.normal(1e-6), (self.registers, c))])
        x = (patches + grid).reshape(b, height * width, c)
        x = jnp.concatenate([jnp.broadcast_to(others, (b, *others.shape)), x], axis=1).astype(self.dtype)
        mask = extent.positions((height, width))
        if mask is not None:
            mask = jnp.concatenate([jnp.ones((b, len(others)), bool), mask], axis=1)
        return x, mask


def _resized(x, size, coarser):
    return area_resize(x, size) if coarser else resize(x, size)


class ViTTiny16(ViT):
    """ViT-Ti/16 (Touvron et al., ICML 2021)."""

    width: Count = 192
    heads: Count = 3


class ViTSmall16(ViT):
    """ViT-S/16."""

    width: Count = 384
    heads: Count = 6


class ViTBase16(ViT):
    """ViT-B/16."""


class ViTLarge16(ViT):
    """ViT-L/16 as in MCIBI's Tables 6, 7 and 9: its layers 9, 14, 19 and 23, weights of 384×384 pixels, dropout."""

    width: Count = 1024
    depth: Count = 24
    heads: Count = 16
    layers: Annotated[tuple[Whole, ...], OFF] = (9, 14, 19, 23)
    grid: Count = 24
    dropout: Portion = 0.1


class DINOv2Small14(ViT):
    """DINOv2 ViT-S/14, whose weights are of 518×518 pixels."""

    width: Count = 384
    heads: Count = 6
    patch_size: Literal[4, 8, 14, 16, 32] = 14
    layer_norms: Literal["own", "shared", "none"] = "shared"
    layer_scale: Amount = 1e-5
    grid: Count = 37
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"


class DINOv2Base14(DINOv2Small14):
    """DINOv2 ViT-B/14."""

    width: Count = 768
    heads: Count = 12


class DINOv2Large14(DINOv2Small14):
    """DINOv2 ViT-L/14."""

    width: Count = 1024
    depth: Count = 24
    heads: Count = 16
