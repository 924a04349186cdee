"""The config with all of its fields, collected: from `declared.py`, and from the modules that a config can name.

A field of a module is a field of its class, with its bounds as annotation, its default, and its meaning in the docstring. Where
several modules share a section, the config has the fields of all of them, and None stands for the default of the one that is chosen.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from functools import cache, partial
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ctxseg.bounds import OFF
from ctxseg.models import BACKBONES, BOUND, CONNECTIONS, CONTEXTS, MEMORIES, MERGES, MultiScale, Segmenter, find_module
from ctxseg.models.auxiliary import AuxiliaryHeads
from ctxseg.settings import declared

# The sections of which a module is chosen: the field that chooses, its default, and the modules.
CHOSEN: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "model.backbone": ("name", "tiny", BACKBONES),
    "model.context": ("name", "none", CONTEXTS),
    "model.connections": ("name", "none", CONNECTIONS),
    "model.memory": ("name", "none", MEMORIES),
    "model.scales": ("merge", "none", {merge: None if merge == "none" else MultiScale for merge in MERGES}),
}
# The sections of one module, which is always the same.
FIXED: dict[str, Any] = {"model.auxiliary": AuxiliaryHeads, "model.classifier": Segmenter}


def get_config(names: Mapping[str, str] | None = None) -> ConfigDict:
    """Every field that exists, with its default.

    Args:
        names: {section: name of its module}; modules from outside of the package, `package.module:Class`, add their fields.

    Raises:
        UserError: a module from outside cannot be imported.
    """
    config = ConfigDict()
    for path, cls in declared.SECTIONS.items():
        section = _section(config, path)
        for field in dataclasses.fields(cls):
            section[field.name] = placeholder(str) if field.default is None else field.default
    for path, (chooser, default, modules) in CHOSEN.items():
        section = _section(config, path)
        section[chooser] = default
        for module in modules.values():
            _add(section, module)
    for path, module in FIXED.items():
        section, defaults = _section(config, path), defaults_of(module)
        for name in own_fields(module):
            section[name] = defaults[name]
    config.eval.size = config.data.get_oneway_ref("base_size")  # unless it is given, as in training
    add_outside(config, names or {})
    return config


def add_outside(config: ConfigDict, names: Mapping[str, str]) -> None:
    """Gives `config` the fields of the modules from outside that `names` has, see `get_config`."""
    for path, (chooser, _, modules) in CHOSEN.items():
        if ":" in (name := names.get(path) or ""):
            _add(_section(config, path), find_module(f"{path}.{chooser}", name, modules))


def names_of(config: Mapping) -> dict[str, str]:
    """{section: name of the module that `config` chooses}, as far as it has the sections."""
    found = {}
    for path, (chooser, _, _) in CHOSEN.items():
        section: Any = config
        for key in path.split("."):
            section = section.get(key) if isinstance(section, Mapping | ConfigDict) else None
        name = section.get(chooser) if isinstance(section, Mapping | ConfigDict) else None
        if isinstance(name, str):
            found[path] = name
    return found


def own_fields(module) -> dict[str, Any]:
    """{field: annotation} of what a config can set of a module: a class, a `partial` of one, or None, which leaves a stage out."""
    if module is None:
        return {}
    given = BOUND | (module.keywords.keys() if isinstance(module, partial) else set())
    hints = _hints(class_of(module))
    names = [field.name for field in dataclasses.fields(class_of(module)) if field.name not in given]
    return {name: hints[name] for name in names if kind(hints[name])}


def defaults_of(module) -> dict[str, Any]:
    """{field: default} of a module's class, or a `partial` of it."""
    if module is None:
        return {}
    found = {field.name: field.default for field in dataclasses.fields(class_of(module))}
    return found | (module.keywords if isinstance(module, partial) else {})


def class_of(module):
    """The class of which a module may be a `partial`."""
    return module.func if isinstance(module, partial) else module


def kind(annotation) -> type | None:
    """The type of a config field of this annotation: bool, int, float, str or tuple; None of what no config can hold."""
    origin, entries = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return kind(entries[0])
    if origin is Literal:
        return type(entries[0])
    if origin in (typing.Union, types.UnionType):
        return kind(entries[0])
    if origin is not None:
        return tuple if issubclass(origin, typing.Sequence) else None
    return annotation if annotation in (bool, int, float, str, tuple) else None


@cache
def meanings(cls: type) -> dict[str, str]:
    """{field: what it means} by the section `Attributes` of a class's docstring, one line each."""
    _, _, text = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", text.split("\n\n")[0]):
        names, _, meaning = entry.strip().partition(":")
        found |= dict.fromkeys(re.split(r",\s*", names), " ".join(meaning.split()))
    return found


def meaning(config, field: str) -> str:
    """What a field means, "model.context.stages" say, to the module that `config` chooses."""
    path, _, name = field.rpartition(".")
    if path in CHOSEN:
        chooser, _, modules = CHOSEN[path]
        if name == chooser:
            return f"{', '.join(modules)}, or package.module:Class" if chooser == "name" else ", ".join(modules)
        module = find_module(f"{path}.{chooser}", _section(config, path)[chooser], modules)
        return meanings(class_of(module)).get(name, "") if module is not None else ""
    return meanings(FIXED.get(path) or declared.SECTIONS[path]).get(name, "")


def can_be_off(field: str) -> type | None:
    """The type of a field, "optimizer.clip_norm" say, that 0 or () turns off, and `none` on the command line; None of another field."""
    path, _, name = field.rpartition(".")
    annotation = _hints(cls).get(name) if (cls := FIXED.get(path) or declared.SECTIONS.get(path)) else None
    return kind(annotation) if OFF in typing.get_args(annotation) else None


def _section(config, path):
    """The section of a path, made where it is not there."""
    for key in filter(None, path.split(".")):
        if key not in config:
            config[key] = ConfigDict()
        config = config[key]
    return config


def _add(section, module):
    """Gives a section the fields of a module that it does not have yet, without values."""
    for name, annotation in own_fields(module).items():
        if name not in section:
            section[name] = placeholder(kind(annotation))


@cache
def _hints(cls):
    return typing.get_type_hints(cls, include_extras=True)
