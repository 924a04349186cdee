"""Which fields of a config are read. An override of one that nothing reads is an error; what a config file says of it is dropped.

What a module reads, the module says: the fields of its dataclass, and in its class attribute `READ_WHEN` those that it reads only
under some values of others, {field: (other, its values)}; of several others, (other, its values, another, its values); a list of these
where any one of them will do. The values are a tuple, or a `range` without end. Where a field may leave its value to another one, the
module's `effective` says what it then is. `conditions` has what belongs to no module. All other fields are always read, if only by the
modes that they are for.
"""

import dataclasses
from collections.abc import Mapping, Set

from ctxseg.errors import UserError
from ctxseg.models import CONTEXTS, find_module
from ctxseg.settings.collect import CHOSEN, class_of, defaults_of, own_fields
from ctxseg.settings.fields import flatten_as_json


def conditions(config, mode: str, unread: Set[str]):
    """What belongs to no module: (fields, whether something reads them, what it takes). `unread` are the modules' fields that are not."""
    optimizer, crf = config.optimizer, config.eval.crf.iterations > 0
    context, memory, merge = config.model.context.name, config.model.memory.name, config.model.scales.merge
    # A context with scores of its own knows of how many classes.
    scores = memory != "none" or _takes_classes(context)
    step, poly = optimizer.schedule == "step", optimizer.schedule == "poly"
    superpixels = mode == "prepare" or any(
        f"model.{part}.regions" not in unread and config.model[part].region_shape != "grid"
        for part in ("context", "connections")
    )
    heads = bool(config.model.auxiliary.levels)
    return (
        (["optimizer.nesterov"], optimizer.momentum > 0, "config.optimizer.momentum above 0"),
        (["optimizer.poly_power"], poly, "config.optimizer.schedule=poly"),
        (["optimizer.step_boundaries"], step, "config.optimizer.schedule=step"),
        (
            ["optimizer.step_factor"],
            step and bool(optimizer.step_boundaries),
            "config.optimizer.schedule=step, and boundaries",
        ),
        (["loss.auxiliary"], scores, "more scores than the classifier's: config.model.context.name=ocr, or a memory"),
        (["loss.heads", "model.auxiliary.channels", "model.auxiliary.dropout"], heads, "config.model.auxiliary.levels"),
        (  # the classifier normalises in its hidden convolution alone
            ["model.memory.consistency_norm"],
            config.loss.memory > 0 and config.model.classifier.hidden > 0,
            "config.loss.memory and config.model.classifier.hidden above 0",
        ),
        (["data.rotate_share"], config.data.rotate > 0, "config.data.rotate above 0"),
        (["loss.memory"], memory != "none", "a memory: config.model.memory.name"),
        (["loss.scales"], merge != "none", "several scales: config.model.scales.merge"),
        (
            ["data.superpixels"],
            superpixels,
            "config.model.context.name=msci, or connections, with superpixels=True and no grid",
        ),
        (
            ["eval.superpixels"],
            superpixels and tuple(config.eval.scales) != (1.0,),
            "super-pixels, and config.eval.scales other than 1",
        ),
        (["eval.score"], bool(config.eval.size), "config.eval.size"),
        (["eval.stride"], bool(config.eval.window), "config.eval.window"),
        (
            ["eval.crf.spatial_weight", "eval.crf.spatial_sigma"],
            crf or mode == "crf",
            "config.eval.crf.iterations above 0",
        ),
        (  # --mode=crf has values of its own for them
            ["eval.crf.bilateral_weight", "eval.crf.bilateral_sigma", "eval.crf.colour_sigma"],
            crf and mode != "crf",
            "config.eval.crf.iterations above 0, and another mode than crf",
        ),
        ([f"complexity.{name}" for name in config.complexity], mode == "complexity", "--mode=complexity"),
        (  # which has its rows' names, and channels and maps for all of them
            [f"model.context.{name}" for name in ("name", "channels", "levels")]
            + ["model.memory.name", "model.memory.channels"],
            mode != "complexity",
            "another mode than complexity, which has config.complexity.contexts and channels",
        ),
    )


def _takes_classes(context):
    try:
        return "num_classes" in defaults_of(find_module("model.context.name", context, CONTEXTS))
    except UserError:
        return True


