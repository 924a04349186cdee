"""Reads NumPy's archives of arrays, `.npz`."""

import io
import math
from functools import partial

import numpy as np

from ctxseg.models.weights.archives import Archive
from ctxseg.models.weights.tensor import TOO_SHORT, Damaged, Tensor, short, to_shape

# NumPy refuses longer descriptions of an array, but only after it has read them.
LONGEST_HEADER = 1 << 14


def read(archive: Archive) -> dict[str, Tensor]:
    """{name: tensor} of an archive whose members are called NAME.npy.

    Raises:
        Damaged: it is damaged, or an array is not of numbers.
    """
    tensors = {}
    for name in archive.names:
        shape, fortran, dtype, start = _header(name, archive.read(name, 0, LONGEST_HEADER))
        if start + dtype.itemsize * math.prod(shape) != archive.size(name):
            raise Damaged(f"{short(name)} has another size than its shape {list(shape)}")
        position = archive.position(name)
        if position is not None and position + archive.size(name) > archive.file.size:
            raise Damaged(TOO_SHORT)
        read = partial(_read, archive, name, start, shape, dtype, fortran)
        tensors[name.removesuffix(".npy")] = Tensor(shape, dtype, read)
    return tensors


def _header(name, beginning):
    """(shape, whether it is in Fortran's order, type, position of the numbers)."""
    file = io.BytesIO(beginning)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version in ((2, 0), (3, 0)):  # the latter has names of columns in UTF-8
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError("unknown version")
    except Exception as e:  # NumPy evaluates the header as Python's literals, which raise many types
        raise Damaged(f"{short(name)} is not an array") from e
    if dtype.kind not in "fiubc":
        raise Damaged(f"{short(name)} is not an array of numbers")
    return to_shape(shape), fortran, dtype, file.tell()


def _read(archive, name, start, shape, dtype, fortran, scratch):
    array = archive.read_array(name, start, math.prod(shape), dtype, scratch)
    return array.reshape(shape, order="F" if fortran else "C")
