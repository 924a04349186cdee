"""`--mode=lr`."""

import json
import math
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxseg.errors import UserError
from ctxseg.studies import learning_rate
from tests.commands.test_main import call

ROOT = Path(__file__).parents[2]


def fields(lowest=1e-3, highest=100.0, steps=51):
    return types.SimpleNamespace(lowest=lowest, highest=highest, steps=steps)


def test_the_rates_grow_by_one_factor():
    schedule = learning_rate.schedule(fields())
    result = learning_rate.range_test(fields(), lambda _: 1.0)
    np.testing.assert_allclose([schedule(i) for i in range(51)], result.rates, rtol=1e-5)
    np.testing.assert_allclose(result.rates, np.geomspace(1e-3, 100, 51))
    assert not result.diverged


def quadratic(curvature, first=1.0):
    """Gradient descent on ½·curvature·x² with noise. It diverges at rates above 2 / curvature."""
    x, schedule = first, learning_rate.schedule(fields())

    def take_step(i):
        nonlocal x
        loss = curvature * x * x / 2
        x -= float(schedule(i)) * curvature * (x + 0.1 * (-1) ** i)
        return loss

    return take_step


@pytest.mark.parametrize("curvature", [0.5, 1.0, 20.0])
def test_the_suggestion_is_below_the_rate_at_which_a_quadratic_diverges(curvature):
    result = learning_rate.range_test(fields(), quadratic(curvature))
    assert result.diverged and result.smoothed[-1] > 4 * min(result.smoothed)
    assert 1 / curvature < result.rates[-1] < 6 / curvature
    assert 0.005 / curvature < result.suggestion == result.rates[result.lowest] / 10 < 0.3 / curvature


def test_a_loss_that_is_not_finite_ends_the_test():
    losses = [1.0, 0.5, math.nan]
    result = learning_rate.range_test(fields(), losses.__getitem__)
    assert result.diverged and result.losses == [1.0, 0.5] and len(result.rates) == len(result.smoothed) == 2
    with pytest.raises(UserError, match="the loss is nan before the first update"):
        learning_rate.range_test(fields(), lambda _: math.nan)


def test_a_suggestion_that_was_not_tested_is_named():
    lines = []
    for losses in ([1.0, 0.5, 8.0, 20.0, 40.0], [1.0] * 30 + [0.5] * 21):
        result = learning_rate.range_test(fields(), lambda i, losses=losses: losses[i])
        lines.append("\n".join(learning_rate._lines(result, fields(), 0.01)))
    assert ["lower config.lr.lowest to test it" in text for text in lines] == [True, False]


def test_a_loss_that_never_falls_has_no_suggestion():
    assert learning_rate.range_test(fields(), float).suggestion is None


def test_a_network(tiny, tmp_path, monkeypatch, plain_convolutions):
    """No run is created. The data are a mixture."""
    monkeypatch.chdir(ROOT)
    command = ["--config=configs/fcn.py:camvid", *tiny, "--mode=lr", f"--workdir={tmp_path / 'test'}"]
    command.insert(2, "--config.data.mixture=camvid/val=0.25")
    *_, path, _, _, last = call(*command, "--config.lr.steps=12").splitlines()
    assert sorted(p.name for p in (tmp_path / "test").iterdir()) == ["lr.json", "lr.png"]
    assert path == f"{tmp_path}/test/lr.png" and Image.open(path).size > (300, 200)
    result = json.loads((tmp_path / "test/lr.json").read_text())
    assert 2 < len(result["rates"]) == len(result["losses"]) == len(result["smoothed"]) <= 12
    assert f"--config.optimizer.learning_rate={result['suggestion']:.2g}," in last
    assert last.endswith(f"the config has {result['learning_rate']:g}")
    with pytest.raises(UserError, match="config.lr.lowest is 3; expected less than config.lr.highest, 2"):
        call(*command, "--config.lr.lowest=3", "--config.lr.highest=2")
    with pytest.raises(UserError, match="config.lr.steps is not used.* needs --mode=lr"):
        call(*command[:-2], "--config.lr.steps=12")
