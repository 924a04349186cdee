"""Checks of a config that need no data: invalid values, and parts that do not fit together."""

from collections.abc import Sequence

import jax

from ctxseg import devices
from ctxseg.choices import find
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.runs.loggers import LOGGERS
from ctxseg.runs.record import IOU
from ctxseg.settings import declared
from ctxseg.tasks import task_of
from ctxseg.training import optimizers
from ctxseg.training.state import create_state


def check_fields(config, class_names: Sequence[str] = ("", "")) -> None:
    """Raises UserError for an invalid number or name in a config.

    Commands call this before they compare the config with that of a run, so that the message names the value, not the folder.
    """
    declared.check_all(config)
    devices.check_batch_size("train.batch_size", config.train.batch_size)
    devices.check_micro_batches(config.train.micro_batches, config.train.batch_size)
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    task_of(config).check(config, class_names)
    task_of(config).check_data(config)
    best, scores = config.train.best, task_of(config).SCORES
    if best and best not in scores and not (best.startswith(IOU) and "mIoU" in scores):
        lower = " (a lower ECE is better, and the best checkpoint has the highest score)" * (best == "ECE")
        raise UserError(
            f"config.train.best is {best!r}{lower}; expected one of {', '.join(scores)}{f', {IOU}CLASS' * ('mIoU' in scores)}"
        )
    if config.train.patience and not config.train.eval_every:
        raise UserError(
            f"config.train.patience is {config.train.patience}, a number of evaluations during training, but config.train.eval_every is "
            "none: set it to a number of steps, or config.train.patience to none"
        )
    for name in config.train.loggers:
        find("train.loggers", name, LOGGERS)
    depths = optimizers.layers_after(create_model(config.model, len(class_names)))
    optimizers.create_optimizer(config.optimizer, config.train.steps, tuple(config.model.frozen), depths=depths)
    if config.optimizer.head_steps > config.train.steps:
        raise UserError(
            f"config.optimizer.head_steps is {config.optimizer.head_steps}; expected at most config.train.steps, {config.train.steps}"
        )


def check_network(config, class_names: Sequence[str]) -> None:
    """Traces the initial state without computing it, in seconds. UserError: parts of the network do not fit together."""
    model = create_model(config.model, len(class_names))
    optimizer = optimizers.create_optimizer(
        config.optimizer, config.train.steps, tuple(config.model.frozen), depths=optimizers.layers_after(model)
    )
    state = jax.eval_shape(
        lambda: create_state(model, optimizer, config.data.crop, config.seed, config.model.kernel_std)
    )
    # With one image at a time, batch normalisation of a 1×1 map would have a single value per channel.
    if config.train.batch_size == config.train.micro_batches:

        def forward(variables):
            rngs = {"dropout": jax.random.PRNGKey(0)}
            arguments = model.example(config.data.crop)
            return model.apply(variables, *arguments, train=True, rngs=rngs, mutable=["batch_stats"])

        jax.eval_shape(forward, state.variables)
