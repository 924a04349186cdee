"""What of the benchmarks can break without being run for an hour."""

import json
import runpy
from pathlib import Path

import pytest

import main
from ctxseg.errors import UserError

ROOT = Path(__file__).parents[1]


def test_the_table_of_systems_is_of_finished_runs_of_the_same_config(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    run = runpy.run_path(str(ROOT / "benchmarks" / "systems.py"))["run"]
    config = main.parse(["main.py", "--config=configs/fcn.py:scenes", "--config.train.steps=4"]).config
    metrics = [{"kind": "train", "step": step, "images_per_second": speed} for step, speed in ((2, 10.0), (4, 16.0))]
    (tmp_path / "config.json").write_text(config.to_json())
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in metrics))
    (tmp_path / "results.json").write_text(json.dumps({"mIoU": 0.5, "step": 4, "split": config.eval.split}))
    found = run("fcn", "scenes", 0, tmp_path, ["--config.train.steps=4"])
    assert found["mIoU"] == 0.5 and found["step_seconds"] == config.train.batch_size / 16
    with pytest.raises(UserError, match="learning_rate"):
        run("fcn", "scenes", 0, tmp_path, ["--config.train.steps=4", "--config.optimizer.learning_rate=0.5"])
