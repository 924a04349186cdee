"""An array in a file, which is read when it is needed."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Damaged(Exception):
    """A file cannot be read; the message says why, as a sentence about it: "it ends too early"."""


class Tensor(NamedTuple):
    """An array in a file.

    Attributes:
        shape: its shape.
        dtype: its type.
        read: reads it; may return a read-only view.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


def read_bytes(path, position: int, count: int) -> bytes:
    """`count` bytes of the file at `path`, an `epath.Path`, from `position` on.

    Raises:
        Damaged: there are fewer.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        if position < 0 or count < 0 or position + count > end:  # before memory is allocated
            raise Damaged("it ends too early")
        file.seek(position)
        return file.read(count)
