"""`--mode=show`: what a config resolves to."""

import jax
import jax.numpy as jnp

from ctxseg import data, reading, schedules
from ctxseg.models import create_model
from ctxseg.train import check_numbers, create_augmentation


def show(config) -> None:
    """Prints every field that is read, with the value that takes effect, and the model's parts with their parameters.

    Prepares no data and trains nothing.
    """
    check_numbers(config)
    create_augmentation(config.data)  # for its checks
    model = create_model(config.model, len(data.metadata(config.data)["class_names"]))
    for name, value in reading.effective(config).items():
        print(f"config.{name} = {value}")
    images, regions = jnp.zeros((1, *config.data.crop, 3), jnp.uint8), jnp.zeros((1, *config.data.crop), jnp.int32)
    output, variables = jax.eval_shape(lambda r: model.init_with_output(r, images, regions), jax.random.PRNGKey(0))
    schedules.frozen_mask(variables["params"], tuple(config.model.frozen))  # for its check
    schedules.rate_factors(variables["params"], schedules.parse_rates(config.optimizer.rates))  # the same
    print()
    for part, tree in variables["params"].items():
        for name, leaves in tree.items() if part != "classifier" else [("", tree)]:
            print(f"{part + '/' + name:44} {sum(x.size for x in jax.tree.leaves(leaves)):>12,}")
    print(f"{'parameters':44} {sum(x.size for x in jax.tree.leaves(variables['params'])):>12,}")
    print(f"logits {output.logits.shape} for an image {images.shape}")
