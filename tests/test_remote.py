"""Runs and data in cloud storage: an fsspec file system in memory, which is registered for gs://."""

import fsspec
import numpy as np
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

import ctxseg
from ctxseg import data, files
from ctxseg.configs import fcn
from ctxseg.data import superpixels
from ctxseg.errors import UserError
from ctxseg.runs import checkpoints, metrics_log, provenance, record, workdir
from ctxseg.runs.loggers import LOGGERS
from ctxseg.studies import sweep
from ctxseg.views import report
from tests.commands.test_main import call
from tests.studies.test_sweep import THREE, resolve
from tests.views.test_report import RESULTS

RUN = "gs://bucket/runs/a"
DATASET = {"name": "scenes", "folder": None, "fingerprint": "abc", "groups": {}}
DATASET |= {"class_names": RESULTS["class_names"], "palette": RESULTS["palette"]}


class Storage(MemoryFileSystem):
    """Like Google's storage: one bucket, no folders, and a file that is opened to append is overwritten."""

    protocol = ("gcs", "gs")
    store = {}
    pseudo_dirs = [""]
    fault = None  # an exception that opening a file raises

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://"))

    def _open(self, path, mode="rb", **kwargs):
        if self.fault:
            raise self.fault
        if mode != "rb" and not path.startswith("/bucket/"):
            raise FileNotFoundError(path)
        return super()._open(path, mode.replace("a", "w"), **kwargs)

    def _no_folders(self, *_, **__):
        raise AssertionError("cloud storage has no folders")

    mkdir = makedirs = mv = rename = _no_folders


@pytest.fixture(autouse=True)
def bucket():
    fsspec.register_implementation("gcs", Storage, clobber=True)
    Storage.store.clear()
    return epath.Path("gs://bucket")


@pytest.fixture
def run(bucket):
    """A run that was trained and evaluated."""
    workdir.check(RUN, fcn.get_config())
    workdir.claim(RUN, fcn.get_config(), DATASET)
    log = metrics_log.MetricsLog(RUN)
    for step in (10, 20):
        log.write(step, "train", {"loss": 1 / step, "learning_rate": 0.1, "images_per_second": 5.0})
    sample = ("a", np.full((4, 6, 3), 7, np.uint8), np.zeros((4, 6), np.uint8), np.ones((4, 6), np.int32))
    counts = np.arange(24, dtype=np.int32).reshape(2, 4, 3)
    record.write(RUN, RESULTS | {"dataset": DATASET}, [sample], ["b", "a"], counts)
    return epath.Path(RUN)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_files_of_a_run_are_read_back(run):
    assert names(run) == ["config.json", "images.npz", "metrics.jsonl", "results.json", "samples.npz"]
    assert workdir.read_config(RUN) == fcn.get_config()
    assert workdir.read_dataset(RUN) == DATASET and provenance.metadata(fcn.get_config(), RUN) == DATASET
    assert record.read(RUN)["mIoU"] == RESULTS["mIoU"]
    ((name, (image, label, prediction)),) = record.read_samples(RUN).items()
    assert (name, image.max(), label.max(), prediction.min()) == ("a", 7, 0, 1)
    images, counts = record.read_image_counts(RUN)
    assert images == ["a", "b"] and counts[1].tolist() == np.arange(12).reshape(4, 3).tolist()
    assert [entry["loss"] for entry in metrics_log.read_metrics(RUN)] == [0.1, 0.05]


