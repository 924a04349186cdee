"""Reads MATLAB files: with SciPy up to version 7, with h5py from version 7.3 on, which is HDF5.

Both are imported inside functions: importing them takes longer than all builders together, and only preparing needs them.
"""

from pathlib import Path

from ctxseg.errors import UserError


def variable(path: Path, name: str):
    """A variable of a file of version 4 to 7: an array, or for a struct an object whose attributes are its fields.

    Axes of length 1 are dropped: use `numpy.ravel` where there may be one element or several.

    Raises:
        UserError: the file is missing, damaged or of version 7.3, or has no such variable.
    """
    import scipy.io

    try:
        variables = scipy.io.loadmat(path, variable_names=[name], squeeze_me=True, struct_as_record=False)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except Exception as error:  # SciPy and zlib raise many kinds of errors on damaged files
        raise UserError(f"{path}: cannot be read as a MATLAB file: {' '.join(str(error).split())}") from error
    if name not in variables:
        raise UserError(f"{path} has no variable {name}")
    return variables[name]


def field(path: Path, struct, name: str):
    """A field of a struct that `variable` has read from `path`. UserError if there is none."""
    try:
        return getattr(struct, name)
    except AttributeError as error:
        raise UserError(f"{path} has a struct without the field {name}") from error


def hdf5(path: Path):
    """A file of version 7.3 as an `h5py.File` to read; its arrays have their axes in reverse order, as MATLAB stores by columns.

    Raises:
        UserError: the file is missing or damaged.
    """
    import h5py

    try:
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read as a MATLAB file of version 7.3: {' '.join(str(error).split())}"
        ) from error


def item(file, name: str):
    """The array or group `name`, such as 'group/array', of a file that `hdf5` has opened. UserError if there is none."""
    if name not in file:
        raise UserError(f"{file.filename} has no variable {name}")
    return file[name]
