"""Early stopping. The scores are made up, so that the step at which a run stops is known."""

import json
from pathlib import Path

import pytest

from ctxseg.configs import fcn
from ctxseg.errors import UserError
from ctxseg.evaluation import evaluate
from ctxseg.runs import metrics_log, workdir
from ctxseg.studies import execution
from ctxseg.training import checks, early_stopping
from tests.commands.test_main import call

ROOT = Path(__file__).parents[2]
# mIoU by step.
SCORES = {2: 0.25, 4: 0.5, 6: 0.375, 8: 0.4375, 10: 0.75}


@pytest.mark.parametrize(
    "patience, scores, stops",
    [
        (1, [0.1, 0.2, 0.2], 3),
        (2, [0.1, 0.2, 0.2, 0.3, 0.1, 0.3], 6),
        (2, [0.1, 0.0, 0.2, 0.1], None),
        (2, [0.0, 0.0, 0.0], 3),
        (0, [0.2, 0.1, 0.1, 0.1], None),
    ],
)
def test_the_evaluations_without_a_better_score_are_counted(patience, scores, stops):
    early = early_stopping.EarlyStopping(patience)
    stopped = []
    for i, score in enumerate(scores, 1):
        early.add(i, score)
        stopped += [i] * early.stops
    assert stopped == ([] if stops is None else [stops])
    assert early.best[1] == max(scores) and early.best[0] == scores.index(max(scores)) + 1


def test_scores_are_read_up_to_a_step(tmp_path):
    config = fcn.get_config()
    config.train.update({"patience": 1, "eval_every": 1, "best": "mean F1"})
    log = metrics_log.MetricsLog(tmp_path)
    for step, score in ((1, 0.5), (2, 0.75), (3, None)):
        log.write(step, "train", {"loss": 1.0})
        log.write(step, "eval", {"mIoU": 0.0, "mean_F1": score})
    found = [early_stopping.of_run(config, str(tmp_path), step) for step in (0, 1, 2, 3)]
    assert [early.best for early in found] == [None, (1, 0.5), (2, 0.75), (2, 0.75)]
    assert [early.stops for early in found] == [False, False, False, True]


def test_patience_needs_evaluations():
    config = fcn.get_config()
    config.train.patience = 2
    with pytest.raises(UserError, match="config.train.patience is 2, .*config.train.eval_every is none"):
        checks.check_fields(config)


def evaluations(folder):
    return [(e["step"], e["mIoU"]) for e in metrics_log.read_metrics(folder) if e["kind"] == "eval"]


def test_a_resumed_run_stops_where_an_uninterrupted_one_does(tiny, tmp_path, monkeypatch, plain_convolutions):
    monkeypatch.chdir(ROOT)
    failing = []

    def scores_of(evaluation, state, show=None):
        step = int(state.step[0])
        if step in failing:
            raise KeyboardInterrupt
        return {"mIoU": SCORES[step]}

    monkeypatch.setattr(evaluate, "scores_of", scores_of)
    command = ["--config=configs/fcn.py:camvid", *tiny, "--config.train.steps=12", "--config.train.eval_every=2"]
    patient = [*command, "--config.train.patience=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    line = "stopped early at step 8: the best mIoU is still the 0.5000 of step 4; --checkpoint=best reads"
    assert f"{whole}: {line}" in call(*patient, f"--workdir={whole}")
    assert evaluations(whole) == [(2, 0.25), (4, 0.5), (6, 0.375), (8, 0.4375)]
    results = json.loads((whole / "results.json").read_text())
    assert results["step"] == 8
    run = execution.Run("", (), workdir.read_config(str(whole)), str(whole), "train")
    assert execution.read_scores(run)["mIoU"] == pytest.approx(100 * results["mIoU"]), "a sweep takes it as finished"

    failing.append(8)
    with pytest.raises(KeyboardInterrupt):
        call(*patient, f"--workdir={killed}")
    failing.clear()
    out = call(*patient, f"--workdir={killed}")
    assert f"{killed}: continuing from step 7" in out and f"{killed}: {line}" in out
    assert evaluations(killed) == evaluations(whole)
    again = json.loads((killed / "results.json").read_text())
    assert (again["step"], again["mIoU"]) == (8, results["mIoU"])

    log = (whole / "metrics.jsonl").read_bytes()
    assert f"{whole}: {line}" in call(*patient, f"--workdir={whole}"), "only evaluates"
    assert (whole / "metrics.jsonl").read_bytes() == log
    call("--mode=evaluate", f"--workdir={whole}", "--checkpoint=best")
    assert json.loads((whole / "results.json").read_text())["step"] == 4
    assert f"{whole}: continuing from step 8" in call(*command, "--config.train.patience=3", f"--workdir={whole}")
    assert [step for step, _ in evaluations(whole)] == [2, 4, 6, 8, 10, 12]
