"""An array in a file, which is read when it is needed."""

import math
import os
import threading
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np

# Arrays have at most this many axes, as in NumPy before version 2.
MAX_AXES = 32
# JAX uses the memory of arrays at multiples of this address. Others it copies.
ALIGNMENT = 64
# Rows of a matrix that are transposed at once: they stay in the processor's cache.
ROWS = 64


# What files lack that were not copied to the end.
TOO_SHORT = "it ends too early: copy or download it again"


class Damaged(Exception):
    """A file cannot be read; the message says why, as a sentence about it: "it is empty"."""


class Scratch:
    """Memory for one array at a time."""

    def __init__(self):
        self._memory = np.empty(0, np.uint8)

    def array(self, count: int, dtype: np.dtype) -> np.ndarray:
        """`[count]`, with arbitrary values. Arrays from earlier calls lose their values."""
        size = count * dtype.itemsize
        if size > len(self._memory):
            self._memory = np.empty(size, np.uint8)
        return self._memory[:size].view(dtype)


class Tensor(NamedTuple):
    """An array in a file.

    Attributes:
        shape: its shape.
        dtype: its type.
        read: reads it; may return a view into the given memory that is not contiguous. Safe in several threads. `Damaged`, if the file
            changed or is compressed and damaged.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Scratch], np.ndarray]


class File:
    """An open file, for several threads. What is read is compared with the file's size before memory is allocated.

    Attributes:
        size: in bytes.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._lock = file, threading.Lock()
        self.size = file.seek(0, os.SEEK_END)

    def __del__(self):
        if file := getattr(self, "_file", None):
            file.close()

    def read(self, position: int, count: int) -> bytes:
        """`count` bytes from `position` on. Damaged: there are fewer."""
        self._check(position, count)
        with self._lock:
            self._file.seek(position)
            data = self._file.read(count)
        if len(data) != count:
            raise Damaged(TOO_SHORT)
        return data

    def read_array(self, position: int, count: int, dtype: np.dtype, scratch: Scratch) -> np.ndarray:
        """`count` numbers from `position` on, `[count]`. Damaged: there are fewer."""
        self._check(position, count * dtype.itemsize)
        array = scratch.array(count, dtype)
        with self._lock:
            self._file.seek(position)
            size = self._file.readinto(array.view(np.uint8))  # type: ignore[attr-defined]
        if size != array.nbytes:
            raise Damaged(TOO_SHORT)
        return array

    def _check(self, position, count):
        if position < 0 or count < 0 or position + count > self.size:
            raise Damaged(TOO_SHORT)


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array with arbitrary values, in memory that JAX can use without copying it."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def copy(array: np.ndarray, result: np.ndarray) -> None:
    """Copies an array into a contiguous one; fast for kernels of PyTorch, which are views of `[O,I,k,l]` or `[O,I]`."""
    if array.ndim == 2 and array.dtype == np.float32 and array.T.flags.c_contiguous and array.size:
        array, result = array[None, None], result[None, None]
    kernel = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    if array.ndim != 4 or array.dtype != np.float32 or not kernel.flags.c_contiguous or not array.size:
        result[...] = array
        return
    height, width, inputs, outputs = array.shape
    count = height * width
    rows, taps = kernel.reshape(outputs, inputs * count), result.reshape(count, inputs, outputs)
    # NumPy's own transposition takes three times as long.
    if count == 1:
        cv2.transpose(rows, taps[0])
        return
    for i in range(0, outputs, ROWS):
        part = cv2.transpose(rows[i : i + ROWS])
        taps[:, :, i : i + ROWS] = part.reshape(inputs, count, -1).transpose(1, 0, 2)


def to_shape(values: Any) -> tuple[int, ...]:
    """A list or tuple from a file as a shape. Damaged: it is none."""
    if (
        not isinstance(values, tuple | list)
        or len(values) > MAX_AXES
        or not all(type(v) is int and 0 <= v < 2**62 for v in values)
    ):
        raise Damaged("the shape of an array is invalid")
    return tuple(values)


def short(text: str) -> str:
    """A name from a file as messages show it: shortened, if it is long."""
    return text if len(text) <= 100 else f"{text[:100]}…"
