"""Checks of a config that need no data: invalid values, and parts that do not fit together."""

from collections.abc import Sequence

import jax

from ctxseg import devices
from ctxseg.choices import find
from ctxseg.data import superpixels
from ctxseg.data.transforms import create_augmentation
from ctxseg.errors import UserError
from ctxseg.inference.protocol import create_protocol
from ctxseg.models import create_model
from ctxseg.runs.loggers import LOGGERS
from ctxseg.settings import declared
from ctxseg.training import optimizers
from ctxseg.training.losses import LOSSES
from ctxseg.training.state import create_state


def check_fields(config, class_names: Sequence[str] = ("", "")) -> None:
    """Raises UserError for an invalid number or name in a config.

    Commands call this before they compare the config with that of a run, so that the message names the value, not the folder.
    """
    declared.check_all(config)
    superpixels.check(config.data.superpixels)
    devices.check_batch_size("train.batch_size", config.train.batch_size)
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    create_augmentation(config.data, class_names)
    create_protocol(config.eval, class_names)
    model = create_model(config.model, len(class_names))
    for section, maximum in model.most_superpixels.items():
        segments = config.data.superpixels
        if segments < 1:
            name = config.model[section].name
            raise UserError(
                f"config.data.superpixels is {segments}, but {name} needs super-pixels: set it to 1000 for photographs"
            )
        if segments > maximum:
            raise UserError(
                f"config.data.superpixels is {segments}; expected at most {maximum}, "
                f"the limit of config.model.{section}, whose fields --mode=show lists"
            )
    find("loss.name", config.loss.name, LOSSES)
    for name in config.train.loggers:
        find("train.loggers", name, LOGGERS)
    optimizers.create_optimizer(config.optimizer, config.train.steps, tuple(config.model.frozen))


def check_network(config, class_names: Sequence[str]) -> None:
    """Traces the initial state without computing it, in seconds. UserError: parts of the network do not fit together."""
    model = create_model(config.model, len(class_names))
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps, tuple(config.model.frozen))
    state = jax.eval_shape(
        lambda: create_state(model, optimizer, config.data.crop, config.seed, config.model.kernel_std)
    )
    if config.train.batch_size == 1:  # batch normalisation of a 1×1 map would have a single value per channel

        def forward(variables):
            shape, rngs = (1, *config.data.crop), {"dropout": jax.random.PRNGKey(0)}
            images, regions = jax.numpy.zeros((*shape, 3), "uint8"), jax.numpy.zeros(shape, "int32")
            return model.apply(variables, images, regions, train=True, rngs=rngs, mutable=["batch_stats"])

        jax.eval_shape(forward, state.variables)