def test_a_folder_without_a_run(bucket):
    with pytest.raises(UserError, match="gs://bucket/none/config.json is missing.*--workdir"):
        workdir.read_config("gs://bucket/none")
    assert workdir.read_dataset("gs://bucket/none") is None
    assert record.read("gs://bucket/none") == record.read_samples("gs://bucket/none") == {}
    assert record.read_image_counts("gs://bucket/none") is None and metrics_log.read_metrics("gs://bucket/none") == []
    with pytest.raises(UserError, match="gs://bucket/none/checkpoints .*no checkpoint.*train"):
        checkpoints.restore_run(fcn.get_config(), "gs://bucket/none")
    with pytest.raises(UserError, match="gs://bucket/none/config.json is missing"):
        ctxseg.load("gs://bucket/none/checkpoints/3")
    (bucket / "export.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"gs://bucket/export\.zip .*run .*export"):
        ctxseg.load("gs://bucket/export.zip")


def test_another_config_and_damaged_files_are_reported(run):
    config = fcn.get_config()
    config.seed = 3
    with pytest.raises(UserError, match=rf"^{RUN} .*config\.seed is 3 .* 0 .*--workdir"):
        workdir.check(RUN, config)
    (run / "results.json").write_text("{")
    (run / "samples.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=f"^{RUN}/results.json is damaged"):
        record.read(RUN)
    with pytest.raises(UserError, match=f"^{RUN}/samples.npz is damaged"):
        record.read_samples(RUN)


def test_a_log_is_truncated_and_continued(run):
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + '{"step": 30, "ki')
    log = metrics_log.MetricsLog(RUN)
    log.truncate(10)
    log.write(20, "train", {"loss": 0.5})
    assert [(e["step"], e["loss"]) for e in metrics_log.read_metrics(RUN)] == [(10, 0.1), (20, 0.5)]


@pytest.mark.parametrize(
    "scheme, why", [("gs", "this needs google-cloud-storage"), ("az", "tensorboardX cannot write")]
)
def test_tensorboard_events_that_cannot_be_written_are_skipped(scheme, why, monkeypatch, capsys):
    monkeypatch.setattr("ctxseg.runs.loggers.REMOTE", {"gs": ("google-cloud-storage", False)})
    log = LOGGERS["tensorboard"](epath.Path(f"{scheme}://bucket/run"))
    log.restart(3)
    log.write(4, "train", {"loss": 0.5})
    log.close()
    assert f"no TensorBoard events in {scheme}://bucket/run/tensorboard: {why}" in capsys.readouterr().err


def test_reports(run, bucket):
    assert call("--mode=report", f"--workdir={RUN}") == f"{RUN}/report.html\n"
    assert "0.6123" in (run / "report.html").read_text()
    for path in run.iterdir():
        (bucket / "runs" / "b" / path.name).write_bytes(path.read_bytes())
    path = report.write_report([RUN, "gs://bucket/runs/b"])
    assert str(path) == "gs://bucket/runs/comparison.html" and "a · b" in path.read_text()


def test_nothing_is_locked(bucket):
    with workdir.hold(RUN, create=True), workdir.hold(RUN, create=True):
        pass
    assert not bucket.exists()


def test_writing_appending_and_moving_files(run, tmp_path):
    files.write_text(run / "a", "one")
    files.write_text(run / "a", "two")
    files.append_text(run / "a", " three")
    assert (run / "a").read_text() == "two three"
    (tmp_path / "b").write_text("moved")
    files.move(tmp_path / "b", run / "a")
    assert (run / "a").read_text() == "moved" and not (tmp_path / "b").exists()
    assert "gs:" not in names(epath.Path("."))


@pytest.mark.parametrize("fault", [RuntimeError("no\nanswer"), PermissionError("not yours")])
def test_storage_errors_are_reported_in_one_line(run, fault, monkeypatch):
    monkeypatch.setattr(Storage, "fault", fault)
    for done, use in (
        ("read", lambda: record.read(RUN)),
        ("read", lambda: record.read_samples(RUN)),
        ("read", lambda: metrics_log.read_metrics(RUN)),
        ("written", lambda: workdir.claim(RUN, fcn.get_config())),
        ("written", lambda: files.write_bytes(run / "a", b"")),
    ):
        with pytest.raises(UserError, match=f"^{RUN}/[a-z.]+ cannot be {done}: (no answer|not yours)$"):
            use()


def test_a_missing_bucket_is_reported():
    with pytest.raises(UserError, match=r"^gs://buckt/run/config\.json cannot be written: .*bucket"):
        workdir.claim("gs://buckt/run", fcn.get_config())


@pytest.mark.parametrize(
    "folder, message",
    [
        (
            "foo://bucket/run",
            "foo://bucket/run has an unknown scheme: expected a local path, or gs://, s3://, az:// or hf://",
        ),
        ("az://bucket/run", "az://bucket/run cannot be reached: .*adlfs"),  # its package is not installed
    ],
)
def test_storage_that_cannot_be_reached(folder, message):
    for arguments in (
        ("--config=fcn", f"--workdir={folder}"),
        ("--mode=evaluate", f"--workdir={folder}"),
        ("--config=fcn", "--mode=export", f"--output={folder}"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            call(*arguments)


def test_a_sweep_needs_a_local_folder():
    with pytest.raises(UserError, match="^--workdir=gs://bucket/t: .*local folder.*"):
        sweep.sweep(THREE, "gs://bucket/t", [], resolve, [])


def test_prepared_data_are_read_from_a_bucket(bucket, street, tmp_path):
    built = data.load("camvid", tmp_path, street)
    remote = bucket / "prepared"
    with pytest.raises(UserError, match="^config.data.data_dir=gs://bucket/prepared .*camvid.* copy"):
        data.load("camvid", remote)
    with pytest.raises(UserError, match="^config.data.data_dir=gs://bucket/prepared .*camvid"):
        data.load("camvid", remote, street)
    assert not bucket.exists(), "nothing is written"
    for path in tmp_path.glob("**/1.0.0/*"):
        (remote / path.relative_to(tmp_path)).write_bytes(path.read_bytes())
    for folder in (None, street):
        builder = data.load("camvid", str(remote), folder)
        assert builder.data_dir == str(remote / epath.Path(built.data_dir).relative_to(tmp_path))
        assert provenance.describe(builder) == provenance.describe(built)
        assert builder.info.splits["train"].num_examples == 6
    with pytest.raises(UserError, match="superpixels-9-slic-.* val.* copy"):
        superpixels.source(builder, "val", [None] * 3, superpixels.View(9))
    next(path for path in epath.Path(builder.data_dir).iterdir() if "train" in path.name).unlink()
    with pytest.raises(UserError, match="config.data.data_dir: gs://bucket/prepared/.* delete"):
        data.load("camvid", remote)


def test_data_that_cannot_be_read(street):
    with pytest.raises(UserError, match="^config.data.data_dir=s3://b/p: expected a folder .* or gs://"):
        data.load("camvid", "s3://b/p", street)
    with pytest.raises(UserError, match="^config.data.manual_dir=gs://bucket/x: expected a folder .*this machine$"):
        data.load("camvid", "gs://bucket/prepared", "gs://bucket/x")
