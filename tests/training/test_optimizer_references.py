"""PyTorch's recorded optimisers (`benchmarks/published_optimizers.py`), against their formulas."""

import math

import numpy as np
import pytest

from tests.references import published_optimizers as published


def rate(case, step):
    """The learning rate of a step, from 0, in closed form."""

    def cosine(step, steps):
        return case.rate * (1 + math.cos(math.pi * step / steps)) / 2

    if case.schedule == "cosine":
        return cosine(step, published.STEPS)
    if case.schedule == "poly":
        return case.rate * (1 - step / published.STEPS) ** case.power
    if case.schedule == "warmup_cosine":
        done = step - case.warmup_steps
        if done < 0:
            return case.rate * (case.warmup_factor + (1 - case.warmup_factor) * step / case.warmup_steps)
        return cosine(done, published.STEPS - case.warmup_steps)
    assert case.schedule == "constant", case
    return case.rate


def norm(gradients):
    return math.sqrt(sum((g**2).sum() for g in gradients.values()))


def adamw(case, x, g, state, step, name):
    """Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, Algorithm 2, the decay multiplied by the rate."""
    lr, decay = rate(case, step), case.decay if name in case.decayed else 0
    m, v = state or (np.zeros_like(x), np.zeros_like(x))
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    direction = m / (1 - 0.9 ** (step + 1)) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
    return x - lr * (direction + decay * x), (m, v)


def sgd(case, x, g, state, step, name):
    """The sum of all gradients, each weighted by momentum ** age. Nesterov's looks one step ahead."""
    g = g + (case.decay if name in case.decayed else 0) * x
    sum_of_gradients = case.momentum * (0 if state is None else state) + g
    direction = g + case.momentum * sum_of_gradients if case.nesterov else sum_of_gradients
    return x - rate(case, step) * direction, sum_of_gradients


@pytest.mark.parametrize("name", published.CASES)
def test_steps(name):
    case = published.CASES[name]
    update = {"adamw": adamw, "sgd": sgd}[case.optimizer]
    recorded = published.recorded_parameters(name)
    parameters, states, norms = published.initial(), {}, []
    for step in range(published.STEPS):
        gradients = published.gradients(parameters, step)
        if case.clip is not None:
            norms.append(norm(gradients))
            # PyTorch adds 1e-6 to the norm.
            factor = min(1, case.clip / (norms[-1] + 1e-6))
            gradients = {key: factor * g for key, g in gradients.items()}
        for key in parameters:
            parameters[key], states[key] = update(case, parameters[key], gradients[key], states.get(key), step, key)
            np.testing.assert_allclose(parameters[key], recorded[key][step], rtol=1e-12, atol=1e-14)
    if case.clip is not None:
        assert 5 < sum(n > case.clip for n in norms) < 15
    assert all((recorded[key][-1] != recorded[key][0]).all() for key in ("kernel", "bias"))


@pytest.mark.parametrize("name", published.CASES)
def test_rates(name):
    rates = [rate(published.CASES[name], step) for step in range(published.STEPS + 1)]
    np.testing.assert_allclose(published.recorded_rates(name), rates, rtol=1e-12, atol=1e-16)


def test_the_problem_shows_every_part_of_an_optimiser():
    """The ε of Adam, and decay without a gradient."""
    start = published.initial()
    adamw, kernel_only = (published.recorded_parameters(name) for name in ("adamw", "adamw_decays_kernel"))
    # The first step of Adam without ε is the rate. A gradient as small as ε makes it much smaller.
    first = kernel_only["gain"][0] - start["gain"]
    assert (0.1 * 0.05 < np.abs(first)).all() and (np.abs(first) < 0.9 * 0.05).all()
    np.testing.assert_allclose(adamw["unused"][-1], start["unused"] * (1 - 0.05 * 0.1) ** published.STEPS, rtol=1e-12)
    np.testing.assert_array_equal(kernel_only["unused"][-1], start["unused"])
    np.testing.assert_allclose(adamw["kernel"], kernel_only["kernel"], rtol=1e-15)
