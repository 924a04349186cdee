"""Learning-rate schedules and the optimiser that follows them."""

import difflib
import math
from functools import partial

import jax
import optax

from ctxseg.errors import UserError
from ctxseg.models.layers import is_frozen


def learning_rate(config, steps: int) -> optax.Schedule:
    """Step → learning rate, as `config.optimizer` describes it, over `steps` updates.

    `poly`: lr · (1 − t/T)^power. `step`: lr times `step_factor` from each of `step_boundaries` on. `constant`: lr. A linear warm-up
    from 0 takes the first `warmup_steps`; the schedule's own clock runs from step 0 all the same.

    Raises:
        UserError: a schedule that does not exist, or a number outside of its range.
    """
    _check(config)
    peak = config.learning_rate
    if config.schedule == "poly":
        schedule = optax.polynomial_schedule(peak, 0.0, config.poly_power, steps)
    elif config.schedule == "step":
        schedule = optax.piecewise_constant_schedule(peak, dict.fromkeys(config.step_boundaries, config.step_factor))
    elif config.schedule == "constant":
        schedule = optax.constant_schedule(peak)
    else:
        raise UserError(f"config.optimizer.schedule is {config.schedule!r}, but it can be poly, step, constant")
    if not config.warmup_steps:
        return schedule
    return lambda step: schedule(step) * jax.numpy.minimum(1.0, (step + 1) / config.warmup_steps)


def create_optimizer(config, steps: int, frozen: tuple[str, ...] = ()) -> optax.GradientTransformation:
    """SGD with momentum and L2 on kernels alone, everything but the backbone at `new_layer_factor` times the rate.

        g ← ∇ + λ·w (kernels);   v ← μ·v + g;   w ← w − lr(t) · factor · v

    Args:
        config: `config.optimizer`.
        steps: T of the schedule.
        frozen: beginnings of names of parameters that stay as they are, see `layers.is_frozen`.

    Raises:
        UserError: as `learning_rate`.
    """
    stages = [
        optax.add_decayed_weights(config.weight_decay, mask=_is_kernel),
        optax.trace(config.momentum, nesterov=config.nesterov),
        optax.masked(optax.scale(config.new_layer_factor), _is_new),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    ]
    if config.clip_norm:
        stages.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if frozen:
        stages.append(optax.masked(optax.set_to_zero(), partial(frozen_mask, frozen=frozen)))
    return optax.chain(*stages)


def frozen_mask(params, frozen: tuple[str, ...]):
    """A tree like `params`: whether each is frozen.

    Raises:
        UserError: one of `frozen` is no parameter's.
    """
    names = jax.tree_util.tree_map_with_path(lambda path, _: tuple(entry.key for entry in path), params)
    is_leaf = {"is_leaf": lambda x: isinstance(x, tuple)}
    for beginning in frozen:
        if not any(is_frozen(name, (beginning,)) for name in jax.tree.leaves(names, **is_leaf)):
            first = sorted({"/".join(name[:2]) for name in jax.tree.leaves(names, **is_leaf)})
            near = difflib.get_close_matches(beginning, first, 3, 0) or first[:3]
            raise UserError(f"config.model.frozen has {beginning!r}, but there is {', '.join(near)} …: see --mode=show")
    return jax.tree.map(lambda name: is_frozen(name, frozen), names, **is_leaf)


def _check(config):
    numbers = "learning_rate weight_decay new_layer_factor clip_norm warmup_steps poly_power step_factor"
    for name in numbers.split():
        if not 0 <= config[name] < math.inf:
            raise UserError(f"config.optimizer.{name} is {config[name]}, but must be 0 or more")
    if not 0 <= config.momentum < 1:
        raise UserError(f"config.optimizer.momentum is {config.momentum}, but must be 0 or more, and less than 1")
    boundaries = config.step_boundaries
    if any(type(b) is not int or b < 1 for b in boundaries) or list(boundaries) != sorted(set(boundaries)):
        raise UserError(f"config.optimizer.step_boundaries is {boundaries}, but must be steps, the earliest first")


def _is_kernel(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)


def _is_new(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key != "backbone", params)
