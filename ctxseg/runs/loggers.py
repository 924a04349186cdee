"""Where the numbers of a run go beside metrics.jsonl: `config.train.loggers`.

A logger is made with the run's folder, and has

    write(step, kind, values)   `kind` is 'train' or 'eval'; `values` are numbers, None, or {name: number or None}
    restart(step)               what it was given after `step` is void: the run resumes there
    close()                     the run ends, or pauses; a later `write` goes on
"""

import time
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class TensorBoard:
    """Events in `tensorboard/`; each outlives the process from `write` on."""

    def __init__(self, workdir: Path):
        self._folder = Path(workdir) / "tensorboard"
        self._events: EventsWriter | None = None  # opened at the first write, so that restart() can come before
        self._restart: int | None = None  # the step from which older events are void

    def write(self, step: int, kind: str, values: dict) -> None:
        """One event. `kind` is the first part of the tags; what is None gets none."""
        if self._events is None:
            self._events = self._open()
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(kind, values)]
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
        self._folder.mkdir(exist_ok=True)
        # The name has the time in seconds: the suffix keeps two files of one second apart.
        events = EventsWriter(str(self._folder / "events"), filename_suffix=f".{time.time_ns()}")
        if self._restart is not None:
            start = SessionLog(status=SessionLog.START)
            events.write_event(Event(wall_time=time.time(), step=self._restart, session_log=start))
        return events


def _scalars(tag: str, value) -> Iterator[tuple[str, float]]:
    """('eval', {'mIoU': 0.5, 'per_class_iou': {'Car': 0.7}}) → ('eval/mIoU', 0.5), ('eval/iou/Car', 0.7)."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _scalars(f"{tag}/{'iou' if name == 'per_class_iou' else name}", inner)
    elif isinstance(value, (int, float)):
        yield tag, value


LOGGERS = {"tensorboard": TensorBoard}
