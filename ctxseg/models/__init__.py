"""Networks. `create_model` is the door; `segmenter.py` is what to read first."""

import dataclasses
import math
import typing
from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp

from ctxseg.choices import find
from ctxseg.errors import UserError
from ctxseg.models.auxiliary import AuxiliaryHeads
from ctxseg.models.backbones import BACKBONES
from ctxseg.models.context import CONTEXTS
from ctxseg.models.context.msci import MSCI
from ctxseg.models.layers import ConvNorm, Dropout, Norm
from ctxseg.models.memory import FeatureMemory
from ctxseg.models.scales import MultiScale
from ctxseg.models.segmenter import Segmenter, SegmenterOutput

__all__ = [
    "create_model",
    "Segmenter",
    "SegmenterOutput",
    "MultiScale",
    "BACKBONES",
    "CONTEXTS",
    "CONNECTIONS",
    "MEMORIES",
    "MERGES",
]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
CONNECTIONS = {"none": None, "msci": MSCI}
MEMORIES = {"none": None, "mcibi": FeatureMemory}
MERGES = ("none", "attention", "average", "max")


def create_model(config, num_classes: int, axis_name: str | None = None) -> Segmenter | MultiScale:
    """The segmenter that `config.model` describes (fields: `configs/defaults.py`).

    Args:
        config: a ConfigDict (or any mapping) with `backbone`, `connections`, `context`, `memory`, `auxiliary`, `classifier`, `scales`,
            `frozen` and `dtype`. A field that is None takes the module's own default; a field that the chosen module does not have is not
            read. A `name` may be `package.module:Class`, of a flax module that is called as those of its package are.
        num_classes: K, of the data set.
        axis_name: of the `pmap` axis that batch statistics are reduced over, or None for one device.

    Returns:
        A flax.linen module: `init(rng, images, regions=None, train=False)`, `apply(variables, images, regions=…, train=…)`.

    Raises:
        UserError: a name that no module has, or a value that the module refuses.
    """
    dtype = _choice("model.dtype", config["dtype"], DTYPES)
    frozen = tuple(config["frozen"])
    bound = {
        "conv": partial(ConvNorm, dtype=dtype, axis_name=axis_name, frozen=frozen),
        "normalisation": partial(Norm, dtype=dtype, axis_name=axis_name, frozen=frozen),
        "dropout_layer": partial(Dropout, axis_name=axis_name),
        "num_classes": num_classes,
        "dtype": dtype,
    }
    heads = config["auxiliary"]
    segmenter = Segmenter(
        backbone=_build("model.backbone", config["backbone"], BACKBONES, bound),
        context=_build("model.context", config["context"], CONTEXTS, bound),
        connections=_build("model.connections", config["connections"], CONNECTIONS, bound),
        memory=_build("model.memory", config["memory"], MEMORIES, bound),
        auxiliary=AuxiliaryHeads(**_fields("model.auxiliary", heads, AuxiliaryHeads, bound))
        if heads["levels"]
        else None,
        **_fields("model.classifier", config["classifier"], Segmenter, bound),
    )
    if _choice("model.scales.merge", config["scales"]["merge"], MERGES) == "none":
        return segmenter
    return MultiScale(segmenter, **_fields("model.scales", config["scales"], MultiScale, bound))


def _choice(field, name, choices):
    if name not in choices:
        raise UserError(f"config.{field} is {name!r}, but it can be {', '.join(map(str, choices))}")
    return choices[name] if isinstance(choices, dict) else name


def _check(field, value, kind):
    """Holds a field to its annotation: one of its `Literal`s, a number in its range, a tuple without repeats, a sequence."""
    origin, entries = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        _choice(field, value, entries)
    elif origin in (tuple, Sequence):
        of = entries[0]
        accepted = (int, float) if of is float else (of,)
        repeats = origin is tuple and len(set(value)) < len(value)
        if field.endswith(".patch") and len(value) != 2:
            raise UserError(f"config.{field} is {value}, but must be a height and a width")
        if not value or repeats or any(type(v) not in accepted for v in value):
            rule = ", none of them twice" if origin is tuple else ""
            raise UserError(f"config.{field} is {value}, but must be one or more {of.__name__}{rule}")
        for v in value:
            _check(field, v, of)
            if of is float and v <= 0:
                raise UserError(f"config.{field} is {value}, but must be more than 0")
    elif kind is int:
        least = 0 if field.endswith(".hidden") else 1
        if value < least:
            raise UserError(f"config.{field} is {value}, but must be at least {least}")
    elif kind is float and value == 0 and field.endswith(".temperature"):
        raise UserError(f"config.{field} is {value}, but must be more than 0")
    elif kind is float and not (0 <= value < (1 if field.endswith(".dropout") else math.inf)):
        below = " and less than 1" if field.endswith(".dropout") else ""
        raise UserError(f"config.{field} is {value}, but must be 0 or more{below}")


def _build(field, section, choices, bound):
    module = find(f"{field}.name", section["name"], choices)
    if module is None:
        return None
    cls = module.func if isinstance(module, partial) else module
    return module(**_fields(field, section, cls, bound))


def _fields(field, section, cls, bound):
    """What `section` and `bound` say of the fields of `cls`, checked."""
    known = {f.name for f in dataclasses.fields(cls)}
    given = {k: v for k, v in section.items() if k in known and k != "name" and v is not None}
    for name, kind in typing.get_type_hints(cls).items():
        if name in given:
            _check(f"{field}.{name}", given[name], kind)
    return given | {k: v for k, v in bound.items() if k in known}
