import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctxseg.configs import defaults
from ctxseg.errors import UserError
from ctxseg.models.backbones.tiny import Tiny
from ctxseg.models.backbones.vit import ViT
from ctxseg.training import optimizers, schedules
from tests.references import published_optimizers as published


def settings(**changes):
    config = defaults.get_config().optimizer
    config.update({"learning_rate": 0.2, **changes})
    return config


def rates(steps, **changes):
    schedule = schedules.learning_rate(settings(**changes), steps)
    return [float(schedule(step)) for step in range(steps)]


def test_poly_schedule_follows_its_formula():
    expected = [0.2 * (1 - t / 8) ** 0.9 for t in range(8)]
    assert rates(8, schedule="poly", poly_power=0.9) == pytest.approx(expected)
    assert float(schedules.learning_rate(settings(schedule="poly"), 8)(8)) == 0


def test_step_schedule_multiplies_the_rate_at_each_boundary():
    expected = [0.2] * 3 + [0.1] * 2 + [0.05] * 3
    assert rates(8, schedule="step", step_boundaries=(3, 5), step_factor=0.5) == pytest.approx(expected)
    assert rates(4, schedule="step", step_boundaries=()) == pytest.approx([0.2] * 4)


@pytest.mark.parametrize("schedule", ["constant", "poly"])
def test_warmup_multiplies_the_schedule(schedule):
    plain = rates(8, schedule=schedule)
    expected = [rate * min(1, (t + 1) / 3) for t, rate in enumerate(plain)]
    assert rates(8, schedule=schedule, warmup_steps=3) == pytest.approx(expected)
    assert plain[0] == pytest.approx(0.2)


def random_tree(rng):
    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "backbone": {
            "conv": {"kernel": normal(1, 1, 2, 3), "bias": normal(3)},
            "norm": {"bn": {"scale": normal(3), "bias": normal(3)}},
        },
        "context": {"encode": {"kernel": normal(2, 2), "bias": normal(2)}},
        "classifier": {"kernel": normal(3, 2), "bias": normal(2)},
    }


def flat(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(key.key for key in path): np.asarray(leaf, np.float64) for path, leaf in leaves}


