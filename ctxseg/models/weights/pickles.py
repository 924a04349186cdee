"""Reads the pickles of `torch.save` without running what they say.

A pickle is a program. It can import any function and call it, and a short one can fill the memory. The interpreter here has the
instructions that checkpoints consist of. The only functions that it calls are those of `FUNCTIONS`, which describe tensors, or stand
for a value that is not read. The rest is refused when it is mentioned, before anything is called.
"""

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ctxseg.models.weights.tensor import TOO_SHORT, Damaged, short, to_shape

# Most instructions of a pickle. Each takes less than 150 bytes of memory, apart from strings; a tensor has about 25.
MOST_INSTRUCTIONS = 300_000
# Longest pickle, in bytes.
LONGEST = 1 << 23
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


class _Dtype(NamedTuple):
    name: str


class _Function(NamedTuple):
    """A function that a pickle may call."""

    call: Callable


class _Ignored:
    """A value that is no tensor. It has no contents, whatever a pickle creates it from."""


class NumpyArray(_Ignored):
    """An array of NumPy, which is not read."""


def load(data: bytes, start: int, storages: dict[str, Storage]) -> tuple[Any, int]:
    """The object of a pickle, and where the pickle ends.

    Tensors are `View`, arrays of NumPy are `NumpyArray`. Dictionaries have strings and numbers as keys.

    Args:
        data: has the pickle.
        start: where in `data` it starts.
        storages: {key: storage}; those that the pickle mentions are added.

    Raises:
        Damaged: it is damaged, too long, or mentions something that does not describe a tensor.
    """
    try:
        return _run(data, start, storages)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, struct.error, UnicodeDecodeError) as e:
        raise Damaged("its pickle is damaged, or it ends too early: copy or download it again") from e


_INT4, _UINT4, _UINT2, _UINT8, _FLOAT = map(struct.Struct, ("<i", "<I", "<H", "<Q", ">d"))


