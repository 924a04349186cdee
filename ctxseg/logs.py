"""What a run writes down as it goes: metrics.jsonl, TensorBoard events, JSON files, and its progress on stderr."""

import io
import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from ctxseg.errors import UserError


class MetricsLog:
    """metrics.jsonl and the TensorBoard events of a run. One process of a run has one; others may read at any time."""

    def __init__(self, workdir):
        """Opens the log of `workdir`, which is made if it is not there; a last line cut short by a crash is dropped."""
        self._workdir = Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._path = self._workdir / "metrics.jsonl"
        self._events = None  # opened at the first write, so that truncate() can come before
        self._restart = None  # the step from which older events are void
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            self._rewrite(read_metrics(workdir))

    def write(self, step: int, kind: str, values: dict) -> None:
        """Appends one line to metrics.jsonl and one event to TensorBoard's file; both outlive the process from here on.

        Args:
            step: optimiser updates done.
            kind: 'train' or 'eval'; the first part of the TensorBoard tags.
            values: numbers (Python's, NumPy's or JAX's), or {name: number} as `per_class_iou`. NaN and infinity become
                null, which JSON has; TensorBoard gets neither.
        """
        step, values = int(step), _plain(values)
        try:
            with open(self._path, "a") as f:
                f.write(json.dumps({"step": step, "kind": kind} | values, allow_nan=False) + "\n")
        except OSError as e:
            e.filename = str(self._path)  # which a full disk does not say
            raise
        if self._events is None:
            self._events = self._open_events()
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(kind, values)]
        self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
        self._events.flush()

    def truncate(self, step: int) -> None:
        """Forgets what came after `step`, at which the run resumes; TensorBoard hides its older events after it."""
        self.close()
        self._restart = step + 1
        self._rewrite([entry for entry in read_metrics(self._workdir) if entry["step"] <= step])

    def close(self) -> None:
        """Closes the event file; a later write opens another."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _open_events(self):
        # Not tensorboardX's SummaryWriter: it writes from a thread, and what is queued is lost if nobody closes it.
        folder = self._workdir / "tensorboard"
        folder.mkdir(exist_ok=True)
        # The name has the time in seconds: the suffix keeps two files of one second apart.
        events = EventsWriter(str(folder / "events"), filename_suffix=f".{time.time_ns()}")
        if self._restart is not None:
            start = SessionLog(status=SessionLog.START)
            events.write_event(Event(wall_time=time.time(), step=self._restart, session_log=start))
        return events

    def _rewrite(self, entries):
        write_text(self._path, "".join(json.dumps(entry) + "\n" for entry in entries))


def read_metrics(workdir) -> list[dict]:
    """The lines of `workdir`'s metrics.jsonl, oldest first; none if there is no such file.

    A half-written last line is left out.

    Raises:
        UserError: another line is damaged, or the file cannot be read.
    """
    path = Path(workdir) / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        entries, lines = [], path.read_bytes().splitlines()
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
    """Whether a line of metrics.jsonl is what `MetricsLog.write` writes: numbers, and of classes or groups objects of numbers."""
    numbers = []
    for name, value in values.items():
        if name.endswith("_iou") and value is not None:
            if not isinstance(value, dict):
                return False
            numbers += value.values()
        else:
            numbers.append(value)
    whole = type(step) is int and is_number(step, 0) and type(kind) is str
    return whole and all(number is None or is_number(number) for number in numbers)


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
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


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


def _plain(value):
    """`value` as JSON has it: array scalars as numbers, NaN and infinity as None, tuples as lists."""
    if hasattr(value, "items"):
        return {str(k): _plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scalars(tag, value):
    """('eval', {'mIoU': 0.5, 'per_class_iou': {'Car': 0.7}}) → ('eval/mIoU', 0.5), ('eval/iou/Car', 0.7)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _scalars(f"{tag}/{'iou' if name == 'per_class_iou' else name}", inner)
    elif isinstance(value, (int, float)):
        yield tag, value


class Progress:
    """How far a long loop is, on stderr: a bar on a terminal; elsewhere a plain line, at most one in ten seconds.

    train  120/400  loss 1.234  12.3 img/s  1:10 left

    A context manager. The time until the first report, which holds the compilation, counts no longer after it: what is left is said
    from the second on.
    """

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, total: int, start: int = 0, label: str = "", compiles: bool = False):
        """`total` steps, or images, of which `start` are done; `label` says of what. `compiles`: the first begins with a compilation."""
        self._total, self._step, self._label, self._compiles = total, start, label, compiles
        self._values = {}

    def __enter__(self):
        self._began = self._line_time = time.monotonic()
        self._clock = (self._began, self._step)  # what rates are measured from
        self._reports, self._text = 0, ""
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=self._label,
                total=self._total,
                initial=self._step,
                leave=None,
                dynamic_ncols=True,
                bar_format="{desc}  {n_fmt}/{total_fmt} |{bar}| {postfix[0]}",
                postfix=["compiling" if self._compiles else ""],
            )
        elif self._compiles and self._step < self._total:
            self._print("compiling")
        return self

    def update(self, step: int, values: dict | None = None) -> None:
        """`step` steps are done. Of `values`, `loss` and `images_per_second` are shown, until others replace them."""
        self._step = step
        self._values |= values or {}
        now = time.monotonic()
        rate = (step - self._clock[1]) / max(now - self._clock[0], 1e-9)
        left = f"{duration((self._total - step) / rate)} left" if rate > 0 and self._reports else ""
        self._show(rate, left, now)
        self._reports += 1
        if self._reports == 1:
            self._clock = (now, step)

    def __exit__(self, kind, *_):
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._reports:
            self._print(f"{self._text}  {duration(time.monotonic() - self._began)} in all")

    def _show(self, rate, left, now):
        parts = [f"loss {self._values['loss']:.4g}"] if self._values.get("loss") is not None else []
        images = self._values.get("images_per_second")
        self._text = "  ".join([*parts, f"{images:.1f} img/s" if images is not None else f"{rate:.1f}/s"])
        text = f"{self._text}  {left}".rstrip()
        if self._bar is not None:
            self._bar.postfix[0] = text
            self._bar.update(self._step - self._bar.n)
        elif self._reports == 0 or now - self._line_time >= self.SECONDS_BETWEEN_LINES:
            self._line_time = now
            self._print(text)

    def _print(self, text):
        print(f"{self._label}  {self._step}/{self._total}  {text}", file=sys.stderr, flush=True)


def progress(items: Iterable, total: int, label: str) -> Iterator:
    """Yields `items`, saying on stderr how far it is."""
    with Progress(total, 0, label) as shown:
        for done, item in enumerate(items, 1):
            yield item
            shown.update(done)


def duration(seconds: float) -> str:
    """70 → '1:10', 3725 → '1:02:05'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
