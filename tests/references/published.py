"""Published networks with weights that are a function of each tensor's name and shape, so that nobody needs the weights themselves.

`benchmarks/published_weights.py` fills the published networks with these values, and records what they compute. Ours get the same values
from a file, through `ctxseg.load_weights` (`load`). All but that and `photograph` needs NumPy alone, and not its random numbers, as a
later release may draw others.

`PHOTOGRAPHS` holds what the package `efficientnet_lite_pytorch` computes with ImageNet's weights.
"""

import json
import math
import tempfile
import zlib
from pathlib import Path

import numpy as np

# {beginning of the names of cases: the file with what their networks compute}; the first one that fits.
RECORDED = {
    beginning: Path(__file__).with_name(f"published_{name}.npz")
    for beginning, name in {"resnest": "hrnet_resnest", "hrnet": "hrnet_resnest", "vit": "vit", "": "torch"}.items()
}
# Even and odd at all strides. The wide ones are for the dilations of ASPP, whose outer taps miss a small map.
SIZES = ((64, 96), (65, 97))
WIDE = ((40, 312), (33, 297))
CLASSES = 21
PHOTOGRAPHS = Path(__file__).with_name("photographs_torch.npz")
# A photograph of scikit-image, and the height and width of its middle: even and odd at all strides.
CROPS = (("chelsea", (224, 224)), ("coffee", (224, 224)), ("chelsea", (225, 321)))


def _networks():
    """{published network: (output strides, fields of `config.model` for the same network)}."""
    for depth in (18, 34, 50, 101, 152):
        yield f"resnet{depth}", (32, 16, 8), {"backbone": {"name": f"resnet{depth}", "stem": "conv7"}}
    for depth in (50, 101):
        yield f"resnet{depth}c", (32, 16, 8), {"backbone": {"name": f"resnet{depth}", "stem": "conv3_32"}}
    yield "resnet50s", (32, 16, 8), {"backbone": {"name": "resnet50", "stem": "conv3"}}
    yield "tf_efficientnet_lite0", (32, 16, 8), {"backbone": {"name": "efficientnet_lite0"}}
    for layout in ("hrenet", "largefov"):
        for name, norm in (("vgg16", "none"), ("vgg16_bn", "batch")):
            yield f"{name}-{layout}", (8,), {"backbone": {"name": "vgg16", "layout": layout, "norm": norm}}
    for depth in (50, 101):
        backbone, head = {"name": f"resnet{depth}", "stem": "conv7"}, {"levels": ("res4",), "channels": 256}
        aspp = {"name": "aspp", "channels": 256, "fuse_kernel": 1, "dilations": (12, 24, 36)}
        classifier = {"hidden": 256, "hidden_kernel": 3}
        yield (f"deeplabv3_resnet{depth}", (8,),
               {"backbone": backbone, "context": aspp, "classifier": classifier, "auxiliary": head})  # fmt: skip
        fcn = {"name": "fcn", "channels": 512, "convolutions": 1}
        yield f"fcn_resnet{depth}", (8,), {"backbone": backbone, "context": fcn, "auxiliary": head}
    yield from _transformers()
    yield (
        "mcibi_resnet50",
        (8,),
        {
            "backbone": {"name": "resnet50", "stem": "conv3_32"},
            "context": {"name": "aspp", "channels": 512, "fuse_kernel": 3, "dilations": (12, 24, 36)},
            "memory": {"name": "mcibi", "channels": 512, "fusion": "concat"},
            "classifier": {"hidden": 512},
            "auxiliary": {"levels": ("res4",), "channels": 512},
        },
    )
    for network, name in (("resnest50d", "resnest50"), ("resnest101e", "resnest101")):
        yield network, (32, 16, 8), {"backbone": {"name": name}}
    for width in (18, 32, 48):
        yield f"hrnet_w{width}", (32,), {"backbone": {"name": f"hrnetv2_w{width}", "upsampling": "nearest"}}
    yield "hrnet_w18-bilinear", (32,), {"backbone": {"name": "hrnetv2_w18", "upsampling": "bilinear"}}
    # The layers of timm's HRNet with fewer modules, blocks and channels.
    small = {"name": "hrnetv2_w18", "upsampling": "nearest", "width": 8, "modules": (1, 2, 1), "blocks": 1}
    yield "hrnet_small", (32,), {"backbone": small}


