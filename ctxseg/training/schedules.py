"""Learning-rate schedules."""

import jax
import optax

from ctxseg.errors import UserError
from ctxseg.settings import declared


def learning_rate(config, steps: int) -> optax.Schedule:
    """Step → learning rate, as `config.optimizer` describes it, over `steps` updates.

    `poly`: lr · (1 − t/T)^power. `cosine`: lr · ½ (1 + cos(π t/T)) (Loshchilov and Hutter, ICLR 2017, eq. 5, without restarts). `step`:
    lr, multiplied by `step_factor` at each of `step_boundaries`. `constant`: lr. During the first `warmup_steps`, the rate is also
    multiplied by a linear warm-up from 0; t counts from step 0 in any case.

    Raises:
        UserError: an unknown schedule, or a number out of range.
    """
    _check(config)
    peak = config.learning_rate
    if config.schedule == "poly":
        schedule = optax.polynomial_schedule(peak, 0.0, config.poly_power, steps)
    elif config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(peak, steps)
    elif config.schedule == "step":
        schedule = optax.piecewise_constant_schedule(peak, dict.fromkeys(config.step_boundaries, config.step_factor))
    else:
        schedule = optax.constant_schedule(peak)
    if not config.warmup_steps:
        return schedule
    return lambda step: schedule(step) * jax.numpy.minimum(1.0, (step + 1) / config.warmup_steps)


def _check(config):
    declared.check_section("optimizer", config)
    boundaries = config.step_boundaries
    if any(type(b) is not int or b < 1 for b in boundaries) or list(boundaries) != sorted(set(boundaries)):
        raise UserError(f"config.optimizer.step_boundaries is {boundaries}; expected steps in increasing order")