def _run(data, i, storages):
    """`load`. A damaged pickle raises any exception of an index, a value or a type."""
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[int, Any] = {}
    end = len(data)

    def take(count):
        """The next `count` bytes."""
        nonlocal i
        if i + count > end:
            raise Damaged(TOO_SHORT)
        i += count
        return data[i - count : i]

    def line():
        """The text up to the end of the line."""
        nonlocal i
        stop = data.index(b"\n", i, i + 1000)
        text, i = data[i:stop].decode(), stop + 1
        return text

    def marked():
        """Removes the values since the last mark from the stack."""
        nonlocal stack
        values, stack = stack, marks.pop()
        return values

    for _ in range(MOST_INSTRUCTIONS):
        if i >= end:
            raise Damaged(TOO_SHORT)
        code = data[i]
        i += 1
        # The most frequent first.
        if code == 0x72:  # LONG_BINPUT
            memo[_UINT4.unpack_from(data, i)[0]] = stack[-1]
            i += 4
        elif code == 0x68:  # BINGET
            stack.append(memo[data[i]])
            i += 1
        elif code == 0x4B:  # BININT1
            stack.append(data[i])
            i += 1
        elif code == 0x58:  # BINUNICODE
            i += 4
            stack.append(take(_UINT4.unpack_from(data, i - 4)[0]).decode("utf-8", "surrogatepass"))
        elif code == 0x28:  # MARK
            marks.append(stack)
            stack = []
        elif code == 0x74:  # TUPLE
            values = marked()
            stack.append(tuple(values))
        elif code == 0x52:  # REDUCE
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, _Function) or not isinstance(arguments, tuple):
                raise Damaged("its pickle calls a value that is no function")
            stack.append(function.call(*arguments))
        elif code == 0x4D:  # BININT2
            stack.append(_UINT2.unpack_from(data, i)[0])
            i += 2
        elif code == 0x89:  # NEWFALSE
            stack.append(False)
        elif code == 0x71:  # BINPUT
            memo[data[i]] = stack[-1]
            i += 1
        elif code == 0x29:  # EMPTY_TUPLE
            stack.append(())
        elif code == 0x51:  # BINPERSID
            stack.append(_storage(stack.pop(), storages))
        elif code == 0x4A:  # BININT
            stack.append(_INT4.unpack_from(data, i)[0])
            i += 4
        elif code == 0x85:  # TUPLE1
            stack[-1] = (stack[-1],)
        elif code == 0x86:  # TUPLE2
            stack[-2:] = [tuple(stack[-2:])]
        elif code == 0x87:  # TUPLE3
            stack[-3:] = [tuple(stack[-3:])]
        elif code == 0x75:  # SETITEMS
            values = marked()
            _set_items(stack[-1], values)
        elif code == 0x73:  # SETITEM
            value, key = stack.pop(), stack.pop()
            _set_items(stack[-1], [key, value])
        elif code == 0x63:  # GLOBAL
            module = line()
            stack.append(_find(module, line()))
        elif code == 0x6A:  # LONG_BINGET
            stack.append(memo[_UINT4.unpack_from(data, i)[0]])
            i += 4
        elif code == 0x7D:  # EMPTY_DICT
            stack.append({})
        elif code == 0x5D:  # EMPTY_LIST
            stack.append([])
        elif code == 0x61:  # APPEND
            value = stack.pop()
            _list(stack[-1]).append(value)
        elif code == 0x65:  # APPENDS
            values = marked()
            _list(stack[-1]).extend(values)
        elif code == 0x47:  # BINFLOAT
            stack.append(_FLOAT.unpack_from(data, i)[0])
            i += 8
        elif code == 0x4E:  # NONE
            stack.append(None)
        elif code == 0x88:  # NEWTRUE
            stack.append(True)
        elif code == 0x8A:  # LONG1
            stack.append(int.from_bytes(take(take(1)[0]), "little", signed=True))
        elif code == 0x81:  # NEWOBJ: an object of a class
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(function, _Function) or function.call is not _ignored or not isinstance(arguments, tuple):
                raise Damaged("its pickle creates an object of a class that is not known here")
            stack.append(_Ignored())
        elif code == 0x62:  # BUILD: attributes, such as `_metadata` of a state_dict
            state = stack.pop()
            if not isinstance(stack[-1], dict | _Ignored) or not isinstance(state, dict | tuple):
                raise Damaged("its pickle sets attributes of a value that has none")
        elif code == 0x2E:  # STOP
            return stack.pop(), i
        elif code == 0x80:  # PROTO
            take(1)
        elif code == 0x95:  # FRAME
            take(8)
        elif code == 0x94:  # MEMOIZE
            memo[len(memo)] = stack[-1]
        elif code == 0x93:  # STACK_GLOBAL
            name, module = stack.pop(), stack.pop()
            if not isinstance(module, str) or not isinstance(name, str):
                raise Damaged("its pickle is damaged")
            stack.append(_find(module, name))
        elif code == 0x8C:  # SHORT_BINUNICODE
            stack.append(take(take(1)[0]).decode("utf-8", "surrogatepass"))
        elif code in (0x55, 0x43):  # SHORT_BINSTRING: a string of Python 2; SHORT_BINBYTES
            value = take(take(1)[0])
            stack.append(value.decode("latin-1") if code == 0x55 else value)
        elif code in (0x54, 0x42):  # BINSTRING, BINBYTES
            value = take(_UINT4.unpack(take(4))[0])
            stack.append(value.decode("latin-1") if code == 0x54 else value)
        elif code in (0x8D, 0x8E, 0x96):  # BINUNICODE8, BINBYTES8, BYTEARRAY8
            value = take(_UINT8.unpack(take(8))[0])
            stack.append(value.decode("utf-8", "surrogatepass") if code == 0x8D else value)
        elif code == 0x8B:  # LONG4
            stack.append(int.from_bytes(take(_UINT4.unpack(take(4))[0]), "little", signed=True))
        elif code == 0x8F:  # EMPTY_SET
            stack.append(_Ignored())
        elif code == 0x90:  # ADDITEMS
            marked()
            if not isinstance(stack[-1], _Ignored):
                raise Damaged("its pickle is damaged")
        elif code == 0x91:  # FROZENSET
            marked()
            stack.append(_Ignored())
        elif code == 0x30:  # POP
            stack.pop()
        elif code == 0x31:  # POP_MARK
            marked()
        else:
            raise Damaged(f"its pickle has the instruction {code:#04x}, which torch.save does not write")
    raise Damaged("its pickle is too long: save model.state_dict() alone")


