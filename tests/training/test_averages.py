"""Exponential moving averages of parameters and batch statistics."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from ctxseg import commands, devices
from ctxseg.configs import defaults
from ctxseg.models import create_model
from ctxseg.runs import metrics_log
from ctxseg.training import optimizers
from ctxseg.training.state import averaged, with_averages
from ctxseg.training.step import create_train_step
from tests.drawn import drawn_state

pytestmark = pytest.mark.usefixtures("plain_convolutions")


def test_averages_of_four_steps():
    """d is t/(9 + t) after update t, until that exceeds the decay, here after the third."""
    config = defaults.get_config()
    config.model.backbone.width, config.train.ema, decay = 2, 0.27, 0.27
    model = create_model(config.model, 3, axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(config.optimizer, 4)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (2, 16, 16, 3), np.uint8),
        "label": rng.integers(0, 3, (2, 16, 16), np.uint8),
    }
    state = devices.replicate(with_averages(drawn_state(model, optimizer, (16, 16))))
    step = create_train_step(model, optimizer, config)

    def values(state):
        return jax.tree.map(np.asarray, ({"params": state.params, "batch_stats": state.batch_stats}, state.averages))

    expected = values(devices.unreplicate(state))[0]
    for t in range(1, 5):
        state, _ = step(state, devices.shard(batch))
        current, averages = values(devices.unreplicate(state))
        d = min(decay, t / (9 + t))
        expected = jax.tree.map(lambda a, x, d=d: d * a + (1 - d) * x, expected, current)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), averages, expected)
    last = devices.unreplicate(state)
    jax.tree.map(np.testing.assert_array_equal, averaged(last).variables["params"], last.averages["params"])
    assert averaged(last).variables["memory"] == last.memory


def test_a_run_that_evaluates_its_averages_alone(tiny, tmp_path, monkeypatch):
    """Also during training, where they decide the best checkpoint. The page says so."""
    monkeypatch.chdir(Path(__file__).parents[2])
    scores = {}
    for averages in (False, True):
        folder = tmp_path / str(averages)
        command = ["main.py", "--config=configs/fcn.py:camvid", *tiny, f"--workdir={folder}", "--config.train.ema=0.9"]
        changes = ["--config.train.eval_every=2", f"--config.eval.averages={averages}"]
        assert commands.main([*command, "--config.optimizer.learning_rate=0.1", *changes]) == 0
        results = json.loads((folder / "results.json").read_text())
        entries = [entry for entry in metrics_log.read_metrics(folder) if entry["kind"] == "eval"]
        scores[averages] = [results, *entries]
        commands.main(["main.py", "--mode=failures", f"--workdir={folder}"])
        assert ("averages of the parameters" in (folder / "failures.html").read_text()) == averages
    assert [entry["step"] for entry in scores[True]] == [4, 2, 4]
    for plain, alone in zip(scores[False], scores[True], strict=True):
        assert plain["mIoU"] != plain["averages_mIoU"] == alone["mIoU"] and "averages_mIoU" not in alone
