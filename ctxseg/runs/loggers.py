"""Where the numbers of a run go beside metrics.jsonl: `config.train.loggers`.

A logger is made with the run's folder, an `epath.Path`, which may be remote, and has

    write(step, kind, values)   `kind` is 'train' or 'eval'; `values` are numbers, None, or {name: number or None}
    restart(step)               what it was given after `step` is void: the run resumes there
    close()                     the run ends, or pauses; a later `write` goes on
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

# The cloud storage that tensorboardX writes to, each by a package of its own.
REMOTE = {"gs": ("google-cloud-storage", record_writer.GCS_ENABLED), "s3": ("boto3", record_writer.S3_ENABLED)}


class TensorBoard:
    """Events in `tensorboard/`; each outlives the process from `write` on. None in cloud storage that tensorboardX cannot write to."""

    def __init__(self, workdir: epath.PathLike):
        self._folder = epath.Path(workdir) / "tensorboard"
        self._on = not is_remote(workdir) or _writes_to(self._folder)
        self._events: EventsWriter | None = None  # opened at the first write, so that restart() can come before
        self._restart: int | None = None  # the step from which older events are void

    def write(self, step: int, kind: str, values: dict) -> None:
        """One event. `kind` is the first part of the tags; what is None gets none."""
        if not self._on:
            return
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(kind, values)]
        with storage_errors(self._folder, "written"):
            if self._events is None:
                self._events = self._open()
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))
            self._events.flush()

    def restart(self, step: int) -> None:
        """TensorBoard hides its older events after `step`."""
        self.close()
        self._restart = step + 1

    def close(self) -> None:
        """Closes the event file; a later write opens another."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _open(self):
        # Not tensorboardX's SummaryWriter: it writes from a thread, and what is queued is lost if nobody closes it.
        make_folder(self._folder)
        # The name has the time in seconds: the suffix keeps two files of one second apart.
        events = EventsWriter(str(self._folder / "events"), filename_suffix=f".{time.time_ns()}")
        if self._restart is not None:
            start = SessionLog(status=SessionLog.START)
            events.write_event(Event(wall_time=time.time(), step=self._restart, session_log=start))
        return events


def _writes_to(folder):
    """Whether tensorboardX can write to this cloud storage; if not, says so."""
    package, installed = REMOTE.get(str(folder).partition("://")[0], (None, False))
    if not installed:
        why = f"that needs {package}" if package else "tensorboardX cannot write there"
        print(
            f"note: no TensorBoard events in {folder}: {why}; metrics.jsonl has the numbers",
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
