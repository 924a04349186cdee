"""Loggers that receive the numbers and pictures of a run besides metrics.jsonl: `config.train.loggers`.

A logger is constructed with the run's folder, an `epath.Path` that may be remote, and has

    write(step, kind, values)    `kind` is 'train' or 'eval'; `values` are numbers, None, or {name: number or None}
    images(step, kind, images)   {name: uint8 [h,w,3]}, RGB. Optional: without this method, a logger gets no pictures
    restart(step)                the run resumes at `step`: discard what was written for later steps
    close()                      the run ends, or pauses

Only one process of a run has loggers. An error in the constructor ends the run before its first step.
"""

import contextlib
import functools
import importlib.util
import io
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image
from tensorboardX import record_writer
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tqdm import tqdm

from ctxseg.choices import find
from ctxseg.errors import UserError, one_line
from ctxseg.files import is_remote, make_folder, storage_errors, write_json
from ctxseg.runs import record

# Cloud storage that tensorboardX can write to: scheme → (required package, whether it is installed).
REMOTE = {"gs": ("google-cloud-storage", record_writer.GCS_ENABLED), "s3": ("boto3", record_writer.S3_ENABLED)}
# The project of Weights & Biases, and the experiment of MLflow.
PROJECT = "ctxseg"
# In the folder of a run: {"wandb": id, "mlflow": {tracking URI, or "mlruns": id}}, by which a resumed run continues there.
IDS = "loggers.json"
# Seconds in which W&B uploads the rest when a run ends.
UPLOAD = 300.0
# MLflow takes at most so many parameters and metrics at a time, and so many characters of a value.
PARAMETERS, METRICS, CHARACTERS = 100, 1000, 500
METHODS = ("write", "restart", "close")


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
        self._add(step, (Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(kind, values)))

    def images(self, step: int, kind: str, images: Mapping[str, np.ndarray]) -> None:
        """Writes an event with the images, `{name: uint8 [h,w,3]}`, as PNG."""
        values = []
        for name, image in images.items():
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG")
            height, width = image.shape[:2]
            encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png.getvalue())
            values.append(Summary.Value(tag=f"{kind}/{name}", image=encoded))
        self._add(step, values)

    def restart(self, step: int) -> None:
        """Makes TensorBoard hide the older events after `step`."""
        self.close()
        self._restart = step + 1

    def close(self) -> None:
        """Closes the event file; a later write opens another."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _add(self, step, values):
        if not self._enabled:
            return
        with storage_errors(self._folder, "written"):
            if self._events is None:
                self._events = self._open()
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
            self._events.flush()

    def _open(self):
        # tensorboardX's SummaryWriter writes from a thread, and loses queued events if it is not closed.
        make_folder(self._folder)
        # File names have the time in seconds; the suffix tells apart two files of the same second.
        events = EventsWriter(str(self._folder / "events"), filename_suffix=f".{time.time_ns()}")
        if self._restart is not None:
            start = SessionLog(status=SessionLog.START)
            events.write_event(Event(wall_time=time.time(), step=self._restart, session_log=start))
        return events


# What WandB and MLflow have in common. The run ends with one line if one of them cannot start. A failure later prints a note, and nothing
# more is logged there. Neither can remove values: of a resumed run, those after the step of its checkpoint are there twice.


@contextlib.contextmanager
def _starting(logger):
    """UserError: the program cannot be reached, or refuses the run."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:  # these packages raise many types
        raise UserError(
            f"config.train.loggers has {logger.PACKAGE}, but {logger.TITLE} cannot be used: {_reason(e)}; {logger.REMEDY}, or leave "
            f"{logger.PACKAGE} out"
        ) from e


def _or_note(method: Callable) -> Callable:
    """A method of a logger that prints a note if it fails. It does nothing once one has failed, or the logger is closed."""

    @functools.wraps(method)
    def call(self, *arguments):
        if not self._works:
            return
        try:
            method(self, *arguments)
        except Exception as e:
            self._works = False
            _note(f"note: {self.TITLE} failed, and gets no more values: {_reason(e)}; metrics.jsonl has the numbers")

    return call


