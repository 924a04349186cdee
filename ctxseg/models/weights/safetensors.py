"""Reads safetensors: the length of a description, the description as JSON, and the numbers."""

import json
import math
import struct
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from ctxseg.models.weights.tensor import TOO_SHORT, Damaged, File, Tensor, short, to_shape

# Longest description, in bytes: that of 20000 arrays. As Python's objects it takes up to 25 times that.
LONGEST_HEADER = 1 << 21
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
    "C64": np.complex64,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def is_safetensors(beginning: bytes) -> bool:
    """Whether a file with this beginning has this format."""
    return beginning[8:9] == b"{"


def read(file: File) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """{name: tensor} and the description `__metadata__`.

    Raises:
        Damaged: it is damaged.
    """
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > file.size - 8:
        raise Damaged(TOO_SHORT)
    if length > LONGEST_HEADER:
        raise Damaged(f"its header has {length} bytes; at most {LONGEST_HEADER} are read")
    header = parse_object(file.read(8, length))
    metadata = header.pop("__metadata__", {})
    start, ends, tensors = 8 + length, [], {}
    for name, entry in header.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
            raise Damaged(f"{short(name)} has no type")
        if entry["dtype"] not in DTYPES:
            raise Damaged(f"{short(name)} has the type {short(entry['dtype'])}")
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), to_shape(entry.get("shape"))
        offsets, count = to_shape(entry.get("data_offsets")), math.prod(shape)
        if len(offsets) != 2 or offsets[1] - offsets[0] != count * dtype.itemsize:
            raise Damaged(f"{short(name)} has another size than its shape {list(shape)}")
        ends.append(offsets)
        tensors[name] = Tensor(shape, dtype, partial(_read, file, start + offsets[0], shape, dtype))
    end = 0
    for first, last in sorted(ends):
        if first != end:
            raise Damaged("its arrays overlap or leave gaps")
        end = last
    if start + end != file.size:
        raise Damaged(TOO_SHORT if start + end > file.size else "it is longer than its arrays")
    return tensors, metadata if isinstance(metadata, dict) else {}


def _read(file, position, shape, dtype, scratch):
    return file.read_array(position, math.prod(shape), dtype, scratch).reshape(shape)


def parse_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object in which no key is twice. Damaged: it is none."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise Damaged("its description is not JSON") from e
    if not isinstance(value, dict):
        raise Damaged("its description is not a JSON object")
    return value


def _unique(pairs):
    values = dict(pairs)
    if len(values) != len(pairs):
        raise Damaged("two entries of its description have the same name")
    return values
