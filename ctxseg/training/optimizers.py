"""The optimiser: gradient transformations, learning-rate factors by parameter, and frozen parameters."""

import difflib
import math
from collections.abc import Container, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import jax
import optax

from ctxseg.choices import find
from ctxseg.errors import UserError
from ctxseg.models.layers import is_frozen
from ctxseg.training.schedules import learning_rate


def sgd(config) -> list[optax.GradientTransformation]:
    """Momentum, and L2 on kernels only:   g ← ∇ + λ·w (kernels);   v ← μ·v + g."""
    return [
        optax.add_decayed_weights(config.weight_decay, mask=_is_kernel),
        optax.trace(config.momentum, nesterov=config.nesterov),
    ]


def adamw(config) -> list[optax.GradientTransformation]:
    """AdamW (Loshchilov and Hutter, ICLR 2019, Alg. 2), with decay of kernels only:   v ← m̂ / (√ŝ + ε) + λ·w (kernels).

    m̂ and ŝ are the means of the gradients and of their squares, with the factors `momentum` and `beta2` (β₁ and β₂).
    """
    return [
        optax.scale_by_adam(config.momentum, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=_is_kernel),
    ]


# Name → function of `config.optimizer` that returns the gradient transformations; the learning rate is applied after them.
OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


def create_optimizer(
    config,
    steps: int,
    frozen: tuple[str, ...] = (),
    new: Container[str] = (),
    depths: Mapping[str, int] = MappingProxyType({}),
    schedule: optax.Schedule | None = None,
) -> optax.GradientTransformation:
    """The optimiser `config.optimizer.name`, with learning-rate factors:   w ← w − lr(t) · factor · v

    A factor is that of `rates`, times `layer_decay` to the power of the number of layers that follow.

    Args:
        config: `config.optimizer`.
        steps: T, the number of updates of the schedule.
        frozen: name prefixes of parameters that are not updated, see `layers.is_frozen`.
        new: names ("classifier/scores/kernel") of the parameters that are trained in the first `head_steps` steps.
        depths: {name prefix: number of layers that follow}, as `layers_after` returns it, for `layer_decay`.
        schedule: step → learning rate; default: that of the config.

    Raises:
        UserError: an unknown optimiser; an empty entry of `frozen`; `layer_decay` for a network without `depths`; as `learning_rate` and
            `parse_rates`; and from `init` of the result, as `rate_factors`.
    """
    if "" in frozen:
        raise UserError(
            "config.model.frozen has an empty name, the prefix of all: expected name prefixes such as backbone/stem, or none"
        )
    stages = [
        *find("optimizer.name", config.name, OPTIMIZERS)(config),
        _scale_by_name(parse_rates(config.rates), decays(config.layer_decay, depths)),
        optax.scale_by_learning_rate(schedule or learning_rate(config, steps)),
    ]
    if config.clip_norm:
        stages.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.head_steps:
        stages.append(_only_new(config.head_steps, new))
        # SGD's momentum of the other parameters is 0 until they are released: else it would be a sum of their gradients. AdamW's means of
        # their gradients start at step 0, from which its bias correction counts.
        if config.name != "adamw":
            stages.insert(0, _only_new(config.head_steps, new))
    if frozen:
        stages.append(optax.masked(optax.set_to_zero(), partial(frozen_mask, frozen=frozen)))
    return optax.chain(*stages)


def layers_after(model) -> dict[str, int]:
    """{name prefix: number of layers that follow} of the parameters of a network, if its backbone has a property `depths`."""
    return {f"backbone/{prefix}": count for prefix, count in getattr(model.backbone, "depths", {}).items()}


def decays(layer_decay: float, depths: Mapping[str, int]) -> dict[str, float]:
    """{name prefix: factor of the learning rate}: `layer_decay` to the power of the number of layers that follow.

    Raises:
        UserError: `layer_decay` is not 1, and there are no `depths`.
    """
    if layer_decay == 1:
        return {}
    if not depths:
        raise UserError(
            f"config.optimizer.layer_decay is {layer_decay:g}, but only backbones that are transformers have it: set it to 1, or "
            "config.model.backbone.name to one of vit_*, dinov2_*"
        )
    return {prefix: layer_decay**count for prefix, count in depths.items()}