def _list(value):
    if not isinstance(value, list):
        raise Damaged("its pickle is damaged")
    return value


def _set_items(target, values):
    """`values`: keys and values in turn."""
    if not isinstance(target, dict | _Ignored) or len(values) % 2:
        raise Damaged("its pickle is damaged")
    keys = values[::2]
    if not all(_is_short(key) or isinstance(key, tuple) and len(key) < 10 and all(map(_is_short, key)) for key in keys):
        raise Damaged("it has a dictionary whose keys are not strings or numbers: save model.state_dict() alone")
    if isinstance(target, dict):
        target.update(zip(keys, values[1::2], strict=True))


def _is_short(key):
    """Whether it is a value whose hash is computed fast, and is not easily that of others."""
    return isinstance(key, str | float | bytes | None | _Dtype) or type(key) in (int, bool) and abs(key) < 2**60


def _storage(pid, storages):
    """The storage of a persistent id ("storage", type, key, device, length[, view])."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        if isinstance(pid, tuple) and pid and pid[0] == "module":
            raise Damaged("it contains a whole network, not its tensors alone: save model.state_dict()")
        raise Damaged("its pickle is damaged")
    dtype, key, count = pid[1], pid[2], pid[4]
    if not isinstance(dtype, _Dtype) or dtype.name not in DTYPES:
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
    if metadata or not isinstance(dtype, _Dtype) or dtype.name not in OTHER_DTYPES:
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
    if function not in map(_Function, (_tensor, _tensor_v2, _tensor_v3)):
        raise Damaged("a tensor is invalid")
    return function.call(*arguments)


def _ignored(*_):
    return _Ignored()


def _numpy_array(*_):
    return NumpyArray()


# What a pickle may mention, by module and name. No function of this module and name is ever called: `_ignored` returns a value without
# contents.
FUNCTIONS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Function(lambda items=(): _dict(items)),
    ("torch._utils", "_rebuild_tensor"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor_v2),
    ("torch._utils", "_rebuild_tensor_v3"): _Function(_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): _Function(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): _Function(_with_attributes),
    ("torch", "Tensor"): _Ignored(),
    ("torch.nn.parameter", "Parameter"): _Ignored(),
    ("torch", "Size"): _Function(to_shape),
    ("torch", "device"): _Function(_ignored),
    ("torch.serialization", "_get_layout"): _Function(_ignored),
    ("collections", "Counter"): _Function(_ignored),
    ("builtins", "set"): _Function(_ignored),
    ("builtins", "frozenset"): _Function(_ignored),
    ("builtins", "complex"): _Function(_ignored),
    ("builtins", "bytearray"): _Function(_ignored),
    ("_codecs", "encode"): _Function(_ignored),  # bytes in the protocols before 3
    # What training checkpoints have beside the weights, such as MMEngine's.
    ("argparse", "Namespace"): _Function(_ignored),
    ("mmengine.logging.history_buffer", "HistoryBuffer"): _Function(_ignored),
    ("builtins", "getattr"): _Function(_ignored),  # methods of HistoryBuffer
    ("numpy", "dtype"): _Function(_ignored),
    ("numpy", "ndarray"): _Ignored(),
    ("numpy.core.multiarray", "scalar"): _Function(_ignored),
    ("numpy.core.multiarray", "_reconstruct"): _Function(_numpy_array),
    ("numpy.core.numeric", "_frombuffer"): _Function(_numpy_array),
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
        _set_items(result, [key, value])
    return result


def _find(module, name):
    """What a pickle may mention by this name. Damaged: nothing."""
    if module in _STORAGE_MODULES and name in DTYPES:
        return _Dtype(name)
    if module == "torch" and name in _TORCH_TYPES:
        return _Dtype(name)
    found = FUNCTIONS.get((_RENAMED.get(module, module), name))
    if found is None:
        raise Damaged(
            f"it contains {short(f'{module}.{name}')}, which is not a dense tensor: save model.state_dict() alone"
        )
    return found
