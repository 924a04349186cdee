"""Weights of Vision Transformers: timm's `vit_*`, DINOv2's, Google's `.npz`, mmsegmentation's, and the published MCIBI runs on ViT-L/16.

timm's names do not tell which pixels the weights expect. They are read as those of `augreg` and of Google's weights (0.5, 0.5); DeiT's and
MAE's, with the same names, expect ImageNet's mean and deviation.

DINOv2's names are timm's. Facebook's files also have a `mask_token`, and in training checkpoints the blocks are `blocks.{chunk}.{i}`.
timm's networks with registers have no position of the class token: it is 0 here.

ViT's own weights have one normalisation, after the last block: a network takes it with `config.model.backbone.layer_norms=shared`.
"""

from collections.abc import Mapping
from math import isqrt, prod

import numpy as np

from ctxseg.models.weights import mcibi, mmsegmentation
from ctxseg.models.weights.names import BANK, Publisher, prefixed
from ctxseg.models.weights.tensor import Tensor
from ctxseg.models.weights.torchvision import IMAGENET_MEAN, IMAGENET_STD

HALF = (127.5, 127.5, 127.5)
# The normalisations of the chosen layers.
NORMS = ("backbone/norm",)
EMBEDDING = """
    cls_token                   params/backbone/class_token
    pos_embed                   params/backbone/positions
"""
BLOCK = """
    norm1           norm1
    attn.qkv        attention/qkv
    attn.proj       attention/out
    norm2           norm2
    mlp.fc1         hidden
    mlp.fc2         out
"""
TABLE = (
    EMBEDDING
    + """
    patch_embed.proj            backbone/patches
    norm                        backbone/norm
    head                        -
    """
)
# Layer scale, of DINOv2 alone.
SCALES = """
    ls1.gamma       scale1
    ls2.gamma       scale2
"""


def _of_blocks(names: str, prefix: str, collection: str = "") -> str:
    """A table for every block, from one of names within a block."""
    pairs = (line.split() for line in names.strip().splitlines())
    return "".join(f"{prefix}{theirs} {collection}backbone/block{{i+1}}/{ours}\n" for theirs, ours in pairs)


