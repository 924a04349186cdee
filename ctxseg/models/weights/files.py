"""Reads a file of weights: safetensors, PyTorch's two formats, an export of this project, or NumPy arrays."""

import contextlib
import io
import json
import zipfile
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ctxseg.models.weights import pytorch
from ctxseg.models.weights.tensor import Damaged, Tensor

# Largest description of an export, in bytes.
LONGEST_DESCRIPTION = 1 << 22


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
    """
    with path.open("rb") as file:
        beginning = file.read(64)
    if pytorch.is_stream(beginning):
        return Contents(pytorch.read_stream(path))
    if beginning.startswith(b"PK"):
        return _read_zip(path)
    if len(beginning) > 8 and beginning[8:9] == b"{":
        return _read_safetensors(path)
    if beginning.startswith(b"\x80"):
        raise Damaged("it is a pickle, but not one of torch.save")
    raise Damaged(
        "it is empty" if not beginning else "it is neither safetensors, nor of torch.save, nor an export, nor .npz"
    )


def _read_safetensors(path):
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}
            shapes = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except SafetensorError as e:
        raise Damaged(f"it is not valid safetensors: {e}") from e
    tensors = {}
    for name, (shape, dtype) in shapes.items():
        if dtype not in SAFETENSORS_DTYPES:
            raise Damaged(f"{name} has the type {dtype}")
        tensors[name] = Tensor(shape, np.dtype(SAFETENSORS_DTYPES[dtype]), partial(_read_slice, path, name, dtype))
    about = _json(metadata.get("ctxseg", "{}"))
    return Contents(tensors, *_description(about))


SAFETENSORS_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": pytorch.DTYPES["BFloat16Storage"],
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def _read_slice(path, name, dtype):
    # NumPy has no bfloat16; its numbers come through Flax's arrays.
    with safe_open(path, framework="flax" if dtype == "BF16" else "numpy") as file:
        return np.asarray(file.get_tensor(name))


def _read_zip(path):
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "classes.json" in names and "weights.npz" in names:
                return _read_export(path, archive)
            if names and all(name.endswith(".npy") for name in names):
                return Contents(_read_arrays(path, archive))
            return Contents(pytorch.read_zip(path, archive))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, UnicodeDecodeError) as e:
        raise Damaged("its zip archive is damaged") from e


def _read_export(path, archive):
    """The weights of an export, a compressed archive of arrays in the archive."""
    info = archive.getinfo("weights.npz")
    # Trained weights hardly compress: a size far above the file's is not that of weights.
    if (
        info.file_size > 20 * path.stat().length + (1 << 24)
        or archive.getinfo("classes.json").file_size > LONGEST_DESCRIPTION
    ):
        raise Damaged("a size in it is too large")
    about = _json(archive.read("classes.json"))
    arrays = io.BytesIO(archive.read(info))
    with zipfile.ZipFile(arrays) as inner:
        return Contents(_read_arrays(arrays, inner), *_description(about))


def _read_arrays(source, archive):
    """{name: tensor} of the members NAME.npy. `source`: the path of the archive, or its contents."""
    tensors = {}
    for info in archive.infolist():
        with archive.open(info) as file:
            try:
                version = np.lib.format.read_magic(file)
                read_header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = read_header(file)
            except (ValueError, TypeError, SyntaxError) as e:
                raise Damaged(f"{info.filename} is not an array") from e
            if dtype.hasobject:
                raise Damaged(f"{info.filename} has Python objects")
            start = file.tell()
        if start + dtype.itemsize * int(np.prod(shape, dtype=object)) != info.file_size:
            raise Damaged(f"{info.filename}: its size is not that of its shape {list(shape)}")
        tensors[info.filename.removesuffix(".npy")] = Tensor(
            shape, dtype, partial(_read_array, source, info.filename, start, shape, dtype, fortran)
        )
    return tensors


def _read_array(source, member, start, shape, dtype, fortran):
    with contextlib.ExitStack() as stack:
        file = source if isinstance(source, io.BytesIO) else stack.enter_context(source.open("rb"))
        archive = stack.enter_context(zipfile.ZipFile(file))
        data = archive.read(member)[start:]
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _json(text):
    try:
        value = json.loads(text)
    except ValueError as e:
        raise Damaged("its description is not JSON") from e
    return value if isinstance(value, dict) else {}


def _description(about):
    """The class names and the pixels that a file of this project describes."""
    names, pixels = about.get("class_names", []), about.get("pixels", {})
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not isinstance(pixels, dict):
        raise Damaged("its description is damaged")
    return tuple(names), pixels


def write(path: epath.Path, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Writes `arrays`, {name: array}, as safetensors, with `about` as their description.

    Raises:
        OSError: the file cannot be written.
    """
    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {"ctxseg": json.dumps(about)})
    path.write_bytes(data)
