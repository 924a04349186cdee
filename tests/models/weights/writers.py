"""Writes the files of `torch.save` without PyTorch, also damaged ones; instruction by instruction, as PyTorch does it."""

import io
import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
}
PROTO, STOP = b"\x80\x02", b"."


class View(NamedTuple):
    """A tensor: a view of `storage`, an array `[n]`; offset and strides in numbers. `length` may be a lie."""

    storage: np.ndarray
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    length: int | None = None
    module: str = "torch"


class Call(NamedTuple):
    """module.name(*arguments), and its attributes."""

    module: str
    name: str
    arguments: tuple
    state: Any = None


class Raw(NamedTuple):
    """Instructions of a pickle."""

    code: bytes


def view(array) -> View:
    """A contiguous tensor."""
    array = np.ascontiguousarray(array)
    strides = tuple(s // array.itemsize for s in array.strides)
    return View(array.reshape(-1), 0, array.shape, strides)


class Pickle:
    """A pickle with persistent ids of storages; strings are written once, as pickle does it.

    Attributes:
        storages: {key: array} that were mentioned.
    """

    def __init__(self, legacy=False):
        self.storages: dict[str, np.ndarray] = {}
        self._legacy, self._memo = legacy, {}

    def dumps(self, value) -> bytes:
        self._memo = {}
        return PROTO + self.write(value) + STOP

    def key(self, storage):
        key = next((key for key, array in self.storages.items() if array is storage), str(len(self.storages)))
        self.storages[key] = storage
        return key

    def write(self, value):
        if isinstance(value, Raw):
            return value.code
        if isinstance(value, View):
            return self.view(value)
        if isinstance(value, Call):
            code = self._global(value.module, value.name) + self.write(value.arguments) + b"R"
            return code if value.state is None else code + self.write(value.state) + b"b"
        if isinstance(value, str):
            if value in self._memo:
                return b"j" + struct.pack("<I", self._memo[value])
            self._memo[value] = len(self._memo)
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text + b"r" + struct.pack("<I", self._memo[value])
        if value is None or isinstance(value, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int):
            if 0 <= value < 256:
                return b"K" + bytes([value])
            if -(2**31) <= value < 2**31:
                return b"J" + struct.pack("<i", value)
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.write, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.write, value)) + b"e"
        return b"}(" + b"".join(self.write(x) for pair in value.items() for x in pair) + b"u"

    def _global(self, module, name):
        return f"c{module}\n{name}\n".encode()

    def view(self, tensor):
        key = self.key(tensor.storage)
        kind = self._global(tensor.module, STORAGES[tensor.storage.dtype.name])
        length = len(tensor.storage) if tensor.length is None else tensor.length
        pid = self.write("storage") + kind + b"".join(map(self.write, (key, "cpu", length)))
        storage = b"(" + pid + (b"N" if self._legacy else b"") + b"tQ"
        hooks = self.write(Call("collections", "OrderedDict", ()))
        rest = b"".join(map(self.write, (tensor.offset, tensor.shape, tensor.strides, False))) + hooks
        return self._global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + rest + b"tR"


def torch_zip(tree, changes=None, compression=zipfile.ZIP_STORED, lacking=()) -> bytes:
    """The zip format. `changes`: {member: contents} that replace or add members; `lacking`: members that are left out."""
    pickle = Pickle()
    members = {"data.pkl": tree if isinstance(tree, bytes) else pickle.dumps(tree), "byteorder": b"little"}
    members |= {f"data/{key}": array.tobytes() for key, array in pickle.storages.items()} | {"version": b"3\n"}
    members |= changes or {}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, contents in members.items():
            if name not in lacking:
                archive.writestr(f"archive/{name}", contents)
    return file.getvalue()


def torch_stream(tree, counts=None, little=True, version=1001, keys=None) -> bytes:
    """The older format. `counts`: {key: number} of numbers that it claims; `keys`: the list of storages."""
    pickle = Pickle(legacy=True)
    magic = PROTO + b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    system = {"protocol_version": version, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [magic, pickle.dumps(version), pickle.dumps(system)]
    parts.append(tree if isinstance(tree, bytes) else pickle.dumps(tree))
    parts.append(pickle.dumps(sorted(pickle.storages) if keys is None else keys))
    for key in sorted(pickle.storages):
        array = pickle.storages[key]
        parts += [struct.pack("<q", (counts or {}).get(key, len(array))), array.tobytes()]
    return b"".join(parts)


FORMATS = {"zip": torch_zip, "stream": torch_stream}
