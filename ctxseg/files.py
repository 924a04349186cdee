"""JSON read strictly, and files replaced whole or not at all."""

import io
import json
import math
import os
import sys
import threading
from pathlib import Path

import numpy as np


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


def write_json(path, value) -> None:
    """Writes `value` as JSON, whole or not at all; array scalars become numbers, NaN and infinity null."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def write_text(path, text: str) -> None:
    """Replaces the file at `path` in one step, by UTF-8; of names that are none, the bytes are escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path, content: bytes) -> None:
    """Replaces the file at `path` in one step: a reader or a crash meets the old content or the new, never a part."""
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
