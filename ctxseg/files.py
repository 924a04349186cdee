"""Strict JSON and atomic file replacement, on local disks and in cloud storage.

A remote path is a URL that `etils.epath` supports, such as gs://bucket/run. Errors of cloud storage become a UserError here.
"""

import contextlib
import io
import json
import math
import os
import stat
import sys
import threading
from pathlib import Path

import numpy as np
from etils import epath

from ctxseg.errors import UserError, one_line


def parse_json(text: str | bytes):
    """Parses JSON. ValueError: it is not valid JSON (which has no NaN), or it is nested too deeply for Python."""

    def refuse(constant):
        raise ValueError(f"{constant} is not valid JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e


def is_number(value, minimum: float = -math.inf) -> bool:
    """Whether a JSON value is a finite number of at least `minimum`, within the range of a float."""
    return type(value) in (int, float) and minimum <= value and abs(value) <= sys.float_info.max


def is_remote(path) -> bool:
    """Whether a path is a URL, such as gs://bucket/run."""
    return "://" in os.fspath(path)


def check_reachable(path) -> None:
    """UserError if a remote path cannot be reached: unknown scheme, missing package, no credentials or no network."""
    if not is_remote(path):
        return
    try:
        epath.Path(path).exists()
    except KeyError as e:
        raise UserError(f"{path} has an unknown scheme: expected a local path, or gs://, s3://, az:// or hf://") from e
    except Exception as e:
        raise UserError(f"{path} cannot be reached: {one_line(e)}") from e


def check_regular(path) -> None:
    """UserError if a local path is a pipe, a socket or a device: opening or reading it may never end. Folders and missing files pass."""
    if is_remote(path):
        return
    with contextlib.suppress(OSError, ValueError):  # it is missing, or no path; opening it says so
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(
                f"{path} is not a regular file, but a pipe, a socket or a device: copy its contents into a file"
            )


def resolved(path) -> epath.Path:
    """The absolute path without links. A remote path is returned unchanged: epath would put it below the current folder."""
    return epath.Path(path if is_remote(path) else os.path.realpath(path))


def make_folder(path) -> None:
    """Creates a folder and its parents. Does nothing in cloud storage, which has no folders."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def read_bytes(path) -> bytes:
    """The contents of a file. OSError: it does not exist, or a local file cannot be read. UserError: a remote file cannot be read."""
    with storage_errors(path, "read"):
        return epath.Path(path).read_bytes()


@contextlib.contextmanager
def storage_errors(path, action: str):
    """Turns errors of cloud storage into a UserError, except FileNotFoundError when reading. Errors of local files are not changed.

    `action` is 'read' or 'written'.
    """
    try:
        yield
    except Exception as e:
        missing = isinstance(e, FileNotFoundError)
        if not is_remote(path) or missing and action == "read":
            raise
        if missing:
            raise UserError(f"{path} cannot be written: the bucket does not exist") from e
        raise UserError(f"{path} cannot be {action}: {one_line(e)}") from e


def write_json(path, value) -> None:
    """Writes `value` as JSON, atomically; array scalars become numbers, NaN and infinity null."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def write_text(path, text: str) -> None:
    """Replaces the file at `path` atomically, in UTF-8; bytes of file names that are not UTF-8 are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path, content: bytes) -> None:
    """Replaces the file at `path` atomically: readers see the old or the new contents, also after a crash."""
    # In cloud storage, a file appears only when it is complete.
    if is_remote(path):
        with storage_errors(path, "written"):
            epath.Path(path).write_bytes(content)
        return
    path = Path(path)
    # The name is unique, as another process or thread may write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        e.filename = e.filename or str(path)  # it is missing if the disk is full
        raise


def move(source, path) -> None:
    """Moves a local file to `path`, and replaces an existing file atomically."""
    if not is_remote(path):
        os.replace(source, path)
        return
    with storage_errors(path, "written"):
        epath.Path(source).copy(path, overwrite=True)
    os.unlink(source)


def append_text(path, text: str) -> None:
    """Appends to the file at `path`, which is created if missing."""
    # Cloud storage cannot append: some backends accept mode "a", and overwrite.
    if is_remote(path):
        with contextlib.suppress(FileNotFoundError):
            text = read_bytes(path).decode() + text
        write_text(path, text)
        return
    try:
        with open(path, "a") as f:
            f.write(text)
    except OSError as e:
        e.filename = str(path)  # missing when the disk is full
        raise


def write_arrays(path, arrays: dict) -> None:
    """Writes {name: NumPy array} as a compressed .npz, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def plain(value):
    """`value` in JSON types: array scalars as numbers, NaN and infinity as None, tuples as lists."""
    if hasattr(value, "items"):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
