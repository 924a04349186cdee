"""Networks. `create_model` is the door; `segmenter.py` is what to read first."""

import dataclasses
import typing
from functools import partial

import jax.numpy as jnp

from ctxseg.errors import UserError
from ctxseg.models.backbones import BACKBONES
from ctxseg.models.context import CONTEXTS
from ctxseg.models.layers import ConvNorm, Norm
from ctxseg.models.segmenter import Segmenter, SegmenterOutput

__all__ = ["create_model", "Segmenter", "SegmenterOutput", "BACKBONES", "CONTEXTS"]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def create_model(config, num_classes: int, axis_name: str | None = None) -> Segmenter:
    """The segmenter that `config.model` describes (fields: `configs/defaults.py`).

    Args:
        config: a ConfigDict (or any mapping) with `backbone`, `context` and `dtype`. A field that is None takes the
            module's own default; a field that the chosen module does not have is not read.
        num_classes: K, of the data set.
        axis_name: of the `pmap` axis that batch statistics are reduced over, or None for one device.

    Returns:
        A flax.linen module: `init(rng, images, regions=None, train=False)`, `apply(variables, images, regions=…, train=…)`.

    Raises:
        UserError: a name that no module has, or a value that the module refuses.
    """
    dtype = _choice("model.dtype", config["dtype"], DTYPES)
    bound = {
        "conv": partial(ConvNorm, dtype=dtype, axis_name=axis_name),
        "normalisation": partial(Norm, dtype=dtype, axis_name=axis_name),
    }
    return Segmenter(
        backbone=_build("model.backbone", config["backbone"], BACKBONES, bound),
        context=_build("model.context", config["context"], CONTEXTS, bound),
        num_classes=num_classes,
        dtype=dtype,
    )


def _choice(field, name, choices):
    if name not in choices:
        raise UserError(f"config.{field} is {name!r}, but it can be {', '.join(map(str, choices))}")
    return choices[name] if isinstance(choices, dict) else name


def _check(field, value, kind):
    """Holds a field to its annotation: one of its `Literal`s, an int of at least 1, a tuple without repeats."""
    if typing.get_origin(kind) is typing.Literal:
        _choice(field, value, typing.get_args(kind))
    elif typing.get_origin(kind) is tuple:
        entry = typing.get_args(kind)[0]
        if not value or len(set(value)) < len(value) or any(type(v) is not entry for v in value):
            raise UserError(f"config.{field} is {value}, but must be one or more {entry.__name__}, none of them twice")
        for v in value:
            _check(field, v, entry)
    elif kind is int and value < 1:
        raise UserError(f"config.{field} is {value}, but must be at least 1")


def _build(field, section, choices, bound):
    module = _choice(f"{field}.name", section["name"], choices)
    cls = module.func if isinstance(module, partial) else module
    known = {f.name for f in dataclasses.fields(cls)}
    given = {k: v for k, v in section.items() if k in known and k != "name" and v is not None}
    for name, kind in typing.get_type_hints(cls).items():
        if name in given:
            _check(f"{field}.{name}", given[name], kind)
    return module(**given, **{k: v for k, v in bound.items() if k in known})
