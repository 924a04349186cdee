"""Reads the files of `torch.save` without PyTorch: the zip format, since PyTorch 1.6, and the older stream of pickles.

`pickled.py` has what a pickle may mention. Sizes are compared with the file before memory is allocated.
"""

import math
import struct
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from ctxseg.models.weights import pickles
from ctxseg.models.weights.archives import Archive
from ctxseg.models.weights.pickled import NumpyArray, Storage, View
from ctxseg.models.weights.tensor import Damaged, File, Tensor, short

# The first pickle of a stream: a number as the instruction LONG1, and the end.
MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
STREAM_VERSION = 1001
# The entries of a training checkpoint that hold its tensors.
NESTED = ("state_dict", "model", "model_state_dict", "network", "net", "params", "module")


def is_stream(beginning: bytes) -> bool:
    """Whether a file with this beginning has the older format."""
    return beginning.startswith(b"\x80") and MAGIC in beginning[:32]


def read_zip(archive: Archive) -> dict[str, Tensor]:
    """{name: tensor} of the zip format.

    Raises:
        Damaged: it is damaged, or mentions something that does not describe a tensor.
    """
    found = [name for name in archive.names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(found) != 1:
        raise Damaged("it is a zip archive, but neither of torch.save, nor an export, nor .npz")
    folder = found[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.names and archive.read(f"{folder}byteorder", 0, 10) != b"little":
        raise Damaged("its numbers are big-endian")
    if archive.size(found[0]) > pickles.LONGEST:
        raise Damaged("its pickle is too long: save model.state_dict() alone")
    tree, _ = pickles.load(archive.read(found[0], 0, pickles.LONGEST), 0, {})
    names = set(archive.names)

    def locate(storage):
        name = f"{folder}data/{storage.key}"
        if name not in names:
            raise Damaged(f"it lacks {short(name)}")
        position = archive.position(name)
        if position is None:  # torch.save does not compress: its size may be a lie
            raise Damaged(f"{short(name)} is compressed")
        return position, archive.size(name)

    return _tensors(archive.file, tree, locate)


def read_stream(file: File) -> dict[str, Tensor]:
    """{name: tensor} of the older format: four pickles, a list of storages, and the numbers of each storage.

    Raises:
        Damaged: as `read_zip`.
    """
    data = file.read(0, min(pickles.LONGEST, file.size))
    storages: dict[str, Storage] = {}
    end, values = 0, []
    for _ in range(5):
        value, end = pickles.load(data, end, storages)
        values.append(value)
    _, version, system, tree, keys = values
    if version != STREAM_VERSION:
        raise Damaged("its version is unknown")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Damaged("its numbers are big-endian")
    if not isinstance(keys, list):
        raise Damaged("it has no list of storages")
    positions: dict[str, tuple[int, int]] = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(end, 8))
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None or count != storage.length:
            raise Damaged("a storage has another size than its tensors")
        length = count * storage.dtype.itemsize
        positions[key] = end + 8, length
        end += 8 + length

    def locate(storage):
        if storage.key not in positions:
            raise Damaged(f"it lacks storage {short(storage.key)}")
        return positions[storage.key]

    return _tensors(file, tree, locate)


def _tensors(file: File, tree, locate: Callable[[Storage], tuple[int, int]]) -> dict[str, Tensor]:
    """The tensors of an unpickled tree. `locate` gives the position and the bytes of a storage in the file."""
    tensors = {}
    for name, view in _views(tree).items():
        position, length = locate(view.storage)
        size = view.storage.length * view.storage.dtype.itemsize
        if length != size or position + length > file.size:
            raise Damaged(
                f"{short(name)}: the file does not have all numbers of its storage: copy or download it again"
            )
        count = math.prod(view.shape)
        last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
        if count and last >= size // view.dtype.itemsize:
            raise Damaged(f"{short(name)}: shape {list(view.shape)} does not fit into its storage")
        read = partial(_read, file, view, position, last + 1 - view.offset if count else 0)
        tensors[name] = Tensor(view.shape, view.dtype, read)
    return tensors


def _read(file, view, position, count, scratch):
    item = view.dtype.itemsize
    flat = file.read_array(position + view.offset * item, count, view.dtype, scratch)
    return np.ndarray(view.shape, view.dtype, flat, strides=[s * item for s in view.strides])  # checks the strides


def _views(tree) -> dict[str, View]:
    """{name: tensor} of the dictionary in a checkpoint that has the weights."""
    for _ in range(3):
        if not isinstance(tree, Mapping):
            break
        # Other entries of a checkpoint can be tensors too, such as the number of epochs.
        nested = next((tree[key] for key in NESTED if isinstance(tree.get(key), Mapping) and tree[key]), None)
        if nested is None:
            views = {name: value for name, value in tree.items() if isinstance(value, View)}
            if not all(isinstance(name, str) for name in views):
                raise Damaged("it has a tensor without a name")
            if arrays := [name for name, value in tree.items() if isinstance(value, NumpyArray)]:
                raise Damaged(
                    f"{short(str(arrays[0]))} in it is an array of NumPy, not a tensor: save model.state_dict()"
                )
            if views:
                return views
            break
        tree = nested
    raise Damaged("it has no dictionary of tensors: save model.state_dict()")
