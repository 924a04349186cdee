"""What a run writes down as it goes: metrics.jsonl and TensorBoard events."""

import json
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from ctxseg.errors import UserError
from ctxseg.files import is_number, parse_json, plain, write_text


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
        step, values = int(step), plain(values)
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


def _scalars(tag, value):
    """('eval', {'mIoU': 0.5, 'per_class_iou': {'Car': 0.7}}) → ('eval/mIoU', 0.5), ('eval/iou/Car', 0.7)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _scalars(f"{tag}/{'iou' if name == 'per_class_iou' else name}", inner)
    elif isinstance(value, (int, float)):
        yield tag, value
