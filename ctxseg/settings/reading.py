"""Which fields of a config are read. Overriding a field that nothing reads is an error; its value in a config file is dropped.

A module declares the fields that it reads: those of its dataclass. Its class attribute `READ_WHEN` lists the fields that it reads only
for some values of others: {field: (other, values)}, or (other, values, another, values) where all must hold, or a list of such tuples
where one is enough. `values` is a tuple, an open-ended `range`, or `bounds.NONZERO`. If a field's value may depend on another field, the
module's `effective` returns it. `conditions` covers the fields that belong to no module. All other fields are always read.
"""

import dataclasses
import re
from collections.abc import Mapping, Set

from ctxseg.bounds import NONZERO
from ctxseg.errors import UserError
from ctxseg.models import CONTEXTS, create_model, find_module
from ctxseg.settings.collect import CHOSEN, FIXED, class_of, config_fields, defaults_of
from ctxseg.settings.fields import flatten_as_json


def conditions(config, mode: str, chosen: Mapping[str, Set[str]]):
    """The conditions on fields outside modules: (fields, whether they are read, what they need). `chosen` as of `unread`."""
    optimizer, crf = config.optimizer, config.eval.crf.iterations > 0
    context, memory, merge = config.model.context.name, config.model.memory.name, config.model.scales.merge
    # Only a context that predicts scores has the number of classes as a field.
    scores = memory != "none" or _takes_classes(context)
    step, poly = optimizer.schedule == "step", optimizer.schedule == "poly"
    superpixels = mode == "prepare" or _reads_superpixels(config, chosen)
    heads, detector = bool(config.model.auxiliary.levels), config.model.detector.name != "none"
    used = set(re.split(r"[+*]", f"{config.loss.name}+{config.loss.auxiliary_name or ''}"))
    outside = any(":" in name for name in used)  # such a loss may have the fields as arguments
    losses = ("rpn_class", "rpn_box", "rpn_box_beta", "box_class", "box", "box_beta", "mask")
    return (
        (["model.frozen", "optimizer.head_steps"], bool(config.model.pretrained), "config.model.pretrained"),
        (
            ["optimizer.nesterov"],
            optimizer.momentum > 0 and optimizer.name != "adamw",
            "config.optimizer.momentum above 0, and config.optimizer.name other than adamw",
        ),
        (["optimizer.beta2", "optimizer.epsilon"], optimizer.name != "sgd", "config.optimizer.name=adamw"),
        (["optimizer.poly_power"], poly, "config.optimizer.schedule=poly"),
        (["optimizer.step_boundaries"], step, "config.optimizer.schedule=step"),
        (
            ["optimizer.step_factor"],
            step and bool(optimizer.step_boundaries),
            "config.optimizer.schedule=step and config.optimizer.step_boundaries",
        ),
        (["loss.auxiliary"], scores, "auxiliary scores: config.model.context.name=ocr, or a memory"),
        (
            ["loss.auxiliary_name"],
            scores or heads or merge != "none",
            "auxiliary scores: of ocr, of a memory, of config.model.auxiliary.levels or of several scales",
        ),
        *(
            ([f"loss.{field}"], outside or bool(used & names), f"config.loss.name with {' or '.join(sorted(names))}")
            for field, names in (
                ("class_weights", {"cross_entropy", "focal"}),
                ("smoothing", {"cross_entropy"}),
                ("focal_gamma", {"focal"}),
                ("ohem_threshold", {"ohem"}),
                ("ohem_least", {"ohem"}),
            )
        ),
        (
            ["loss.heads", *(f"model.auxiliary.{name}" for name in config.model.auxiliary if name != "levels")],
            heads,
            "config.model.auxiliary.levels",
        ),
        (
            ["model.classifier.hidden_kernel"],
            config.model.classifier.hidden > 0,
            "config.model.classifier.hidden above 0",
        ),
        # The classifier normalises only in its hidden convolution.
        (
            ["model.memory.consistency_norm"],
            config.loss.memory > 0 and config.model.classifier.hidden > 0,
            "config.loss.memory and config.model.classifier.hidden above 0",
        ),
        (
            ["model.downsample"],
            "downsampled" in config.model.context.levels
            if config.model.context.levels
            else memory != "none" or maps_read(config) <= 2,
            "a memory, or a context that reads one or two maps",
        ),
        (["data.rotate_share"], config.data.rotate > 0, "config.data.rotate above 0"),
        (["loss.memory"], memory != "none", "a memory: config.model.memory.name"),
        (["loss.scales"], merge != "none", "several scales: config.model.scales.merge"),
        (
            ["data.superpixels"],
            superpixels,
            "config.model.context.name=msci, or connections, with superpixels=True and without a grid",
        ),
        (
            ["eval.superpixels"],
            superpixels and tuple(config.eval.scales) != (1.0,),
            "super-pixels and config.eval.scales other than 1",
        ),
        (["eval.averages"], config.train.ema > 0, "config.train.ema"),
        (["eval.score"], bool(config.eval.size), "config.eval.size"),
        (["eval.stride"], bool(config.eval.window), "config.eval.window"),
        (
            ["eval.crf.spatial_weight", "eval.crf.spatial_sigma"],
            crf or mode == "crf",
            "config.eval.crf.iterations above 0",
        ),
        # --mode=crf searches these three.
        (
            ["eval.crf.bilateral_weight", "eval.crf.bilateral_sigma", "eval.crf.colour_sigma"],
            crf and mode != "crf",
            "config.eval.crf.iterations above 0 and a mode other than crf",
        ),
        (
            [*(f"loss.{name}" for name in losses), "data.max_objects", "data.max_side"],
            detector,
            "a detector: config.model.detector.name",
        ),
        ([f"complexity.{name}" for name in config.complexity], mode == "complexity", "--mode=complexity"),
        ([f"lr.{name}" for name in config.lr], mode == "lr", "--mode=lr"),
        # --mode=complexity sets the names of its rows, and the channels and maps of all rows.
        (
            [f"model.context.{name}" for name in ("name", "channels", "levels")]
            + ["model.memory.name", "model.memory.channels"],
            mode != "complexity",
            "a mode other than complexity, which uses config.complexity.contexts and channels instead",
        ),
    )


