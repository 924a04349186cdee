"""`--mode=show`: what a config resolves to."""

import jax
import jax.numpy as jnp

from ctxseg import data
from ctxseg.models import create_model
from ctxseg.settings import collect, reading
from ctxseg.training import checks, optimizers


def run(values) -> None:
    show(values.config)


def show(config) -> None:
    """Prints every field that is read, with the value that takes effect, and the model's parts with their parameters.

    Trains nothing. It prepares own data, whose classes nothing else says, and no others.

    Raises:
        UserError: what a training would refuse at its start, but for what it takes the data to know.
    """
    class_names = data.metadata(config.data)["class_names"]
    checks.check_fields(config, class_names)
    if config.train.batch_size == 1:
        checks.check_network(config, class_names)
    model = create_model(config.model, len(class_names))
    images, regions = jnp.zeros((1, *config.data.crop, 3), jnp.uint8), jnp.zeros((1, *config.data.crop), jnp.int32)
    output, variables = jax.eval_shape(lambda r: model.init_with_output(r, images, regions), jax.random.PRNGKey(0))
    values = reading.effective(config)
    if values.get("model.context.levels") == [] and config.model.connections.name == "none":
        maps = [name for name in output.features if name != "context"]
        values["model.context.levels"] = maps[-reading.maps_read(config) :]
    for name, value in values.items():
        shown = "(not given)" if value is None else "none" if collect.can_be_off(name) and not value else value
        meaning = collect.meaning(config, name)
        print(f"config.{name} = {shown}{meaning and f'  # {meaning}'}")
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps, tuple(config.model.frozen))
    jax.eval_shape(optimizer.init, variables["params"])  # for its checks of parameters' names
    print()
    for part, tree in variables["params"].items():
        for name, leaves in tree.items() if part != "classifier" else [("", tree)]:
            print(f"{part + '/' + name:44} {sum(x.size for x in jax.tree.leaves(leaves)):>12,}")
    print(f"{'parameters':44} {sum(x.size for x in jax.tree.leaves(variables['params'])):>12,}")
    print(f"logits {output.logits.shape} for an image {images.shape}")
