"""What of the benchmarks can break without being run for an hour."""

import json
import runpy
from pathlib import Path

import pytest

from ctxseg.errors import UserError

ROOT = Path(__file__).parents[1]


def test_the_table_of_systems_is_of_finished_runs_of_the_same_config(tmp_path, monkeypatch):
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
    found = systems["read"](run)
    assert found["mIoU"] == 0.5 and found["step_seconds"] == run.config.train.batch_size / 16
    with pytest.raises(UserError, match="learning_rate"):
        systems["plan"](["fcn"], "scenes", 1, tmp_path, [*overrides, "--config.optimizer.learning_rate=0.5"])