def _takes_classes(context):
    """Whether a context has the number of classes as a field; True if there is no such context."""
    try:
        return "num_classes" in defaults_of(find_module("model.context.name", context, CONTEXTS))
    except UserError:
        return True


def _reads_superpixels(config, chosen):
    """Whether one of the modules `chosen` reads super-pixels, as it says itself; True if they cannot be made."""
    model = config.model.to_dict()
    try:
        for path, names in chosen.items():
            section = path.removeprefix("model.")
            for name in names:
                module = {**model[section], CHOSEN[path][0]: name}
                if create_model({**model, section: module}, 2).most_superpixels.get(section) is not None:
                    return True
    except UserError:
        return True
    return False


def unread(config, mode: str = "train", chosen: Mapping[str, Set[str]] | None = None) -> dict[str, str]:
    """The fields that nothing reads, each with what it needs: {"model.context.dilations": "aspp or deeplabv3plus"}.

    Args:
        config: config of a run. If it names a module that does not exist, all fields of the section count as read.
        mode: value of `--mode`.
        chosen: {section: names of the modules in use}, without the sections that the mode does not use; default: the config's.
    """
    fields = {}
    chosen = _chosen(config) if chosen is None else chosen
    for path, names in chosen.items():
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
                fields[f"{path}.{field}"] = _readers(modules, chooser, field)
    for names, is_read, needs in conditions(config, mode, chosen):
        fields |= {} if is_read else dict.fromkeys(names, needs)
    if config.model.detector.name != "none":
        fields |= dict.fromkeys(_of_segmenters(config), "a segmenter: config.model.detector.name=none")
        for name in _of_neck(config):
            fields.pop(name, None)
    return fields


def _of_segmenters(config):
    """The fields that only segmenters read."""
    sections = ("auxiliary", "classifier", "connections", "memory", "scales")
    losses = [f"loss.{name}" for name in ("name", "auxiliary_name", "class_weights", "smoothing", "focal_gamma")]
    losses += [f"loss.{name}" for name in ("ohem_threshold", "ohem_least", "auxiliary", "heads", "memory", "scales")]
    of_data = [f"data.{name}" for name in ("mixture", "padding", "rotate", "rotate_share", "superpixels")]
    protocol = ("scales", "flip", "score", "shapes", "window", "stride", "superpixels", "crf_images")
    protocol = [f"eval.{name}" for name in protocol] + [f"eval.crf.{name}" for name in config.eval.crf]
    modules = [f"model.{section}.{name}" for section in sections for name in config.model[section]]
    modules.append("model.downsample")
    return [*losses, *of_data, *protocol, *modules]


