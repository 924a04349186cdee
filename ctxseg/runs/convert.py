"""Weights as a safetensors file, in our names, or a ResNet's in torchvision's, for users of PyTorch."""

import numpy as np
from etils import epath

from ctxseg.errors import UserError
from ctxseg.models.weights import files, fit
from ctxseg.models.weights.names import to_torch
from ctxseg.models.weights.tensor import Scratch
from ctxseg.models.weights.timm import RESNET_V1C
from ctxseg.models.weights.torchvision import DEEPLABV3, FCN, RESNET
from ctxseg.runs.pretrained import open_weights

STEM = "params/backbone/stem/conv/kernel"


def convert(source: str, output: str | None, names: str, overwrite: bool = False) -> str:
    """Converts weights, and returns a line that says what was written.

    Args:
        source: see `pretrained.load_weights`.
        output: the file; default `SOURCE.safetensors`.
        names: `ctxseg`, or `torchvision`: of its DeepLabV3 or FCN if all arrays have a name there, or else of the ResNet alone. A ResNet
            whose stem is three 3×3 convolutions has timm's names, as torchvision has none.
        overwrite: whether an existing file is replaced.

    Raises:
        UserError: `source` cannot be read, has numbers that are not finite, or has no ResNet (`torchvision`); or `output` exists or cannot
            be written.
    """
    path = epath.Path(output or f"{str(source).rstrip('/')}.safetensors").expanduser()
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(f"--output={path} exists: choose another, or give --overwrite to replace a file")
    weights = open_weights(source)
    arrays = {name: fit.read(weights, name, Scratch()) for name in weights.tensors}
    left = list(weights.left)
    if names == "torchvision":
        arrays, without_name = _torchvision(source, arrays)
        left += without_name
    about = {"class_names": list(weights.class_names), "pixels": dict(weights.pixels)}
    try:
        files.write(path, arrays, about)
    except OSError as e:
        raise UserError(f"--output={path} cannot be written: {e.strerror}") from e
    return f"{path}: {len(arrays)} arrays in the names of {names}" + (f"; left out: {', '.join(left)}" if left else "")


def _torchvision(source, arrays):
    """The arrays by torchvision's names, in PyTorch's layout, and the names of those that have none."""
    parts = {name.split("/")[1] for name in arrays}
    for publisher in (DEEPLABV3, FCN, RESNET, RESNET_V1C):
        theirs = {name: publisher.theirs(name) for name in arrays}
        whole = {"backbone", "context", "classifier"} <= parts and all(theirs.values())
        backbone = [theirs[name] for name in arrays if name.split("/")[1] == "backbone"]
        if publisher is not RESNET_V1C and arrays.get(STEM, np.empty(0)).shape[:2] != (7, 7):
            continue  # such as `tiny`, whose layers have a ResNet's names
        if whole or publisher in (RESNET, RESNET_V1C) and backbone and all(backbone):
            converted = {their: to_torch(arrays[name], name) for name, their in theirs.items() if their}
            return converted, [name for name, their in theirs.items() if not their]
    raise UserError(f"{source} has no ResNet, whose weights alone have torchvision's names here")
