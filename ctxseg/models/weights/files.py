"""Reads a file of weights: safetensors, PyTorch's two formats, an export of this project, or NumPy arrays."""

import json
import math
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from safetensors.numpy import save

from ctxseg.files import check_regular, is_number, write_bytes
from ctxseg.models.weights import npz, pytorch, safetensors
from ctxseg.models.weights.archives import Archive
from ctxseg.models.weights.tensor import Damaged, File, Tensor

# Largest description of an export, in bytes.
LONGEST_DESCRIPTION = 1 << 21


class Contents(NamedTuple):
    """What a file of weights has.

    Attributes:
        tensors: {name: array}.
        class_names: names of the classes in the order of the classifier; () if the file does not have them.
        pixels: {"mean", "std", "order"} of the pixels that the weights expect; {} if the file does not say it.
    """

    tensors: dict[str, Tensor]
    class_names: tuple[str, ...] = ()
    pixels: dict[str, Any] = {}


def read(path: epath.Path) -> Contents:
    """The tensors of a file, whose format is recognised by its contents. Arrays are read when they are needed.

    Raises:
        Damaged: it has none of the formats, or is damaged.
        OSError: it cannot be read.
        UserError: it is not a regular file.
    """
    check_regular(path)
    file = File(path.open("rb"))
    contents = _read(file)
    # An axis of 0 counts as 1: NumPy multiplies the others.
    size = sum(t.dtype.itemsize * math.prod(max(n, 1) for n in t.shape) for t in contents.tensors.values())
    if size > _most(file.size):
        raise Damaged("its arrays would be far larger than the file")
    return contents


def _most(size):
    """Most bytes that a file of `size` bytes may have without compression. Weights hardly compress, except for those of a small network."""
    return 2 * size + (1 << 25)


def _read(file):
    beginning = file.read(0, min(64, file.size))
    if pytorch.is_stream(beginning):
        return Contents(pytorch.read_stream(file))
    if beginning.startswith(b"PK"):
        return _read_zip(Archive(file))
    if safetensors.is_safetensors(beginning):
        tensors, metadata = safetensors.read(file)
        about = metadata.get("ctxseg", "{}")
        if not isinstance(about, str):
            raise Damaged("its description is not JSON")
        return Contents(tensors, *_description(safetensors.parse_object(about)))
    if beginning.startswith(b"\x80"):
        raise Damaged("it is a pickle, but not one of torch.save")
    raise Damaged(
        "it is neither safetensors, nor of torch.save, nor an export, nor .npz" if beginning else "it is empty"
    )


def _read_zip(archive):
    if {"classes.json", "weights.npz"} <= set(archive.names):
        return _read_export(archive)
    if archive.names and all(name.endswith(".npy") for name in archive.names):
        return Contents(npz.read(archive))
    return Contents(pytorch.read_zip(archive))


def _read_export(archive):
    """The weights of an export, a compressed archive of arrays in the archive."""
    size = archive.size("weights.npz")
    if size > _most(archive.file.size) or archive.size("classes.json") > LONGEST_DESCRIPTION:
        raise Damaged("a size in it is too large")
    about = safetensors.parse_object(archive.read("classes.json", 0, LONGEST_DESCRIPTION))
    archive.position("weights.npz")  # checks how it is compressed
    return Contents(npz.read(Archive(File(archive.unpack("weights.npz")))), *_description(about))


def _description(about):
    """The class names and the pixels that a file of this project describes."""
    names, pixels = about.get("class_names", []), about.get("pixels", {})
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not isinstance(pixels, dict):
        raise Damaged("its description is damaged")
    for name, value in pixels.items():
        if name == "order":
            valid = value in ("rgb", "bgr")
        else:
            minimum = {"mean": 0, "std": 1e-12}.get(name, np.inf)
            valid = isinstance(value, list) and len(value) == 3 and all(is_number(x, minimum) for x in value)
        if value is not None and not valid:
            raise Damaged("its description of pixels is damaged")
    return tuple(names), pixels


def write(path: epath.Path, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Writes `arrays`, {name: array}, as safetensors, with `about` as their description, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()}, {"ctxseg": json.dumps(about)})
    write_bytes(path, data)
