"""What the pickles of `torch.save` may mention: tensors, their storages and types, and values that are not read.

The only functions that the interpreter (`pickles.py`) calls are those of `FUNCTIONS`, which describe tensors, or stand for a value that is
not read. The rest is refused when it is mentioned, before anything is called.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ctxseg.models.weights.tensor import Damaged, short, to_shape

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
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
    "UntypedStorage": np.uint8,
}
# Types without a storage of their own.
OTHER_DTYPES = {
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "float8_e4m3fn": jnp.float8_e4m3fn,
    "float8_e5m2": jnp.float8_e5m2,
}


class Storage(NamedTuple):
    """A block of `length` numbers that tensors are views of."""

    key: str
    dtype: np.dtype
    length: int


class View(NamedTuple):
    """A tensor in a storage. Offset and strides are in numbers, not in bytes."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Dtype(NamedTuple):
    name: str


class Function(NamedTuple):
    """A function that a pickle may call."""

    call: Callable


class Ignored:
    """A value that is no tensor. It has no contents, whatever a pickle creates it from."""


class NumpyArray(Ignored):
    """An array of NumPy, which is not read."""


def set_items(target, values):
    """`values`: keys and values in turn."""
    if not isinstance(target, dict | Ignored) or len(values) % 2:
        raise Damaged("its pickle is damaged")
    keys = values[::2]
    if not all(_is_short(key) or isinstance(key, tuple) and len(key) < 10 and all(map(_is_short, key)) for key in keys):
        raise Damaged("it has a dictionary whose keys are not strings or numbers: save model.state_dict() alone")
    if isinstance(target, dict):
        target.update(zip(keys, values[1::2], strict=True))


def _is_short(key):
    """Whether it is a value whose hash is computed fast, and is not easily that of others."""
    return isinstance(key, str | float | bytes | None | Dtype) or type(key) in (int, bool) and abs(key) < 2**60


def storage_of(pid, storages):
    """The storage of a persistent id ("storage", type, key, device, length[, view])."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        if isinstance(pid, tuple) and pid and pid[0] == "module":
            raise Damaged("it contains a whole network, not its tensors alone: save model.state_dict()")
        raise Damaged("its pickle is damaged")
    dtype, key, count = pid[1], pid[2], pid[4]
    if not isinstance(dtype, Dtype) or dtype.name not in DTYPES:
        raise Damaged("a storage is of unknown type")
    if len(pid) == 6 and pid[5] is not None:
        raise Damaged("a storage is a view of another one")
    if not isinstance(key, str):
        raise Damaged("a storage has no name")
    new = Storage(key, np.dtype(DTYPES[dtype.name]), *to_shape((count,)))
    if storages.setdefault(key, new) != new:
        raise Damaged(f"storage {short(key)} has two types or sizes")
    return new


def _tensor(storage, offset, shape, strides, *_):
    return _view(storage, offset, shape, strides, None)


def _tensor_v2(storage, offset, shape, strides, requires_grad, hooks, metadata=None):
    if metadata:
        raise Damaged("a tensor is a conjugate or negative view: save a copy of it")
    return _view(storage, offset, shape, strides, None)


def _tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None):
    if metadata or not isinstance(dtype, Dtype) or dtype.name not in OTHER_DTYPES:
        raise Damaged("a tensor is of unknown type")
    return _view(storage, offset, shape, strides, np.dtype(OTHER_DTYPES[dtype.name]))


def _view(storage, offset, shape, strides, dtype):
    shape, strides, (offset,) = to_shape(shape), to_shape(strides), to_shape((offset,))
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise Damaged("a tensor is invalid")
    return View(storage, dtype or storage.dtype, offset, shape, strides)


def _parameter(data, *_):
    if not isinstance(data, View):
        raise Damaged("a parameter is invalid")
    return data


def _with_attributes(function, kind, arguments, state):
    """A tensor with attributes, which are dropped."""
    if function not in map(Function, (_tensor, _tensor_v2, _tensor_v3)):
        raise Damaged("a tensor is invalid")
    return function.call(*arguments)


def ignored(*_):
    return Ignored()


def _numpy_array(*_):
    return NumpyArray()


# What a pickle may mention, by module and name. No function of this module and name is ever called: `ignored` returns a value without
# contents.
FUNCTIONS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Function(lambda items=(): _dict(items)),
    ("torch._utils", "_rebuild_tensor"): Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_tensor_v2),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): Function(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): Function(_with_attributes),
    ("torch", "Tensor"): Ignored(),
    ("torch.nn.parameter", "Parameter"): Ignored(),
    ("torch", "Size"): Function(to_shape),
    ("torch", "device"): Function(ignored),
    ("torch.serialization", "_get_layout"): Function(ignored),
    ("collections", "Counter"): Function(ignored),
    ("builtins", "set"): Function(ignored),
    ("builtins", "frozenset"): Function(ignored),
    ("builtins", "complex"): Function(ignored),
    ("builtins", "bytearray"): Function(ignored),
    ("_codecs", "encode"): Function(ignored),  # bytes in the protocols before 3
    # What training checkpoints have beside the weights, such as MMEngine's.
    ("argparse", "Namespace"): Function(ignored),
    ("mmengine.logging.history_buffer", "HistoryBuffer"): Function(ignored),
    ("builtins", "getattr"): Function(ignored),  # methods of HistoryBuffer
    ("numpy", "dtype"): Function(ignored),
    ("numpy", "ndarray"): Ignored(),
    ("numpy.core.multiarray", "scalar"): Function(ignored),
    ("numpy.core.multiarray", "_reconstruct"): Function(_numpy_array),
    ("numpy.core.numeric", "_frombuffer"): Function(_numpy_array),
}  # fmt: skip
# Other names of modules: of Python 2, and of NumPy since version 2.
_RENAMED = {"__builtin__": "builtins"} | {
    f"numpy._core.{name}": f"numpy.core.{name}" for name in ("multiarray", "numeric")
}
_TORCH_TYPES = {
    *OTHER_DTYPES,
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"),
    *("complex64", "complex128", "qint8", "quint8", "qint32"),
}
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")


def _dict(items):
    if not isinstance(items, list | tuple) or not all(isinstance(x, list | tuple) and len(x) == 2 for x in items):
        raise Damaged("its pickle is damaged")
    result: dict = {}
    for key, value in items:
        set_items(result, [key, value])
    return result


def find(module, name):
    """What a pickle may mention by this name. Damaged: nothing."""
    if module in _STORAGE_MODULES and name in DTYPES:
        return Dtype(name)
    if module == "torch" and name in _TORCH_TYPES:
        return Dtype(name)
    found = FUNCTIONS.get((_RENAMED.get(module, module), name))
    if found is None:
        raise Damaged(
            f"it contains {short(f'{module}.{name}')}, which is not a dense tensor: save model.state_dict() alone"
        )
    return found
