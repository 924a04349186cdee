"""Networks. The entry point is `create_model`; read `segmenter.py` first, or `detectors/mask_rcnn.py`."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, get_args

import jax.numpy as jnp

from ctxseg.bounds import check_fields
from ctxseg.choices import find
from ctxseg.errors import UserError
from ctxseg.models import recomputing
from ctxseg.models.auxiliary import AuxiliaryHeads
from ctxseg.models.backbones import BACKBONES
from ctxseg.models.context import CONTEXTS
from ctxseg.models.context.msci import MSCI
from ctxseg.models.detectors.fcis import FCIS
from ctxseg.models.detectors.mask_rcnn import MaskRCNN
from ctxseg.models.detectors.outputs import Detections, DetectorOutput
from ctxseg.models.layers import ConvNorm, Dropout, Norm
from ctxseg.models.memory import FeatureMemory
from ctxseg.models.pixels import PixelFormat
from ctxseg.models.scales import MultiScale
from ctxseg.models.segmenter import Segmenter, SegmenterOutput

__all__ = [
    "create_model",
    "find_module",
    "Segmenter",
    "SegmenterOutput",
    "MultiScale",
    "MaskRCNN",
    "FCIS",
    "DetectorOutput",
    "Detections",
    "BACKBONES",
    "CONTEXTS",
    "CONNECTIONS",
    "MEMORIES",
    "DETECTORS",
    "MERGES",
]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
# The stages of MSCI in a single phase, so there are no states to keep between phases.
CONNECTIONS = {"none": None, "msci": partial(MSCI, phases="one", reset_states=False)}
MEMORIES = {"none": None, "mcibi": FeatureMemory}
DETECTORS = {"none": None, "mask_rcnn": MaskRCNN, "fcis": FCIS}
MERGES = ("none", "attention", "average", "max")
# The fields of modules that `create_model` sets, not the config.
BOUND = {
    "conv",
    "normalisation",
    "dropout_layer",
    "num_classes",
    "dtype",
    "axis_name",
    "remat",
    "downsample",
    "parent",
    "name",
}


def create_model(config, num_classes: int, axis_name: str | None = None):
    """Creates the network of `config.model` (fields: `docs/fields.md`): a detector if `detector` names one, else a segmenter.

    Args:
        config: a ConfigDict (or any mapping) with `pixels`, `backbone`, `connections`, `context`, `detector`, `memory`, `auxiliary`,
            `classifier`, `scales`, `frozen`, `remat`, `downsample` and `dtype`. A field that is None has the module's default. Fields that
            the chosen module does not have are ignored. A `name` may be `package.module:Class`, a flax module with the same call signature
            as the built-in ones.
        num_classes: K, the number of classes of the data set, without a background.
        axis_name: name of the `pmap` axis over which batch statistics are averaged, or None for one device.

    Returns:
        A flax.linen module. A segmenter, a `Segmenter` or `MultiScale`: `init(rng, images, regions=None, train=False)`,
        `apply(variables, images, regions=…, train=…)`. A detector: `init(rng, images)`, `apply(variables, images, sizes, objects, train)`,
        see `MaskRCNN.__call__`.

    Raises:
        UserError: an unknown name, a value that the module rejects, or a detector whose context is no neck.
    """
    if config["detector"]["name"] != "none":
        return _create_detector(config, num_classes, axis_name)
    bound = _bound(config, num_classes, axis_name)
    heads = config["auxiliary"]
    segmenter = Segmenter(
        backbone=_build("model.backbone", config["backbone"], BACKBONES, bound),
        context=_build("model.context", config["context"], CONTEXTS, bound),
        connections=_build("model.connections", config["connections"], CONNECTIONS, bound),
        memory=_build("model.memory", config["memory"], MEMORIES, bound),
        auxiliary=AuxiliaryHeads(**_fields("model.auxiliary", heads, AuxiliaryHeads, bound))
        if heads["levels"]
        else None,
        pixels=PixelFormat(**_fields("model.pixels", config["pixels"], PixelFormat, {})),
        downsample=config["downsample"],
        **_fields("model.classifier", config["classifier"], Segmenter, bound),
    )
    if _choice("model.scales.merge", config["scales"]["merge"], MERGES) == "none":
        return segmenter
    return MultiScale(segmenter, **_fields("model.scales", config["scales"], MultiScale, bound))


def _create_detector(config, num_classes, axis_name):
    """The detector `config.model.detector`, whose neck is `config.model.context`."""
    bound = _bound(config, num_classes, axis_name)
    neck = _build("model.context", config["context"], CONTEXTS, bound)
    if not hasattr(neck, "pyramid"):
        necks = [context for context, module in CONTEXTS.items() if hasattr(_class(module), "pyramid")]
        raise UserError(
            f"config.model.context.name is {config['context']['name']!r}, which returns one map; a detector needs the maps of several "
            f"levels: {', '.join(necks)}"
        )
    parts = {
        "backbone": _build("model.backbone", config["backbone"], BACKBONES, bound),
        "neck": neck,
        "pixels": PixelFormat(**_fields("model.pixels", config["pixels"], PixelFormat, {})),
    }
    return _build("model.detector", config["detector"], DETECTORS, bound | parts)


def _bound(config, num_classes, axis_name):
    """The values of the fields in `BOUND`."""
    dtype = _choice("model.dtype", config["dtype"], DTYPES)
    frozen = tuple(config["frozen"])
    return {
        "conv": partial(ConvNorm, dtype=dtype, axis_name=axis_name, frozen=frozen),
        "normalisation": partial(Norm, dtype=dtype, axis_name=axis_name, frozen=frozen),
        "dropout_layer": partial(Dropout, axis_name=axis_name),
        "num_classes": num_classes,
        "dtype": dtype,
        "axis_name": axis_name,
        "remat": _choice("model.remat", config["remat"], get_args(recomputing.Remat)),
    }


def _class(module):
    return module.func if isinstance(module, partial) else module


def _choice(field, name, choices):
    if name not in choices:
        raise UserError(f"config.{field} is {name!r}; expected one of {', '.join(map(str, choices))}")
    return choices[name] if isinstance(choices, dict) else name


def find_module(field: str, name: str, choices: Mapping[str, Any]) -> Any:
    """The module with this name: a flax class, a `partial` of one, or None if the name leaves the stage out.

    Raises:
        UserError: the name is unknown (see `choices.find`), or the object is not a flax module.
    """
    module = find(field, name, choices)
    if module is not None and not dataclasses.is_dataclass(_class(module)):
        raise UserError(f"config.{field} is {name!r}, which is not a flax module")
    return module


def _build(field, section, choices, bound):
    module = find_module(f"{field}.name", section["name"], choices)
    if module is None:
        return None
    return module(**_fields(field, section, _class(module), bound))


def _fields(field, section, cls, bound):
    """{field of `cls`: value}: the values in `section`, which are checked, and those in `bound`."""
    names = {f.name for f in dataclasses.fields(cls)}
    given = {k: v for k, v in section.items() if k in names and k != "name" and v is not None}
    check_fields(field, given, cls)
    return given | {k: v for k, v in bound.items() if k in names}