def _transformers():
    for size, side, layers in (
        ("tiny", 224, (2, 5, 8, 11)),
        ("small", 224, (2, 5, 8, 11)),
        ("large", 384, (9, 14, 19, 23)),
    ):
        backbone = {"name": f"vit_{size}_16", "layer_norms": "shared", "grid": side // 16, "layers": layers}
        yield f"vit_{size}_patch16_{side}", (16,), {"backbone": backbone}
    for name, registers in (("dinov2", 0), ("reg4_dinov2", 4)):
        backbone = {"name": "dinov2_small_14", "registers": registers, "layers": (2, 5, 8, 11)}
        yield f"vit_small_patch14_{name}", (14,), {"backbone": backbone}


# {case, such as "resnet50-8": (network, output stride, fields of `config.model`)}.
CASES = {
    f"{network}-{stride}": (network, stride, fields | {"backbone": fields["backbone"] | {"output_stride": stride}})
    for network, strides, fields in _networks()
    for stride in strides
}


def configure(config, case: str) -> None:
    """Sets the fields of `config`, a `config.model`, to those of a case."""
    for section, fields in CASES[case][2].items():
        config[section].update(fields)


def sizes(case: str) -> tuple[tuple[int, int], ...]:
    """Heights and widths of the images that the network of a case reads."""
    if case.startswith("vit_"):
        # Patches of 14 or 16: a size that they divide, and one that they do not. At that of the weights, positions are not resized.
        return ((224, 224), (112, 160), (65, 97)) if "tiny" in case else ((112, 224), (65, 97))
    return WIDE if "_resnet" in case else SIZES


def unread(case: str) -> tuple[str, ...]:
    """Beginnings of the names of tensors that our network does not have: ImageNet's classifier."""
    head = ("incre_modules.", "downsamp_modules.", "final_layer.") if case.startswith("hrnet") else ()
    return () if "_resnet" in case else ("fc.", "classifier.", "head.", *head)


def recorded_file(case: str) -> Path:
    """The file with what the network of a case computes."""
    return next(file for beginning, file in RECORDED.items() if case.startswith(beginning))


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of PyTorch with this name and shape, float32; a counter is int64.

    Kernels have He's variance, and normalisations have means, variances and scales of their own. The last ones of a residual block have
    small scales, so that activations keep their order of magnitude at any depth. Larger ones would make rounding errors grow from block to
    block where ReLU6 saturates.
    """
    layer, _, kind = name.rpartition(".")
    if kind in ("cls_token", "reg_token", "pos_embed"):
        return uniform(f"{name} {list(shape)}", math.prod(shape)).reshape(shape)
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    drawn = uniform(f"{name} {list(shape)}", math.prod(shape)).reshape(shape)
    if kind == "running_var":
        return 1 + drawn / 2
    if kind in ("running_mean", "bias"):
        return drawn / 4
    if kind == "memory":
        drawn[-1] = 0  # a class that was not seen
        return drawn
    if len(shape) == 1:
        gain = 0.5 if layer.endswith("bn3") else 0.25 if "layer" in layer and layer.endswith("bn2") else 1
        if layer.startswith("stage"):  # of HRNet: the blocks of a branch, and the sums of the branches
            gain = 0.25 if layer.endswith("bn2") else 0.5 if "fuse_layers" in layer else 1
        if "_ms.query_project" in layer or "_ms.key_project" in layer:
            gain = 0.5  # attention to a single position would hide the others
        return (1 + drawn * 3 / 4) * np.float32(gain)
    # A certain class would hide the others, and so would a map that alone has all the weight of ResNeSt's split attention.
    gain = 1 / 16 if layer == "decoder_stage1.4" else 1 / 64 if layer.endswith("conv2.fc2") else 1
    return drawn * np.float32(gain * math.sqrt(6 / math.prod(shape[1:])))


def image(size: tuple[int, int]) -> np.ndarray:
    """An image of noise, uint8 `[1,H,W,3]`."""
    drawn = uniform(f"image {list(size)}", math.prod(size) * 3).reshape(1, *size, 3)
    return np.floor((drawn + 1) * 128).astype(np.uint8)


def photograph(name: str, size: tuple[int, int]) -> np.ndarray:
    """The middle of a photograph of scikit-image, uint8 `[1,H,W,3]`."""
    from skimage import data

    x = getattr(data, name)()
    top, left = (x.shape[0] - size[0]) // 2, (x.shape[1] - size[1]) // 2
    return x[None, top : top + size[0], left : left + size[1]]


def uniform(seed: str, count: int) -> np.ndarray:
    """`count` numbers in [-1, 1), float32: a hash of their index and the seed (Wellons' lowbias32)."""
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(zlib.crc32(seed.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    return ((x ^ (x >> np.uint32(16))) >> np.uint32(8)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)


def summary(x: np.ndarray, count: int = 400) -> np.ndarray:
    """What is recorded of a map `[1,h,w,C]`, float32: its largest magnitude, its mean, its deviation, and up to `count` of its values."""
    flat = np.asarray(x, np.float64).ravel()
    chosen = np.arange(flat.size) if flat.size <= count else np.arange(count) * (flat.size - 1) // (count - 1)
    return np.array([np.abs(flat).max(), flat.mean(), flat.std(), *flat[chosen]], np.float32)


def difference(ours: np.ndarray, recorded: np.ndarray) -> float:
    """The largest difference between a map of ours and a `summary`, relative to the largest magnitude."""
    return float(np.abs(summary(ours, recorded.size - 3) - recorded).max() / recorded[0])


def load(case: str, names, shapes):
    """Our network of a case, its variables from a file of weights, and the report.

    `names` and `shapes` are those of the published tensors, as recorded: rows of four numbers, padded by zeros.
    """
    import jax

    import ctxseg
    from ctxseg.configs import defaults

    rows = (tuple(int(n) for n in row if n) for row in shapes)
    config = defaults.get_config().model
    configure(config, case)
    model = ctxseg.create_model(config, CLASSES)
    shapes = jax.eval_shape(lambda key: model.init(key, image((32, 32))), jax.random.PRNGKey(0))
    empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{case}.safetensors"
        write(file, dict(zip(map(str, names), rows, strict=True)), unread(case))
        variables, report = ctxseg.load_weights(model, empty, file)
    config.pixels.update(report.pixels)
    return ctxseg.create_model(config, CLASSES), variables, report


def maps(output) -> dict:
    """{name in the recorded maps: map} of a `SegmenterOutput`."""
    heads = {"head/res4": "auxiliary", "distribution": "distribution"}
    return (
        output.features
        | {"logits": output.logits}
        | {heads[name]: scores.logits for name, scores in output.aux.items() if name in heads}
    )


def write(path: Path, shapes: dict[str, tuple[int, ...]], unread: tuple[str, ...] = (), values=values) -> None:
    """Writes a file of safetensors with `values` of these names and shapes.

    Tensors whose names begin with one of `unread` are holes in the file, so that a large classifier takes neither time nor space.
    """
    header, end = {}, 0
    for name, shape in shapes.items():
        kind, bytes_each = ("I64", 8) if name.endswith("num_batches_tracked") else ("F32", 4)
        start, end = end, end + bytes_each * math.prod(shape)
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            if not name.startswith(unread or ("-",)):
                file.seek(8 + len(text) + header[name]["data_offsets"][0])
                file.write(values(name, shape).tobytes())
        file.truncate(8 + len(text) + end)
