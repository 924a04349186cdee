"""Loggers that receive the numbers of a run besides metrics.jsonl: `config.train.loggers`.

A logger is constructed with the run's folder, an `epath.Path` that may be remote, and has

    write(step, kind, values)   `kind` is 'train' or 'eval'; `values` are numbers, None, or {name: number or None}
    restart(step)               the run resumes at `step`: discard what was written for later steps
    close()                     the run ends, or pauses; a later `write` continues
"""

import sys
import time
from collections.abc import Iterator

from etils import epath
from tensorboardX import record_writer
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from ctxseg.files import is_remote, make_folder, storage_errors

# Cloud storage that tensorboardX can write to: scheme → (required package, whether it is installed).
REMOTE = {"gs": ("google-cloud-storage", record_writer.GCS_ENABLED), "s3": ("boto3", record_writer.S3_ENABLED)}


class TensorBoard:
    """Events in `tensorboard/`, flushed by each `write`. Writes nothing to cloud storage that tensorboardX does not support."""

    def __init__(self, workdir: epath.PathLike):
        self._folder = epath.Path(workdir) / "tensorboard"
        self._enabled = not is_remote(workdir) or _writes_to(self._folder)
        # Opened by the first write, because restart() must come before.
        self._events: EventsWriter | None = None
        # Older events from this step on are discarded.
        self._restart: int | None = None

    def write(self, step: int, kind: str, values: dict) -> None:
        """Writes one event. Tags start with `kind`; values of None are left out."""
        if not self._enabled:
            return
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(kind, values)]
        with storage_errors(self._folder, "written"):
            if self._events is None:
                self._events = self._open()
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
            self._events.flush()

    def restart(self, step: int) -> None:
        """Makes TensorBoard hide the older events after `step`."""
        self.close()
        self._restart = step + 1

    def close(self) -> None:
        """Closes the event file; a later write opens another."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _open(self):
        # tensorboardX's SummaryWriter writes from a thread, and loses queued events if it is not closed.
        make_folder(self._folder)
        # File names have the time in seconds; the suffix tells apart two files of the same second.
        events = EventsWriter(str(self._folder / "events"), filename_suffix=f".{time.time_ns()}")
        if self._restart is not None:
            start = SessionLog(status=SessionLog.START)
            events.write_event(Event(wall_time=time.time(), step=self._restart, session_log=start))
        return events


def _writes_to(folder):
    """Whether tensorboardX can write to this cloud storage; prints a note if not."""
    package, installed = REMOTE.get(str(folder).partition("://")[0], (None, False))
    if not installed:
        reason = f"this needs {package}" if package else "tensorboardX cannot write there"
        print(
            f"note: no TensorBoard events in {folder}: {reason}; metrics.jsonl has the numbers",
            file=sys.stderr,
            flush=True,
        )
    return installed


def _scalars(tag: str, value) -> Iterator[tuple[str, float]]:
    """('eval', {'mIoU': 0.5, 'per_class_iou': {'Car': 0.7}}) → ('eval/mIoU', 0.5), ('eval/iou/Car', 0.7)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _scalars(f"{tag}/{'iou' if name == 'per_class_iou' else name}", inner)
    elif isinstance(value, (int, float)):
        yield tag, value


LOGGERS = {"tensorboard": TensorBoard}