def unread(config, mode: str = "train", chosen: Mapping[str, Set[str]] | None = None) -> dict[str, str]:
    """The fields that nothing reads, each with what would: {"model.context.dilations": "aspp, deeplabv3plus have it"}.

    Args:
        config: of a run; where it names a module that there is not, all fields of the section count as read.
        mode: of the command line.
        chosen: {section: names of the modules that are there}, without a section that the mode leaves out; default the config's.
    """
    found = {}
    for path, names in (_chosen(config) if chosen is None else chosen).items():
        chooser, _, modules = CHOSEN[path]
        section = config
        for key in path.split("."):
            section = section[key]
        try:
            chosen_modules = {name: find_module(f"{path}.{chooser}", name, modules) for name in names}
        except UserError:
            continue
        for field in section:
            if field != chooser and not any(
                _reads(module, field, {**section, chooser: name}) for name, module in chosen_modules.items()
            ):
                found[f"{path}.{field}"] = _readers(modules, chooser, field)
    for names, read, wanted in conditions(config, mode, found.keys()):
        found |= {} if read else dict.fromkeys(names, f"it wants {wanted}")
    return found


def effective(config) -> dict:
    """{'a.b': value} of all fields that a training of `config` reads: where a field is None, the default of the module that reads it.

    UserError if it names a module that there is not.
    """
    values, dropped = flatten_as_json(config), unread(config)
    modules = {path: find_module(path, values[f"{path}.{chooser}"], of) for path, (chooser, _, of) in CHOSEN.items()}
    for path, module in modules.items():
        for name, default in defaults_of(module).items():
            if values.get(f"{path}.{name}", ...) is None and default is not dataclasses.MISSING:
                values[f"{path}.{name}"] = list(default) if isinstance(default, tuple) else default
    for path, module in modules.items():
        if hasattr(class_of(module), "effective"):
            section = {
                name.removeprefix(f"{path}."): value for name, value in values.items() if name.startswith(f"{path}.")
            }
            values |= {f"{path}.{name}": value for name, value in class_of(module).effective(section).items()}
    return {name: value for name, value in values.items() if name not in dropped}


def maps_read(config) -> int:
    """How many of the backbone's maps the context reads where `levels` names none."""
    return getattr(class_of(find_module("model.context.name", config.model.context.name, CONTEXTS)), "READS", 1)


def message(field: str, why: str) -> str:
    """What is wrong with an override of `field`, of which `unread` says `why`."""
    return f"config.{field} is read by nothing here: {why}"


def when(module, field: str) -> list[dict]:
    """Each {other field: its values} under all of which a module reads `field`, and the others in turn; [{}]: always."""
    conditions = getattr(class_of(module), "READ_WHEN", {}).get(field, ())
    found = []
    for condition in conditions if isinstance(conditions, list) else [conditions]:
        ways = [dict(zip(condition[::2], condition[1::2], strict=True))]
        for other in condition[::2]:
            ways = [way | of_other for way in ways for of_other in when(module, other)]
        found += ways
    return found


def _chosen(config):
    """{section: the name of its module}."""
    return {path: {config.model[path.removeprefix("model.")][chooser]} for path, (chooser, _, _) in CHOSEN.items()}


def _reads(module, field, section):
    """Whether a module reads `field` when its section is so."""
    has = defaults_of(module)
    given = {name: has.get(name) if value is None else value for name, value in section.items()}
    return field in own_fields(module) and any(
        all(given[other] in values for other, values in way.items()) for way in when(module, field)
    )


def _readers(modules, chooser, field):
    """Which of `modules` have a field, and under which condition."""
    always, sometimes = [], []
    for name, module in modules.items():
        ways = [way for way in when(module, field) if name in way.pop(chooser, [name])]
        if field in own_fields(module) and ways:
            wanted = ", or with ".join(
                ", ".join(f"{other}={_values(values)}" for other, values in way.items()) for way in ways
            )
            (sometimes if wanted else always).append(f"{name} with {wanted}" if wanted else name)
    have = f"{', '.join(always or sometimes)} {'has' if len(always or sometimes) == 1 else 'have'} it"
    return ", and ".join([have, *sometimes]) if always else have


def _values(values):
    return f"{values[0]} or more" if isinstance(values, range) else " or ".join(map(str, values))