def parse_rates(rates: Sequence[str]) -> dict[str, float]:
    """("classifier/scores=10", "backbone=0.1") → {"classifier/scores": 10.0, "backbone": 0.1}.

    Raises:
        UserError: an entry that is not NAME=FACTOR, a factor below 0, or a repeated name.
    """
    factors = {}
    for entry in rates:
        name, _, text = str(entry).rpartition("=")
        try:
            factor = float(text)
        except ValueError:
            factor = math.nan
        if not name or not 0 <= factor < math.inf:
            raise UserError(
                f"config.optimizer.rates has {entry!r}; expected NAME=FACTOR with a factor of at least 0, such as "
                "classifier/scores=10"
            )
        if name in factors:
            raise UserError(f"config.optimizer.rates has {name!r} twice")
        factors[name] = factor
    return factors


def rate_factors(params, rates: Mapping[str, float]):
    """A tree like `params` with the learning-rate factor of each: that of the longest prefix of its name in `rates`, or else 1.

    Names are as in `layers.is_frozen`.

    Raises:
        UserError: an entry of `rates` matches no parameter.
    """
    names = _names(params)
    _check_names("config.optimizer.rates", rates, names)
    return jax.tree.map(partial(_factor, rates), names, **_TUPLES)


def _factor(rates, name):
    prefixes = (prefix for prefix in sorted(rates, key=len, reverse=True) if is_frozen(name, (prefix,)))
    return rates.get(next(prefixes, ""), 1.0)


def _scale_by_name(rates, decays):
    """Multiplies updates by `rate_factors` and by the factors `decays`; `init` checks the names."""

    def init(params):
        rate_factors(params, rates)
        return optax.EmptyState()

    def update(updates, state, params=None):
        if rates:
            updates = jax.tree.map(jax.numpy.multiply, updates, rate_factors(updates, rates))
        if decays:
            factors = jax.tree.map(partial(_factor, decays), _names(updates), **_TUPLES)
            updates = jax.tree.map(jax.numpy.multiply, updates, factors)
        return updates, state

    # `masked` masks nothing, but its state keeps the structure of older checkpoints.
    return optax.masked(optax.GradientTransformation(init, update), True)


def _only_new(steps, new):
    """Zeroes the updates of parameters that are not in `new` in the first `steps` steps."""

    def init(params):
        return optax.ScaleByScheduleState(jax.numpy.zeros((), "int32"))

    def update(updates, state, params=None):
        held = state.count < steps
        names = jax.tree.map("/".join, _names(updates), **_TUPLES)
        updates = jax.tree.map(
            lambda update, name: update if name in new else jax.numpy.where(held, 0, update), updates, names
        )
        return updates, optax.ScaleByScheduleState(state.count + 1)

    return optax.GradientTransformation(init, update)


def frozen_mask(params, frozen: tuple[str, ...]):
    """A tree like `params`: whether each is frozen.

    Raises:
        UserError: an entry of `frozen` matches no parameter.
    """
    names = _names(params)
    _check_names("config.model.frozen", frozen, names)
    return jax.tree.map(lambda name: is_frozen(name, frozen), names, **_TUPLES)


# Makes parameter names, which are tuples, the leaves of a tree.
_TUPLES = {"is_leaf": lambda x: isinstance(x, tuple)}


def _names(params):
    """A tree like `params` with the name of each, such as ("backbone", "conv1_1", "conv", "kernel")."""
    return jax.tree_util.tree_map_with_path(lambda path, _: tuple(entry.key for entry in path), params)


def _check_names(field, prefixes, names):
    """Raises UserError for the first of `prefixes` that matches no name in the tree `names`."""
    leaves = jax.tree.leaves(names, **_TUPLES)
    for prefix in prefixes:
        if not any(is_frozen(name, (prefix,)) for name in leaves):
            choices = sorted({"/".join(name[:2]) for name in leaves})
            near = difflib.get_close_matches(prefix, choices, 3, 0) or choices[:3]
            raise UserError(
                f"{field} has {prefix!r}, which matches no parameter: expected {', '.join(near)}, …; --mode=show lists all"
            )


def _is_kernel(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)
