"""Reads the files of `torch.save` without PyTorch: the zip format, since PyTorch 1.6, and the older stream of pickles.

A pickle can call any function. The unpickler here knows the functions that rebuild tensors, dictionaries, and nothing else: a file that
names another one is refused before anything is called. Sizes are checked against the file before memory is allocated.
"""

import collections
import io
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from ctxseg.models.weights.tensor import Damaged, Tensor, read_bytes

# The first pickle of a stream.
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
STREAM_PREFIX = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
STREAM_VERSION = 1001
DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# The entries of a training checkpoint that hold its tensors.
NESTED = ("state_dict", "model", "model_state_dict", "network", "params")


class Storage(NamedTuple):
    """A block of numbers that tensors are views of."""

    key: str
    dtype: np.dtype
    length: int


class View(NamedTuple):
    """A tensor in a storage; offset and strides in numbers, not in bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_stream(beginning: bytes) -> bool:
    """Whether a file that begins with these bytes is of the older format."""
    return beginning.startswith(STREAM_PREFIX)


def read_zip(path, archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """{name: tensor} of the zip format.

    Raises:
        Damaged: it is damaged, or names a function that does not rebuild tensors.
    """
    members = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise Damaged("it is a zip archive, but not one of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in members and _stored(path, members[f"{folder}byteorder"]) != b"little":
        raise Damaged("its numbers are big-endian")
    tree = _load(io.BytesIO(_stored(path, members[pickles[0]])), {})

    def locate(storage):
        name = f"{folder}data/{storage.key}"
        if name not in members:
            raise Damaged(f"it lacks {name}")
        return _position(path, members[name]), members[name].file_size

    return _tensors(path, tree, locate)


def _stored(path, info: zipfile.ZipInfo) -> bytes:
    return read_bytes(path, _position(path, info), info.file_size)


def _position(path, info: zipfile.ZipInfo) -> int:
    """Where the contents of a member start."""
    if info.compress_type != zipfile.ZIP_STORED:  # torch.save does not compress: the size in the archive may be a lie
        raise Damaged(f"{info.filename} is compressed")
    header = read_bytes(path, info.header_offset, 30)
    if header[:4] != b"PK\x03\x04":
        raise Damaged(f"{info.filename} has no header")
    name, extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name + extra


def read_stream(path) -> dict[str, Tensor]:
    """{name: tensor} of the older format: four pickles, a list of storages, and the numbers of each storage.

    Raises:
        Damaged: as `read_zip`.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        storages: dict[str, Storage] = {}
        magic, version, _, tree, keys = (_load(file, storages) for _ in range(5))
        if magic != MAGIC_NUMBER or version != STREAM_VERSION:
            raise Damaged("its version is unknown")
        if not isinstance(keys, list):
            raise Damaged("it has no list of storages")
        positions: dict[str, tuple[int, int]] = {}
        position = file.tell()
        for key in keys:
            file.seek(position)
            header = file.read(8)
            storage = storages.get(key) if isinstance(key, str) else None
            if len(header) < 8:
                raise Damaged("it ends too early")
            (count,) = struct.unpack("<q", header)
            if storage is None or count != storage.length:
                raise Damaged(f"storage {key!r} has another size than its tensor")
            length = count * storage.dtype.itemsize
            if position + 8 + length > size:
                raise Damaged("it ends too early")
            positions[key] = position + 8, length
            position += 8 + length

    def locate(storage):
        if storage.key not in positions:
            raise Damaged(f"it lacks storage {storage.key!r}")
        return positions[storage.key]

    return _tensors(path, tree, locate)


def _tensors(path, tree, locate: Callable[[Storage], tuple[int, int]]) -> dict[str, Tensor]:
    """The tensors of an unpickled tree. `locate` gives the position and the bytes of a storage."""
    tensors = {}
    for name, view in _views(tree).items():
        position, length = locate(view.storage)
        if length != view.storage.length * view.storage.dtype.itemsize:
            raise Damaged(f"{name}: its storage has {length} bytes instead of {view.storage.length} numbers")
        count = math.prod(view.shape)
        last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
        if count and (count > view.storage.length or last >= view.storage.length):
            raise Damaged(f"{name}: shape {list(view.shape)} does not fit into its storage")
        read = partial(_read, path, view, position, last + 1 - view.offset if count else 0)
        tensors[name] = Tensor(view.shape, view.storage.dtype, read)
    return tensors


def _read(path, view, position, count):
    item = view.storage.dtype.itemsize
    flat = np.frombuffer(read_bytes(path, position + view.offset * item, count * item), view.storage.dtype)
    return np.lib.stride_tricks.as_strided(flat, view.shape, [s * item for s in view.strides], writeable=False)


def _views(tree) -> dict[str, View]:
    """{name: tensor} of the dictionary in a checkpoint that has tensors."""
    for _ in range(3):
        if not isinstance(tree, Mapping):
            break
        if any(isinstance(value, View) for value in tree.values()):
            if not all(isinstance(name, str) for name in tree):
                raise Damaged("it has a tensor without a name")
            return {name: value for name, value in tree.items() if isinstance(value, View)}
        tree = next((tree[key] for key in NESTED if key in tree), None)
    raise Damaged("it has no dictionary of tensors: save model.state_dict()")


def _load(file: BinaryIO, storages: dict[str, Storage]) -> Any:
    """The next object in `file`. Adds the storages that it mentions to `storages`."""
    try:
        return _Unpickler(file, storages).load()
    except Damaged:
        raise
    except Exception as e:  # damaged pickles raise many types
        raise Damaged(f"its pickle is damaged: {type(e).__name__}") from e


class _Function:
    """A function that a pickle may call, and cannot change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable):
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments):
        return self._call(*arguments)

    def __setattr__(self, name, value):
        raise Damaged("it sets an attribute of a function")

    def __setstate__(self, state):
        raise Damaged("it sets the state of a function")


def _whole(values) -> tuple[int, ...]:
    """Numbers from 0, and no others."""
    if not isinstance(values, tuple | list) or not all(type(v) is int and 0 <= v < 2**62 for v in values):
        raise Damaged("the shape of a tensor is invalid")
    return tuple(values)


def _rebuild_tensor(storage, offset, shape, strides, *_):
    shape, strides, (offset,) = _whole(shape), _whole(strides), _whole((offset,))
    if not isinstance(storage, Storage) or len(shape) != len(strides) or len(shape) > 8:
        raise Damaged("a tensor is invalid")
    return View(storage, offset, shape, strides)


def _rebuild_parameter(data, *_):
    return data


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, storages: dict[str, Storage]):
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Function(_ordered)
        if (module, name) in (("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_tensor")):
            return _Function(_rebuild_tensor)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _Function(_rebuild_parameter)
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) == ("torch", "Size"):
            return _Function(_whole)
        raise Damaged(f"it contains {module}.{name}, which is not a tensor: save model.state_dict() alone")

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or pid[1] not in DTYPES:
            raise Damaged("a storage is of unknown type")
        key, count = pid[2], pid[4]
        if len(pid) == 6 and pid[5] is not None:
            raise Damaged("a storage is a view of another one")
        if not isinstance(key, str):
            raise Damaged("a storage has no name")
        return self._storages.setdefault(key, Storage(key, np.dtype(DTYPES[pid[1]]), *_whole((count,))))


class _Dict(collections.OrderedDict):
    """A dictionary whose attributes, such as `_metadata`, are dropped."""

    def __setstate__(self, state):
        pass


def _ordered(*arguments):
    return _Dict(*arguments)
