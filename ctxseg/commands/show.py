"""`--mode=show`: prints the resolved config and the size of the model."""

import jax

from ctxseg import data
from ctxseg.models import create_model
from ctxseg.models.context import levels
from ctxseg.runs import loggers, pretrained
from ctxseg.settings import collect, reading
from ctxseg.tasks import task_of
from ctxseg.training import checks, optimizers


def run(values) -> None:
    show(values.config)


def show(config) -> None:
    """Prints every field that is read, with its effective value, and the number of parameters of each part of the model.

    Trains nothing. Prepares only the user's own data, since its classes are not known otherwise.

    Raises:
        UserError: any error that training would raise at its start, except errors in the data.
    """
    config = pretrained.resolve(config)
    class_names = data.metadata(config.data)["class_names"]
    checks.check_fields(config, class_names)
    loggers.find_loggers(config.train.loggers)
    if config.train.batch_size == config.train.micro_batches:
        checks.check_network(config, class_names)
    model = create_model(config.model, len(class_names))
    arguments = model.example(config.data.crop)
    variables = jax.eval_shape(lambda r: model.init(r, *arguments), jax.random.PRNGKey(0))
    output = jax.eval_shape(model.apply, variables, *arguments)
    values = reading.effective(config)
    if values.get("model.context.levels") == [] and config.model.connections.name == "none":
        pixels = jax.ShapeDtypeStruct(arguments[0].shape, "float32")
        backbone = model.backbone.clone(parent=None)
        read: list[str] = []

        def find(pixels):  # while it is traced, as its result would have the maps in the order of their names
            maps, _ = backbone.init_with_output(jax.random.PRNGKey(0), pixels)
            names = ["pixels", *maps, *["downsampled"] * config.model.downsample]
            read.extend(levels.last(names, reading.maps_read(config)))

        jax.eval_shape(find, pixels)
        values["model.context.levels"] = read
    for name, value in values.items():
        text = "(not given)" if value is None else "none" if collect.can_be_off(name) and not value else value
        meaning = collect.meaning(config, name)
        print(f"config.{name} = {text}{meaning and f'  # {meaning}'}")
    optimizer = optimizers.create_optimizer(
        config.optimizer, config.train.steps, tuple(config.model.frozen), depths=optimizers.layers_after(model)
    )
    jax.eval_shape(optimizer.init, variables["params"])  # checks the names of parameters
    print()
    for part, tree in variables["params"].items():
        for name, leaves in tree.items() if part != "classifier" else [("", tree)]:
            print(f"{part + '/' + name:44} {sum(x.size for x in jax.tree.leaves(leaves)):>12,}")
    print(f"{'parameters':44} {sum(x.size for x in jax.tree.leaves(variables['params'])):>12,}")
    print(f"{task_of(config).describe(output)} for an image {arguments[0].shape}")