@pytest.mark.parametrize(
    "changes",
    [
        {"rates": ("backbone=2", "backbone/norm=0.5", "classifier=10"), "weight_decay": 0.1},
        {"nesterov": True, "weight_decay": 0.1, "warmup_steps": 2},
        {"clip_norm": 0.5, "rates": ("context=0",), "weight_decay": 0.1, "schedule": "constant"},
        {"momentum": 0.0, "weight_decay": 0.0},
    ],
    ids=["rates", "nesterov", "clip", "plain"],
)
def test_three_updates_match_numpy(changes):
    config, steps, rng = settings(**changes), 3, np.random.default_rng(0)
    params, gradients = random_tree(rng), [random_tree(rng) for _ in range(steps)]
    w = flat(params)
    velocity = {name: np.zeros_like(value) for name, value in w.items()}
    rate = rates(steps, **changes)
    # {prefix of a parameter's name: factor of its rate}. The longest matching prefix decides, in whatever order the field has them.
    factors = {
        ("backbone=2", "backbone/norm=0.5", "classifier=10"): {
            "backbone/conv": 2,
            "backbone/norm": 0.5,
            "classifier": 10,
        },
        ("context=0",): {"context": 0},
    }.get(config.rates, {})
    for t in range(steps):
        gradient = flat(gradients[t])
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        shrink = min(1, config.clip_norm / norm) if config.clip_norm else 1
        for name in w:
            g = shrink * gradient[name] + (config.weight_decay * w[name] if name.endswith("kernel") else 0)
            velocity[name] = config.momentum * velocity[name] + g
            update = g + config.momentum * velocity[name] if config.nesterov else velocity[name]
            factor = next((f for beginning, f in factors.items() if name.startswith(beginning)), 1)
            w[name] = w[name] - rate[t] * factor * update

    optimizer = optimizers.create_optimizer(config, steps)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    result = flat(params)
    assert result.keys() == w.keys()
    for name in w:
        np.testing.assert_allclose(result[name], w[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schedule": "exponential"}, "optimizer.schedule is 'exponential'.*poly, cosine, step, constant"),
        ({"learning_rate": -0.1}, "optimizer.learning_rate is -0.1.*at least 0"),
        ({"learning_rate": float("nan")}, "optimizer.learning_rate is nan.*number"),
        ({"clip_norm": float("inf")}, "optimizer.clip_norm is inf.*finite"),
        ({"momentum": 1.0}, "optimizer.momentum is 1.0.*less than 1"),
        ({"weight_decay": -1.0}, "optimizer.weight_decay is -1.0.*at least 0"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1.*at least 0"),
        ({"rates": ("backbone",)}, "optimizer.rates has 'backbone'.*NAME=FACTOR"),
        ({"rates": ("backbone=-1",)}, "optimizer.rates has 'backbone=-1'.*NAME=FACTOR.* 0"),
        ({"rates": ("a=1", "a=2")}, "optimizer.rates has 'a' twice"),
        ({"step_boundaries": (5, 3)}, r"optimizer.step_boundaries is \(5, 3\).*steps.*increasing"),
        ({"step_boundaries": ("a",)}, r"optimizer.step_boundaries is \('a',\).*steps"),
    ],
)
def test_message_names_the_invalid_value(changes, message):
    with pytest.raises(UserError, match=f"^config.{message}"):
        optimizers.create_optimizer(settings(**changes), 10)


def test_message_names_a_rate_that_matches_no_parameter():
    params = random_tree(np.random.default_rng(0))
    optimizer = optimizers.create_optimizer(settings(rates=("classifier=2", "backbone/covn=3")), 10)
    with pytest.raises(UserError, match="^config.optimizer.rates .*'backbone/covn'.*backbone/conv, "):
        optimizer.init(params)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_parameters_that_are_released_late_take_steps_of_ordinary_size(name):
    """With equal gradients, SGD's first ones are those of a new run, and AdamW's are those of the parameters trained from the start."""
    config = settings(name=name, head_steps=50, weight_decay=0.0, schedule="constant")
    optimizer = optimizers.create_optimizer(config, 100, new={"new/kernel"})
    params = {part: {"kernel": jnp.ones(2)} for part in ("held", "new")}
    state, update, steps = optimizer.init(params), jax.jit(optimizer.update), []
    for _ in range(60):
        updates, state = update(params, state, params)
        steps.append({part: float(updates[part]["kernel"][0]) for part in params})
    held, new = ([step[part] for step in steps] for part in ("held", "new"))
    assert not any(held[:50]) and all(new)
    np.testing.assert_allclose(held[50:], new[:10] if name == "sgd" else new[50:], rtol=1e-5)
    assert name == "sgd" or np.allclose(held[50:], -config.learning_rate, rtol=1e-5)


def test_layer_decay():
    """Rates fall with the number of layers that follow, and multiply those of `rates`. Prefixes end: block1 is not block10."""

    class Model:
        backbone = ViT(depth=12)

    depths = optimizers.layers_after(Model)
    layers = ("patches", "block1", "block10", "block12", "norm")
    params = {"backbone": {name: {"kernel": np.ones(1, np.float32)} for name in layers}, "classifier": {}}
    params["backbone"] |= {"class_token": np.ones(1, np.float32)}
    params["classifier"]["kernel"] = np.ones(1, np.float32)
    config = settings(layer_decay=0.5, rates=("backbone=0.1",), weight_decay=0.0, schedule="constant")
    optimizer = optimizers.create_optimizer(config, 10, depths=depths)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    after = {"patches": 13, "class_token": 13, "block1": 12, "block10": 3, "block12": 1, "norm": 0}
    expected = {name: -0.2 * 0.1 * 0.5**count for name, count in after.items()} | {"classifier": -0.2}
    actual = {key.removeprefix("backbone/").removesuffix("/kernel"): float(x[0]) for key, x in flat(updates).items()}
    assert actual == pytest.approx(expected)

    class WithoutDepths:
        backbone = Tiny()

    assert optimizers.layers_after(WithoutDepths) == {}
    with pytest.raises(UserError, match=r"optimizer\.layer_decay is 0\.5.*set it to 1.*backbone\.name.*vit"):
        optimizers.create_optimizer(config, 10, depths={})


def test_optimizer_state_has_the_structure_of_older_checkpoints():
    """Orbax restores into a tree with the same names: the stage of `rates` has the structure of the scaling that it replaced."""
    params = random_tree(np.random.default_rng(0))
    older = optax.masked(optax.scale(1.0), jax.tree.map(lambda _: False, params)).init(params)
    for rates in ((), ("classifier=10",)):
        state = optimizers.create_optimizer(settings(rates=rates), 10).init(params)
        assert len(state) == 4 and state[2] == older


@pytest.mark.parametrize("case", [name for name in published.CASES if name != "sgd_warmup_cosine"])
def test_optimisers_and_schedules_equal_pytorchs(case):
    """20 updates in float64. Ours decay kernels alone, so where PyTorch's decays all parameters, the kernel is compared. PyTorch's warm-up
    is followed by the schedule; here the schedule runs from the start."""
    expected, of = published.recorded_parameters(case), published.CASES[case]
    config = settings(
        name=of.optimizer,
        learning_rate=of.rate,
        momentum=0.9 if of.optimizer == "adamw" else of.momentum,
        nesterov=of.nesterov,
        weight_decay=of.decay,
        clip_norm=of.clip or 0.0,
        schedule=of.schedule,
        poly_power=of.power,
    )
    names = [name for name in published.SHAPES if not of.decay or of.decayed == ("kernel",) or name == "kernel"]
    with jax.enable_x64(True):
        optimizer = optimizers.create_optimizer(config, published.STEPS)
        params = jax.tree.map(jnp.asarray, published.initial())
        state = optimizer.init(params)
        update = jax.jit(optimizer.update)
        for step in range(published.STEPS):
            updates, state = update(published.gradients(params, step), state, params)
            params = optax.apply_updates(params, updates)
            for name in names:
                # PyTorch divides by the norm + 1e-6 where it clips; optax computes the rate of `poly` in float32.
                inexact = 1e-6 if of.clip else 1e-7 if of.schedule == "poly" else 1e-12
                close = {"rtol": max(inexact, 1e-9), "atol": inexact}
                np.testing.assert_allclose(params[name], expected[name][step], **close, err_msg=name)
        rate = schedules.learning_rate(config, published.STEPS)
        np.testing.assert_allclose([rate(t) for t in range(21)], published.recorded_rates(case), rtol=1e-6, atol=1e-12)
