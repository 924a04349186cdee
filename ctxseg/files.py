"""JSON read strictly, and files replaced whole or not at all, on this machine or in cloud storage.

A remote path is a URL that `etils.epath` knows, as gs://bucket/run. What cloud storage raises becomes a UserError here.
"""

import contextlib
import io
import json
import math
import os
import sys
import threading
from pathlib import Path

import numpy as np
from etils import epath

from ctxseg.errors import UserError, one_line


def parse_json(text: str | bytes):
    """What JSON says. ValueError if it is none, as NaN is not, or is nested deeper than Python reads."""

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e


def is_number(value, least: float = -math.inf) -> bool:
    """Whether a value of JSON is a finite number, not below `least`, that a float holds."""
    return type(value) in (int, float) and least <= value and abs(value) <= sys.float_info.max


def is_remote(path) -> bool:
    """Whether a path is a URL, as gs://bucket/run."""
    return "://" in os.fspath(path)


def check_reachable(path) -> None:
    """UserError if a remote path cannot be reached: an unknown scheme, no package for it, no credentials, no network."""
    if not is_remote(path):
        return
    try:
        epath.Path(path).exists()
    except KeyError as e:
        raise UserError(f"{path} has an unknown scheme: expected gs://, s3://, az:// or hf://") from e
    except Exception as e:
        raise UserError(f"{path} cannot be reached: {one_line(e)}") from e


def resolved(path) -> epath.Path:
    """A path from the root on, without links; a remote one as it is, which epath would put below the current folder."""
    return epath.Path(path if is_remote(path) else os.path.realpath(path))


def make_folder(path) -> None:
    """Makes a folder, and those above it. Cloud storage has none."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def read_bytes(path) -> bytes:
    """The content of a file. OSError: there is none, or it cannot be read; UserError: a remote one that cannot be."""
    with storage_errors(path, "read"):
        return epath.Path(path).read_bytes()


@contextlib.contextmanager
def storage_errors(path, done: str):
    """Makes a UserError of what cloud storage raises, but for a file to be read that is not there; the errors of local files pass.

    `done` is read or written.
    """
    try:
        yield
    except Exception as e:
        missing = isinstance(e, FileNotFoundError)
        if not is_remote(path) or missing and done == "read":
            raise
        if missing:
            raise UserError(f"{path} cannot be written: there is no such bucket") from e
        raise UserError(f"{path} cannot be {done}: {one_line(e)}") from e


def write_json(path, value) -> None:
    """Writes `value` as JSON, whole or not at all; array scalars become numbers, NaN and infinity null."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def write_text(path, text: str) -> None:
    """Replaces the file at `path` in one step, by UTF-8; of names that are none, the bytes are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path, content: bytes) -> None:
    """Replaces the file at `path` in one step: a reader or a crash meets the old content or the new, never a part."""
    if is_remote(path):  # cloud storage shows a file when it is complete; to rename one, it copies it
        with storage_errors(path, "written"):
            epath.Path(path).write_bytes(content)
        return
    path = Path(path)
    # Others may write the same file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        e.filename = e.filename or str(path)  # which a full disk does not say
        raise


def move(source, path) -> None:
    """Moves a local file to `path`, which it replaces in one step."""
    if not is_remote(path):
        os.replace(source, path)
        return
    with storage_errors(path, "written"):
        epath.Path(source).copy(path, overwrite=True)
    os.unlink(source)


def append_text(path, text: str) -> None:
    """Appends to the file at `path`, which is made if it is not there."""
    if is_remote(path):  # where files are written whole; some backends take mode "a", and overwrite
        with contextlib.suppress(FileNotFoundError):
            text = read_bytes(path).decode() + text
        write_text(path, text)
        return
    try:
        with open(path, "a") as f:
            f.write(text)
    except OSError as e:
        e.filename = str(path)  # which a full disk does not say
        raise


def write_arrays(path, arrays: dict) -> None:
    """Writes {name: NumPy array} as a compressed .npz, as `write_bytes`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def plain(value):
    """`value` as JSON has it: array scalars as numbers, NaN and infinity as None, tuples as lists."""
    if hasattr(value, "items"):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