def in_our_layout(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Class token `[1,1,C]` → `[C]`, registers `[1,R,C]` → `[R,C]`, positions `[1,n,C]` → `[1+g²,C]`; no names of classes."""
    result = dict(tensors)
    for name, last in (("class_token", 1), ("registers", 2), ("positions", 2)):
        if (tensor := tensors.get(path := f"params/backbone/{name}")) is not None and len(tensor.shape) == 3:
            if prod(tensor.shape[: 3 - last]) == 1:  # another shape is reported with the file's name, see `fit`
                result[path] = _reshaped(tensor, tensor.shape[3 - last :])
    positions = result.get("params/backbone/positions")
    if positions is not None and len(positions.shape) == 2 and isqrt(positions.shape[0]) ** 2 == positions.shape[0]:
        rows, channels = positions.shape

        def with_class_token(scratch):
            return np.concatenate([np.zeros((1, channels), positions.dtype), positions.read(scratch)])

        result["params/backbone/positions"] = Tensor((1 + rows, channels), positions.dtype, with_class_token)
    return result, ()


def _reshaped(tensor, shape):
    return Tensor(shape, tensor.dtype, lambda scratch: tensor.read(scratch).reshape(shape))


def with_joined_heads(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """As `in_our_layout`, for Google's files: queries, keys and values `[C,heads,d]` → one kernel `[C,3C]`; out `[heads,d,C]` → `[C,C]`."""
    result, classes = in_our_layout(tensors)
    for name in [name for name in result if "/attention/query/" in name]:
        names = [name.replace("/query/", f"/{part}/") for part in ("query", "key", "value")]
        if all(part in result for part in names):
            result[name.replace("/query/", "/qkv/")] = _joined([result.pop(part) for part in names])
    for name in [name for name in result if name.endswith("attention/out/kernel")]:
        if len(shape := result[name].shape) == 3:
            result[name] = _reshaped(result[name], (shape[0] * shape[1], shape[2]))
    return result, classes


def _joined(parts):
    """Arrays `[…,heads,d]`, side by side along one last axis."""
    first = parts[0]
    size = first.shape[-2] * first.shape[-1] if len(first.shape) > 1 else first.shape[0]
    before = first.shape[:-2]

    def read(scratch):
        joined = np.empty((*before, len(parts) * size), first.dtype)
        for i, part in enumerate(parts):
            joined[..., i * size : (i + 1) * size] = part.read(scratch).reshape(*before, size)
        return joined

    return Tensor((*before, len(parts) * size), first.dtype, read)


VIT = Publisher(
    "timm's ViT", TABLE + _of_blocks(BLOCK, "blocks.{i}."), HALF, HALF, finish=in_our_layout, optional=NORMS
)
DINOV2 = Publisher(
    "DINOv2",
    TABLE
    + """
    reg_token                   params/backbone/registers
    register_tokens             params/backbone/registers
    mask_token                  -
    """
    + _of_blocks(BLOCK, "blocks.{i}.")
    + _of_blocks(SCALES, "blocks.{i}.", "params/")
    + _of_blocks(BLOCK, "blocks.{*}.{i}.")
    + _of_blocks(SCALES, "blocks.{*}.{i}.", "params/"),
    IMAGENET_MEAN,
    IMAGENET_STD,
    finish=in_our_layout,
    optional=NORMS,
)

# Google's files name arrays, with slashes.
ORIGINAL = Publisher(
    "Google's ViT",
    """
    cls                                         params/backbone/class_token
    Transformer/posembed_input/pos_embedding    params/backbone/positions
    pre_logits/{*}                              -
    head/{*}                                    -
    """
    + "".join(
        f"{theirs}/{array} params/{ours}/{array}\n"
        for theirs, ours, arrays in (
            ("embedding", "backbone/patches", ("kernel", "bias")),
            ("Transformer/encoder_norm", "backbone/norm", ("scale", "bias")),
            *(
                (f"Transformer/encoderblock_{{i}}/{theirs}", f"backbone/block{{i+1}}/{ours}", (first, "bias"))
                for theirs, ours, first in (
                    ("LayerNorm_0", "norm1", "scale"),
                    ("MultiHeadDotProductAttention_1/query", "attention/query", "kernel"),
                    ("MultiHeadDotProductAttention_1/key", "attention/key", "kernel"),
                    ("MultiHeadDotProductAttention_1/value", "attention/value", "kernel"),
                    ("MultiHeadDotProductAttention_1/out", "attention/out", "kernel"),
                    ("LayerNorm_2", "norm2", "scale"),
                    ("MlpBlock_3/Dense_0", "hidden", "kernel"),
                    ("MlpBlock_3/Dense_1", "out", "kernel"),
                )
            ),
        )
        for array in arrays
    ),
    HALF,
    HALF,
    finish=with_joined_heads,
    optional=NORMS,
    torch=False,
)

# mmsegmentation's names, which the published MCIBI runs share.
LAYERS = (
    EMBEDDING
    + """
    patch_embed.projection      backbone/patches
    ln1                         backbone/norm
    """
    + _of_blocks(
        """
        ln1                     norm1
        attn.attn.out_proj      attention/out
        ln2                     norm2
        ffn.layers.0.0          hidden
        ffn.layers.1            out
        """,
        "layers.{i}.",
    )
    + _of_blocks(
        """
        attn.attn.in_proj_weight    attention/qkv/kernel
        attn.attn.in_proj_bias      attention/qkv/bias
        """,
        "layers.{i}.",
        "params/",
    )
)
MMSEGMENTATION = Publisher(
    "mmsegmentation's ViT", LAYERS, IMAGENET_MEAN, IMAGENET_STD, finish=in_our_layout, optional=NORMS
)
SEGMENTER = Publisher(
    "a segmenter of mmsegmentation on ViT",
    prefixed("backbone.", LAYERS) + mmsegmentation.HEADS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    finish=in_our_layout,
    optional=NORMS,
)

# The outputs of the run on COCO-Stuff. Its ASPP has other dilations, after which our layers are named.
COCO_STUFF, DILATIONS = 182, {"dilation18/": "dilation36/", "dilation12/": "dilation24/", "dilation6/": "dilation12/"}


def mcibi_in_our_layout(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """As `in_our_layout`, for a published MCIBI run: ASPP's dilations are those of its data set (SPEC §6b)."""
    result, classes = in_our_layout(tensors)
    bank = result.get(BANK)
    if bank is None or bank.shape[0] != COCO_STUFF:
        return result, classes

    def renamed(name):
        return next((name.replace(a, b) for a, b in DILATIONS.items() if f"context/{a}" in name), name)

    return {renamed(name): tensor for name, tensor in result.items()}, classes


# All but the auxiliary heads, which are three here, of two convolutions each, and the branches, which have other dilations.
_HEADS = [
    line
    for line in mcibi.HEADS.splitlines()
    if not line.strip().startswith(("auxiliary_decoder.", "context_within_image_module.parallel_"))
]
_AUXILIARY = "\n".join(
    f"""
    auxiliary_decoder.{j}.0     auxiliary/{level}_conv/conv
    auxiliary_decoder.{j}.1     auxiliary/{level}_conv/norm
    auxiliary_decoder.{j}.4     auxiliary/{level}_conv2/conv
    auxiliary_decoder.{j}.5     auxiliary/{level}_conv2/norm
    auxiliary_decoder.{j}.9     auxiliary/{level}/scores"""
    for j, level in enumerate(("layer9", "layer14", "layer19"))
)
MCIBI = Publisher(
    "a published MCIBI run on ViT",
    prefixed("backbone_net.", LAYERS)
    + """
    norm_layers.0                                       backbone/norm9
    norm_layers.1                                       backbone/norm14
    norm_layers.2                                       backbone/norm19
    norm_layers.3                                       backbone/norm23
    context_within_image_module.parallel_branches.0.0   context/point/conv
    context_within_image_module.parallel_branches.0.1   context/point/norm
    context_within_image_module.parallel_branches.1.0   context/dilation6/conv
    context_within_image_module.parallel_branches.1.1   context/dilation6/norm
    context_within_image_module.parallel_branches.2.0   context/dilation12/conv
    context_within_image_module.parallel_branches.2.1   context/dilation12/norm
    context_within_image_module.parallel_branches.3.0   context/dilation18/conv
    context_within_image_module.parallel_branches.3.1   context/dilation18/norm
    """
    + "\n".join(_HEADS)
    + _AUXILIARY,
    IMAGENET_MEAN,
    IMAGENET_STD,
    bank=mcibi.MCIBI.bank,
    finish=mcibi_in_our_layout,
)