def _of_neck(config):
    """The fields of the context that it always reads as the neck of a detector."""
    try:
        neck = find_module("model.context.name", config.model.context.name, CONTEXTS)
    except UserError:
        return []
    return [f"model.context.{field}" for field in getattr(class_of(neck), "READ_AS_NECK", ())]


def effective(config) -> dict:
    """{'a.b': value} of all fields that training reads. Where a field is None, the value is the default of the module that reads it.

    UserError if `config` names a module that does not exist.
    """
    values, dropped = flatten_as_json(config), unread(config)
    modules = {
        path: find_module(path, values[f"{path}.{chooser}"], choices) for path, (chooser, _, choices) in CHOSEN.items()
    }
    for path, module in modules.items():
        for name, default in defaults_of(module).items():
            if values.get(f"{path}.{name}", ...) is None and default is not dataclasses.MISSING:
                values[f"{path}.{name}"] = list(default) if isinstance(default, tuple) else default
    for path, module in (modules | FIXED).items():
        if hasattr(class_of(module), "effective"):
            section = {
                name.removeprefix(f"{path}."): value for name, value in values.items() if name.startswith(f"{path}.")
            }
            for name, value in class_of(module).effective(section).items():
                values[f"{path}.{name}"] = list(value) if isinstance(value, tuple) else value
    return {name: value for name, value in values.items() if name not in dropped}


def maps_read(config) -> int:
    """How many of the backbone's maps the context reads if `levels` is empty."""
    return getattr(class_of(find_module("model.context.name", config.model.context.name, CONTEXTS)), "READS", 1)


def message(field: str, needs: str) -> str:
    """The message for an override of a field that nothing reads; `needs` is its entry in `unread`."""
    return f"config.{field} is not used by this configuration; it needs {needs}"


def when(module, field: str) -> list[dict]:
    """The alternatives {other field: values} under which a module reads `field` and these other fields; [{}] if it always does."""
    conditions = getattr(class_of(module), "READ_WHEN", {}).get(field, ())
    alternatives = []
    for condition in conditions if isinstance(conditions, list) else [conditions]:
        expanded = [dict(zip(condition[::2], condition[1::2], strict=True))]
        for other in condition[::2]:
            expanded = [a | b for a in expanded for b in when(module, other)]
        alternatives += expanded
    return alternatives


def _chosen(config):
    """{section: {the name of its module}}."""
    return {path: {config.model[path.removeprefix("model.")][chooser]} for path, (chooser, _, _) in CHOSEN.items()}


def _reads(module, field, section):
    """Whether a module reads `field` when its section has the values `section`."""
    defaults = defaults_of(module)
    effective_values = {name: defaults.get(name) if value is None else value for name, value in section.items()}
    return field in config_fields(module) and any(
        all(effective_values[other] in values for other, values in alternative.items())
        for alternative in when(module, field)
    )


def _readers(modules, chooser, field):
    """The `modules` that read a field, and under which conditions: "rce, or zigzag with region_context=rce"."""
    always, sometimes = [], {}  # names, and {condition: names}
    for name, module in modules.items():
        alternatives = [a for a in when(module, field) if name in a.pop(chooser, [name])]
        if field in config_fields(module) and alternatives:
            condition = ", or with ".join(
                ", ".join(f"{other}={_values(values)}" for other, values in a.items()) for a in alternatives
            )
            (sometimes.setdefault(condition, []) if condition else always).append(name)
    parts = (_joined(always), *(f"{_joined(names)} with {condition}" for condition, names in sometimes.items()))
    return ", or ".join(filter(None, parts))


def _joined(names):
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _values(values):
    """The values of a condition, in words."""
    if values is NONZERO:
        return "an entry above 0"
    return f"{values[0]} or more" if isinstance(values, range) else " or ".join(map(str, values))