class WandB:
    """A run of Weights & Biases, in the project `ctxseg` or WANDB_PROJECT. WANDB_MODE=offline needs no account and no network.

    W&B ignores values for a lower step than its last one. The steps are therefore values of their own, over which all others are drawn.
    """

    TITLE = "Weights & Biases"
    PACKAGE = "wandb"
    REMEDY = "log in with `wandb login`, or set WANDB_MODE=offline"

    def __init__(self, workdir: epath.PathLike):
        """UserError: see `_starting`."""
        self._works = True
        with _starting(self):
            self._start(epath.Path(workdir))

    def _start(self, workdir):
        import wandb  # here, as it is optional

        ids = record.read_object(workdir / IDS)
        run_id = ids.get("wandb") or secrets.token_hex(4)
        write_json(workdir / IDS, ids | {"wandb": run_id})
        offline = wandb.setup().settings.mode in ("offline", "dryrun")  # it resumes nothing, and says so
        if is_remote(workdir):
            _note(f"note: the files of {self.TITLE} are not in {workdir}, but in WANDB_DIR or the working directory")
        settings = wandb.Settings(
            console="off", silent=True, finish_timeout=UPLOAD, finish_timeout_raises=True, show_errors=True
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=None if is_remote(workdir) else os.path.abspath(workdir),
            id=run_id,
            name=_title(workdir),
            config=_fields(workdir),
            resume=None if offline else "allow",
            reinit="create_new",
            settings=settings,
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        if not self._run.offline:
            _note(f"{self.TITLE}: {self._run.url}")

    @_or_note
    def write(self, step: int, kind: str, values: dict) -> None:
        """Logs the numbers as `kind`/NAME. Values of None are left out."""
        self._run.log({"step": step, **dict(_scalars(kind, values))})

    @_or_note
    def images(self, step: int, kind: str, images: Mapping[str, np.ndarray]) -> None:
        """Logs the images, `{name: uint8 [h,w,3]}`, as `kind`/NAME."""
        import wandb

        # Of arrays, it stretches values that are all 0 or 1.
        pictures = {f"{kind}/{name}": wandb.Image(Image.fromarray(image)) for name, image in images.items()}
        self._run.log({"step": step} | pictures)

    def restart(self, step: int) -> None:
        """Does nothing: W&B cannot remove values."""

    @_or_note
    def close(self) -> None:
        """Ends the run there. It is continued when the run is resumed."""
        self._run.finish()
        self._works = False


class MLflow:
    """A run of MLflow, in the experiment `ctxseg` or MLFLOW_EXPERIMENT_NAME.

    It is at MLFLOW_TRACKING_URI, or without this variable in the folder `mlruns` of the run.
    """

    TITLE = "MLflow"
    PACKAGE = "mlflow"
    REMEDY = "check MLFLOW_TRACKING_URI"

    def __init__(self, workdir: epath.PathLike):
        """UserError: see `_starting`."""
        self._works = True
        with _starting(self):
            self._start(epath.Path(workdir))

    def _start(self, workdir):
        from mlflow import MlflowClient  # here, as it is optional
        from mlflow.entities import Metric, Param

        self._metric = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri and is_remote(workdir):
            self._works = False
            _note(f"note: nothing is logged to {self.TITLE}: in {workdir}, it needs a server: set MLFLOW_TRACKING_URI")
            return
        if not uri:
            # MLflow prefers a database, which needs packages that are several times larger.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        else:
            # By default, it takes minutes to find that a server does not answer.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        self._client = MlflowClient(tracking_uri=uri or os.path.abspath(workdir / "mlruns"))
        ids = record.read_object(workdir / IDS)
        runs, key = ids.get("mlflow", {}), uri or "mlruns"
        if key in runs:
            self._client.update_run(runs[key], status="RUNNING")
        else:
            created = self._client.create_run(self._experiment(), run_name=_title(workdir))
            runs |= {key: created.info.run_id}
            write_json(workdir / IDS, ids | {"mlflow": runs})
        self._id = runs[key]
        run = self._client.get_run(self._id)
        if uri and uri.startswith("http"):
            _note(f"{self.TITLE}: {uri.rstrip('/')}/#/experiments/{run.info.experiment_id}/runs/{self._id}")
        existing = run.data.params  # which MLflow refuses to change
        parameters = [
            Param(name, str(value)[:CHARACTERS]) for name, value in _fields(workdir).items() if name not in existing
        ]
        for part in _parts(parameters, PARAMETERS):
            self._client.log_batch(self._id, params=part)

    def _experiment(self):
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name)
            except Exception:  # another run of a sweep may have created it
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id

    @_or_note
    def write(self, step: int, kind: str, values: dict) -> None:
        """Logs the numbers as `kind`/NAME. Values of None are left out."""
        now = round(1000 * time.time())
        metrics = [self._metric(_mlflow_name(name), value, now, step) for name, value in _scalars(kind, values)]
        for part in _parts(metrics, METRICS):
            self._client.log_batch(self._id, metrics=part)

    @_or_note
    def images(self, step: int, kind: str, images: Mapping[str, np.ndarray]) -> None:
        """Logs the images, `{name: uint8 [h,w,3]}`, as `kind`/NAME."""
        for name, image in images.items():
            self._client.log_image(
                self._id, Image.fromarray(image), key=_mlflow_name(f"{kind}/{name}"), step=step, synchronous=True
            )

    def restart(self, step: int) -> None:
        """Does nothing: MLflow cannot remove values."""

    @_or_note
    def close(self) -> None:
        """Ends the run there. It is continued when the run is resumed."""
        self._client.set_terminated(self._id)
        self._works = False


LOGGERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def find_loggers(names: Iterable[str]) -> list[Any]:
    """The classes of `config.train.loggers`.

    Args:
        names: names in `LOGGERS`, or `package.module:Class`.

    Raises:
        UserError: there is no such class, it lacks a method, or the package that it needs is not installed.
    """
    classes = []
    for name in names:
        cls = find("train.loggers", name, LOGGERS)
        if missing := [method for method in METHODS if not callable(getattr(cls, method, None))]:
            raise UserError(
                f"config.train.loggers has {name}, which has no method {missing[0]}; expected a class with the methods "
                f"{', '.join(METHODS)}, as docs/extending.md describes"
            )
        package = getattr(cls, "PACKAGE", None) if name in LOGGERS else None
        if package and importlib.util.find_spec(package) is None:
            raise UserError(
                f'config.train.loggers has {name}, which is not installed: pip install "ctxseg[{package}]", or leave {name} out'
            )
        classes.append(cls)
    return classes


def _fields(workdir) -> dict:
    """{field: value} of the fields that the run in `workdir` reads; {} if there is no config.json."""
    # Here, as they import every network, and need none of this.
    from ctxseg.runs.workdir import exists, read_config
    from ctxseg.settings import reading

    return reading.effective(read_config(str(workdir))) if exists(str(workdir)) else {}


def _title(workdir) -> str:
    """The last two parts of the path of a run's folder: "runs/zigzag-scenes"."""
    return "/".join(str(workdir if is_remote(workdir) else os.path.abspath(workdir)).split("/")[-2:])


def _mlflow_name(name: str) -> str:
    """`name` with _ in place of the characters that MLflow does not allow."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)


def _parts(items: Sequence, length: int) -> Iterator[Sequence]:
    return (items[i : i + length] for i in range(0, len(items), length))


def _reason(error: Exception) -> str:
    return one_line(error)[:300].rstrip(".") or type(error).__name__


def _note(line: str) -> None:
    """Prints a line on stderr, above a progress bar."""
    tqdm.write(line, file=sys.stderr)


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
