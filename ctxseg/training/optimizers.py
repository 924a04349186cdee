"""The optimiser: what it makes of gradients, at which rate each parameter moves, and which do not."""

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import optax

from ctxseg.choices import find
from ctxseg.errors import UserError
from ctxseg.models.layers import is_frozen
from ctxseg.training.schedules import learning_rate


def sgd(config) -> list[optax.GradientTransformation]:
    """Momentum, and L2 on kernels alone:   g ← ∇ + λ·w (kernels);   v ← μ·v + g."""
    return [
        optax.add_decayed_weights(config.weight_decay, mask=_is_kernel),
        optax.trace(config.momentum, nesterov=config.nesterov),
    ]


# Name → function of `config.optimizer` that gives the transformations of gradients, before they are multiplied by the rate.
OPTIMIZERS = {"sgd": sgd}


def create_optimizer(config, steps: int, frozen: tuple[str, ...] = ()) -> optax.GradientTransformation:
    """The steps of `config.optimizer.name`, parameters that `rates` names at that many times the rate:   w ← w − lr(t) · factor · v

    Args:
        config: `config.optimizer`.
        steps: T of the schedule.
        frozen: beginnings of names of parameters that stay as they are, see `layers.is_frozen`.

    Raises:
        UserError: as `learning_rate` and `parse_rates`, no optimiser of that name, and from the transformation's `init`, as `rate_factors`.
    """
    stages = [
        *find("optimizer.name", config.name, OPTIMIZERS)(config),
        _scale_by_name(parse_rates(config.rates)),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    ]
    if config.clip_norm:
        stages.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if frozen:
        stages.append(optax.masked(optax.set_to_zero(), partial(frozen_mask, frozen=frozen)))
    return optax.chain(*stages)


def parse_rates(rates: Sequence[str]) -> dict[str, float]:
    """("classifier/scores=10", "backbone=0.1") → {"classifier/scores": 10.0, "backbone": 0.1}.

    Raises:
        UserError: an entry that is not NAME=FACTOR, a factor below 0, or a name that comes twice.
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
                f"config.optimizer.rates has {entry!r}, but an entry must be NAME=FACTOR with a factor of 0 or more: "
                "classifier/scores=10"
            )
        if name in factors:
            raise UserError(f"config.optimizer.rates has {name!r} twice")
        factors[name] = factor
    return factors


def rate_factors(params, rates: Mapping[str, float]):
    """A tree like `params`: what the learning rate of each is multiplied by, by the longest of `rates` at the beginning of its name.

    Names are as in `layers.is_frozen`; a parameter that none of them covers has 1.

    Raises:
        UserError: one of `rates` is no parameter's.
    """
    names = _names(params)
    _check_names("config.optimizer.rates", rates, names)
    longest_first = sorted(rates, key=len, reverse=True)

    def factor(name):
        return next((rates[beginning] for beginning in longest_first if is_frozen(name, (beginning,))), 1.0)

    return jax.tree.map(factor, names, **_TUPLES)


def _scale_by_name(rates):
    """Multiplies updates by `rate_factors`, whose check `init` makes."""

    def init(params):
        rate_factors(params, rates)
        return optax.EmptyState()

    def update(updates, state, params=None):
        return jax.tree.map(jax.numpy.multiply, updates, rate_factors(updates, rates)) if rates else updates, state

    # `masked` masks nothing: its state is what the checkpoints of older runs have here.
    return optax.masked(optax.GradientTransformation(init, update), True)


def frozen_mask(params, frozen: tuple[str, ...]):
    """A tree like `params`: whether each is frozen.

    Raises:
        UserError: one of `frozen` is no parameter's.
    """
    names = _names(params)
    _check_names("config.model.frozen", frozen, names)
    return jax.tree.map(lambda name: is_frozen(name, frozen), names, **_TUPLES)


_TUPLES = {"is_leaf": lambda x: isinstance(x, tuple)}  # names of parameters as the leaves of a tree


def _names(params):
    """A tree like `params`: the name of each, ("backbone", "conv1_1", "conv", "kernel")."""
    return jax.tree_util.tree_map_with_path(lambda path, _: tuple(entry.key for entry in path), params)


def _check_names(field, beginnings, names):
    """UserError for the first of `beginnings` that none of the tree `names` has."""
    leaves = jax.tree.leaves(names, **_TUPLES)
    for beginning in beginnings:
        if not any(is_frozen(name, (beginning,)) for name in leaves):
            first = sorted({"/".join(name[:2]) for name in leaves})
            near = difflib.get_close_matches(beginning, first, 3, 0) or first[:3]
            raise UserError(f"{field} has {beginning!r}, but there is {', '.join(near)} …: see --mode=show")


def _is_kernel(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key.endswith("kernel"), params)
