"""The log of a run: metrics.jsonl and the configured loggers."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from ctxseg.errors import UserError
from ctxseg.files import append_text, is_number, make_folder, parse_json, plain, read_bytes, write_text
from ctxseg.runs.loggers import find_loggers


class MetricsLog:
    """metrics.jsonl of a run, and its other loggers. Only one process may write; others may read at any time."""

    def __init__(self, workdir, loggers: Sequence[str] = ()):
        """Opens the log of `workdir`, which is created if missing. A last line that a crash cut short is dropped.

        Args:
            workdir: folder of the run.
            loggers: names in `LOGGERS`, or `package.module:Class`.

        Raises:
            UserError: a logger does not exist, is not installed, or cannot start.
        """
        self._workdir = epath.Path(workdir)
        make_folder(workdir)
        self._path = self._workdir / "metrics.jsonl"
        self._loggers = [logger(self._workdir) for logger in find_loggers(loggers)]
        if self._path.exists() and not read_bytes(self._path).endswith(b"\n"):
            self._rewrite(read_metrics(workdir))

    def write(self, step: int, kind: str, values: dict) -> None:
        """Appends one line to metrics.jsonl, and passes it to the other loggers. The line is on disk when this returns.

        Args:
            step: optimiser updates done.
            kind: 'train' or 'eval'.
            values: numbers (Python's, NumPy's or JAX's), or {name: number} such as `per_class_iou`. NaN and infinity become null.
        """
        step, values = int(step), plain(values)
        append_text(self._path, json.dumps({"step": step, "kind": kind} | values, allow_nan=False) + "\n")
        for logger in self._loggers:
            logger.write(step, kind, values)

    @property
    def takes_images(self) -> bool:
        """Whether a logger takes pictures."""
        return any(hasattr(logger, "images") for logger in self._loggers)

    def images(self, step: int, kind: str, images: Mapping[str, np.ndarray]) -> None:
        """Passes pictures, `{name: uint8 [h,w,3]}`, to the loggers that take them. Arguments as of `write`."""
        for logger in self._loggers:
            if hasattr(logger, "images"):
                logger.images(int(step), kind, images)

    def truncate(self, step: int) -> None:
        """Removes the entries after `step`, where the run resumes."""
        for logger in self._loggers:
            logger.restart(step)
        self._rewrite([entry for entry in read_metrics(self._workdir) if entry["step"] <= step])

    def close(self) -> None:
        """Closes the other loggers."""
        for logger in self._loggers:
            logger.close()

    def _rewrite(self, entries):
        write_text(self._path, "".join(json.dumps(entry) + "\n" for entry in entries))


def read_metrics(workdir) -> list[dict]:
    """The entries of `workdir`'s metrics.jsonl, oldest first; [] if the file does not exist.

    A half-written last line is left out.

    Raises:
        UserError: another line is damaged, or the file cannot be read.
    """
    path = epath.Path(workdir) / "metrics.jsonl"
    try:
        entries, lines = [], read_bytes(path).splitlines()
    except FileNotFoundError:
        return []
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    for number, line in enumerate(lines, 1):
        try:
            entry = parse_json(line)
        except ValueError:
            if number == len(lines):
                break
            entry = None
        if not isinstance(entry, dict) or not _is_entry(**entry):
            raise UserError(f"{path} line {number} is damaged: delete that line")
        entries.append(entry)
    return entries


def _is_entry(step=None, kind=None, **values):
    """Whether a line of metrics.jsonl has the form of `MetricsLog.write`: numbers, and objects of numbers by class or group."""
    numbers = []
    for name, value in values.items():
        if name.endswith(("_iou", "_f1", "_AP")) and name.startswith(("per_class", "group")) and value is not None:
            if not isinstance(value, dict):
                return False
            numbers += value.values()
        else:
            numbers.append(value)
    has_header = type(step) is int and is_number(step, 0) and type(kind) is str
    return has_header and all(number is None or is_number(number) for number in numbers)
