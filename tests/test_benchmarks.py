"""The parts of the benchmarks that can be tested without running them for an hour."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from ctxseg import interrupts
from ctxseg.errors import UserError

ROOT = Path(__file__).parents[1]


def test_the_table_of_systems_has_finished_runs_of_the_same_config(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    systems = runpy.run_path(str(ROOT / "benchmarks" / "systems.py"))
    overrides = ["--config.train.steps=4"]
    run = systems["plan"](["fcn"], "scenes", 1, tmp_path, overrides)["fcn", 0]
    folder = tmp_path / "fcn-scenes-0"
    assert Path(run.folder) == folder and run.config.train.steps == 4
    metrics = [{"kind": "train", "step": step, "images_per_second": speed} for step, speed in ((2, 10.0), (4, 16.0))]
    folder.mkdir()
    (folder / "config.json").write_text(run.config.to_json())
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    (folder / "results.json").write_text(json.dumps({"mIoU": 0.5, "step": 4, "split": run.config.eval.split}))
    results = systems["read"](run)
    assert results["mIoU"] == 0.5 and results["step_seconds"] == run.config.train.batch_size / 16
    with pytest.raises(UserError, match="learning_rate"):
        systems["plan"](["fcn"], "scenes", 1, tmp_path, [*overrides, "--config.optimizer.learning_rate=0.5"])


INTERRUPTED = interrupts.LINE


@pytest.mark.parametrize(
    "status, stderr, message",
    [
        (2, f"train: starting\n{INTERRUPTED}\n", None),
        (2, "error: interrupted at step 3\n", None),
        (0, "train  2/2  loss 2.7\n", None),
        (None, "train: starting\n", "did not end"),
        (-11, "train: starting\n", "status -11: train: starting"),
        (1, "", "status 1: nothing on stderr"),
        (2, f"Traceback (most recent call last):\n{INTERRUPTED}\n", "but Traceback"),
        (2, f"terminate called without an active exception\n{INTERRUPTED}\n", "but terminate called"),
        (2, f"{INTERRUPTED}\n{INTERRUPTED}\n", "the errors are"),
        (2, f"{INTERRUPTED}\ntrain  2/2\n", "the last line is train  2/2"),
        (2, "error: runs/a/checkpoints/3 cannot be read\n", "the errors are"),
        (2, "", "the last line is none"),
        (0, f"{INTERRUPTED}\n", "status 0, but error: interrupted"),
    ],
)
def test_faults_in_the_end_of_a_stopped_process(status, stderr, message):
    fault = runpy.run_path(str(ROOT / "benchmarks" / "stops.py"))["fault"](status, stderr)
    assert fault is None if message is None else message in fault


def test_damaged_files_and_running_processes_are_found(tmp_path):
    stops = runpy.run_path(str(ROOT / "benchmarks" / "stops.py"))
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / ".results.json.1.2.tmp").write_text("{")  # a temporary file
    (tmp_path / "a").mkdir()
    assert not stops["unreadable"](tmp_path)
    for name in ("results.json", "a/0.png", "a/0.jpg", "images.npz", "report.html"):
        (tmp_path / name).write_text("{")
        assert [name in line for line in stops["unreadable"](tmp_path)] == [True]
        (tmp_path / name).unlink()

    child = [sys.executable, "-c", "input()", "main.py", f"--workdir={tmp_path}/a"]
    with subprocess.Popen(child, stdin=subprocess.PIPE) as process:
        running = stops["running_processes"]
        assert list(running(tmp_path)) == [process.pid] and not running(tmp_path / "b")
        process.kill()
    assert not running(tmp_path)
