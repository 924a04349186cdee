"""Collects all fields of a config: from `declared.py`, and from the modules that a config can name.

A module's fields are the fields of its class: the annotation gives the bounds, and the docstring the meaning. Where several modules
share a section, the config has the fields of all of them, and None stands for the default of the chosen module.
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
from ctxseg.models import (
    BACKBONES,
    BOUND,
    CONNECTIONS,
    CONTEXTS,
    DETECTORS,
    MEMORIES,
    MERGES,
    MultiScale,
    Segmenter,
    find_module,
)
from ctxseg.models.auxiliary import AuxiliaryHeads
from ctxseg.models.pixels import PixelFormat
from ctxseg.settings import declared

# The sections in which a module is chosen: the field that chooses it, its default, and {name: module}.
CHOSEN: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "model.backbone": ("name", "tiny", BACKBONES),
    "model.context": ("name", "none", CONTEXTS),
    "model.connections": ("name", "none", CONNECTIONS),
    "model.detector": ("name", "none", DETECTORS),
    "model.memory": ("name", "none", MEMORIES),
    "model.scales": ("merge", "none", {merge: None if merge == "none" else MultiScale for merge in MERGES}),
}
# The sections that always have the same module.
FIXED: dict[str, Any] = {"model.pixels": PixelFormat, "model.auxiliary": AuxiliaryHeads, "model.classifier": Segmenter}


def get_config(names: Mapping[str, str] | None = None) -> ConfigDict:
    """A config of every field, with its default.

    Args:
        names: {section: name of its module}; modules from outside the package, `package.module:Class`, add their fields.

    Raises:
        UserError: a module from outside the package cannot be imported.
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
        for name, annotation in config_fields(module).items():
            section[name] = placeholder(kind(annotation)) if defaults[name] is None else defaults[name]
    config.eval.size = config.data.get_oneway_ref("base_size")  # unless set, the size of training
    add_outside(config, names or {})
    return config


def add_outside(config: ConfigDict, names: Mapping[str, str]) -> None:
    """Adds the fields of the modules from outside the package in `names` to `config`, see `get_config`."""
    for path, (chooser, _, modules) in CHOSEN.items():
        if ":" in (name := names.get(path) or ""):
            _add(_section(config, path), find_module(f"{path}.{chooser}", name, modules))


def names_of(config: Mapping) -> dict[str, str]:
    """{section: name of the module that `config` chooses}, of the sections that it has."""
    names = {}
    for path, (chooser, _, _) in CHOSEN.items():
        section: Any = config
        for key in path.split("."):
            section = section.get(key) if isinstance(section, Mapping | ConfigDict) else None
        name = section.get(chooser) if isinstance(section, Mapping | ConfigDict) else None
        if isinstance(name, str):
            names[path] = name
    return names


def config_fields(module) -> dict[str, Any]:
    """{field: annotation} of the fields that a config can set of a module: a class, a `partial` of one, or None for no module."""
    if module is None:
        return {}
    bound = BOUND | (module.keywords.keys() if isinstance(module, partial) else set())
    hints = _hints(class_of(module))
    names = [field.name for field in dataclasses.fields(class_of(module)) if field.name not in bound]
    return {name: hints[name] for name in names if kind(hints[name])}


def defaults_of(module) -> dict[str, Any]:
    """{field: default} of a module: a class, a `partial` of one, or None."""
    if module is None:
        return {}
    defaults = {field.name: field.default for field in dataclasses.fields(class_of(module))}
    return defaults | (module.keywords if isinstance(module, partial) else {})


def class_of(module):
    """The class of a module, which may be a `partial` of it."""
    return module.func if isinstance(module, partial) else module


def kind(annotation) -> type | None:
    """The type of a config field with this annotation: bool, int, float, str or tuple; None if no config can hold it."""
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
    """{field: meaning} in one line each, from the section `Attributes` of the docstrings of a class and of its base classes."""
    meanings: dict[str, str] = {}
    for base in cls.__mro__[::-1]:
        meanings |= _meanings_of(base.__doc__ or "")
    return meanings


def _meanings_of(docstring):
    _, _, text = inspect.cleandoc(docstring).partition("Attributes:\n")
    meanings: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", text.split("\n\n")[0]):
        names, _, meaning = entry.strip().partition(":")
        meanings |= dict.fromkeys(re.split(r",\s*", names), " ".join(meaning.split()))
    return meanings


def meaning(config, field: str) -> str:
    """The meaning of a field, such as "model.context.stages", for the module that `config` chooses; with "none: off" if it can be off."""
    text = _meaning(config, field)
    return f"{text.removesuffix('.')}; none: off." if can_be_off(field) and "none:" not in text else text


def _meaning(config, field):
    path, _, name = field.rpartition(".")
    if path in CHOSEN:
        chooser, _, modules = CHOSEN[path]
        if name == chooser:
            return f"{', '.join(modules)}, or package.module:Class" if chooser == "name" else ", ".join(modules)
        module = find_module(f"{path}.{chooser}", _section(config, path)[chooser], modules)
        return meanings(class_of(module)).get(name, "") if module is not None else ""
    return meanings(FIXED.get(path) or declared.SECTIONS[path]).get(name, "")


def can_be_off(field: str) -> type | None:
    """The type of a field that can be turned off by 0 or (), and by `none` on the command line; None for any other field."""
    path, _, name = field.rpartition(".")
    annotation = _hints(cls).get(name) if (cls := FIXED.get(path) or declared.SECTIONS.get(path)) else None
    return kind(annotation) if OFF in typing.get_args(annotation) else None


def _section(config, path):
    """The section at a path, created if it is missing."""
    for key in filter(None, path.split(".")):
        if key not in config:
            config[key] = ConfigDict()
        config = config[key]
    return config


def _add(section, module):
    """Adds the missing fields of a module to a section, without values."""
    for name, annotation in config_fields(module).items():
        if name not in section:
            section[name] = placeholder(kind(annotation))


@cache
def _hints(cls):
    return typing.get_type_hints(cls, include_extras=True)
