"""Loggers besides metrics.jsonl. Those of W&B and MLflow are tested offline, and read back by the packages themselves."""

import importlib.util
import io
import json
import os
import re
import struct

import numpy as np
import pytest
from PIL import Image

from ctxseg.configs import fcn
from ctxseg.errors import UserError
from ctxseg.runs import loggers, metrics_log, workdir
from tests.runs.test_metrics_log import read_events

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a run."""
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "WANDB_MODE": "offline", "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    run = tmp_path / "runs" / "fcn"
    run.mkdir(parents=True)
    workdir.claim(str(run), fcn.get_config())
    return run


def log_and_resume(folder, name):
    """Logs the steps 1 to 3 of a run, and resumes it after step 2."""
    log = metrics_log.MetricsLog(folder, [name])
    assert log.takes_images
    log.truncate(0)
    for step in (1, 2, 3):
        log.write(step, "train", {"loss": 1 / step, "nothing": None})
    log.close()
    log = metrics_log.MetricsLog(folder, [name])
    log.truncate(2)
    log.images(3, "eval", {"val/0": PICTURE})
    log.write(3, "eval", {"mIoU": 0.5, "per_class_iou": {"Car (small)": 0.25}})
    log.close()


def test_tensorboard_has_the_pictures(folder):
    log_and_resume(folder, "tensorboard")
    ((tag, step, image),) = [
        (value.tag, event.step, value.image)
        for event in read_events(folder)
        for value in event.summary.value
        if value.HasField("image")
    ]
    assert (tag, step, image.height, image.width, image.colorspace) == ("eval/val/0", 3, 4, 6, 3)
    np.testing.assert_array_equal(Image.open(io.BytesIO(image.encoded_image_string)), PICTURE)


def read_wandb(path):
    """The records of a .wandb file, a log in the format of LevelDB: blocks of 32 KiB, and parts with checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = path.read_bytes(), 7, b""  # after a header
    while position + 7 <= len(data):
        if (left := 2**15 - position % 2**15) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def test_a_resumed_run_is_the_same_run_of_wandb(folder):
    wandb = pytest.importorskip("wandb")
    log_and_resume(folder, "wandb")
    wandb.teardown()  # waits for its service: in the process of a run with the same id, finishing does not wait for the second one
    run_id = json.loads((folder / "loggers.json").read_text())["wandb"]
    files = sorted(folder.glob(f"wandb/offline-run-*/run-{run_id}.wandb"), key=os.path.getmtime)
    rows, runs, axes = [], [], set()
    assert len(files) == 2
    for path in files:
        for record in read_wandb(path):
            if record.HasField("history"):
                items = record.history.item
                rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
            if record.HasField("run"):
                runs.append(record.run)
            if record.HasField("metric"):
                axes.add((record.metric.glob_name or record.metric.name, record.metric.step_metric))
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {(run_id, "ctxseg", "runs/fcn")}
    configs = {u.key: json.loads(u.value_json) for u in runs[0].config.update}
    assert configs["model.context.name"] == "none" and configs["train.loggers"] == ["tensorboard"]
    assert ("*", "step") in axes
    assert [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row] == [(1, 1), (2, 0.5), (3, 1 / 3)]
    ((step, miou, car),) = [(r["step"], r["eval/mIoU"], r["eval/iou/Car (small)"]) for r in rows if "eval/mIoU" in r]
    assert (step, miou, car) == (3, 0.5, 0.25)
    (image,) = folder.glob("wandb/offline-run-*/files/media/images/**/*.png")
    np.testing.assert_array_equal(Image.open(image), PICTURE)


def test_a_resumed_run_is_the_same_run_of_mlflow(folder, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    log_and_resume(folder, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=str(folder / "mlruns"))
    experiment = client.get_experiment_by_name("ctxseg")
    (run,) = client.search_runs([experiment.experiment_id])
    assert json.loads((folder / "loggers.json").read_text()) == {"mlflow": {"mlruns": run.info.run_id}}
    assert (run.info.run_name, run.info.status) == ("runs/fcn", "FINISHED")
    assert run.data.params["model.context.name"] == "none"
    losses = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert losses == [(1, 1), (2, 0.5), (3, 1 / 3)]
    assert run.data.metrics["eval/mIoU"] == 0.5 and run.data.metrics["eval/iou/Car _small_"] == 0.25
    (path,) = (a.path for a in client.list_artifacts(run.info.run_id, "images") if a.path.endswith(".png"))
    picture = client.download_artifacts(run.info.run_id, path, str(tmp_path))
    np.testing.assert_array_equal(Image.open(picture), PICTURE)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=rf'config.train.loggers has {name}.*pip install "ctxseg\[{name}\]"'):
        loggers.find_loggers([name])


class Numbers:
    """A logger without pictures."""

    def __init__(self, folder):
        self.written = []

    def write(self, *arguments):
        self.written.append(arguments)

    def restart(self, step):
        pass

    def close(self):
        pass


class Incomplete:
    def write(self, *_):
        pass


def test_a_logger_needs_no_images(tmp_path):
    log = metrics_log.MetricsLog(tmp_path, [f"{__name__}:Numbers"])
    assert not log.takes_images
    log.images(1, "eval", {"a": PICTURE})
    log.write(1, "train", {"loss": 2.0})
    assert log._loggers[0].written == [(1, "train", {"loss": 2.0})]


def test_a_missing_method_is_named():
    with pytest.raises(UserError, match="config.train.loggers has .*:Incomplete, .* no method restart; .*extending.md"):
        loggers.find_loggers([f"{__name__}:Incomplete"])


SERVICES = pytest.mark.parametrize("cls", [loggers.WandB, loggers.MLflow])


class Failing:
    """Any object of a service: every call of it is counted, and fails."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*_, **__):
            self.calls.append(name)
            raise OSError("no\nnetwork")

        return call


@SERVICES
def test_a_service_that_cannot_start_is_one_line(cls, tmp_path, monkeypatch):
    def start(self, folder):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(cls, "_start", start)
    message = f"^config.train.loggers has {cls.PACKAGE}, but {cls.TITLE} .*no network; {re.escape(cls.REMEDY)}, or "
    with pytest.raises(UserError, match=message):
        cls(tmp_path)


@SERVICES
def test_a_service_that_fails_later_does_not_end_the_run(cls, tmp_path, monkeypatch, capsys):
    service = Failing()

    def start(self, folder):
        self._run = self._client = service
        self._id, self._metric = "id", lambda *_: None

    monkeypatch.setattr(cls, "_start", start)
    log = cls(tmp_path)
    for step in (1, 2):
        log.write(step, "train", {"loss": 1.0})
    log.images(2, "eval", {})
    log.close()
    assert len(service.calls) == 1
    assert capsys.readouterr().err == (
        f"note: {cls.TITLE} failed, and gets no more values: no network; metrics.jsonl has the numbers\n"
    )


def test_remote_folders(capsys):
    """MLflow needs a server there."""
    pytest.importorskip("mlflow")
    log = loggers.LOGGERS["mlflow"]("gs://bucket/run")
    log.write(1, "train", {"loss": 1.0})
    log.close()
    assert "nothing is logged to MLflow: in gs://bucket/run, it needs a server" in capsys.readouterr().err
