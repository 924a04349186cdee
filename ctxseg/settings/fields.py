"""Properties of a config's fields other than their meaning."""

import typing
from typing import Any

from ctxseg.settings import declared

# Tuples of a fixed length: the meaning of an entry depends on its position. Other tuples may have any length.
FIXED = [
    f"{path}.{name}"
    for path, cls in declared.SECTIONS.items()
    for name, annotation in typing.get_type_hints(cls).items()
    if typing.get_origin(annotation) is tuple
]

# Fields that may change when a run is resumed: none of them affects the weights, but for rounding.
FREE = (
    "model.remat",
    "data.data_dir", "data.manual_dir", "data.threads",
    "train.loggers", "train.log_every", "train.eval_every", "train.checkpoint_every", "train.keep",
    "train.patience", "eval.", "complexity.", "lr.",
)  # fmt: skip


def is_like(given: tuple, default: tuple | None, field: str) -> bool:
    """Whether a tuple has entries of the same type as the field's default, and as many if its length is fixed."""
    if not default:
        return all(isinstance(value, str | int | float) for value in given)
    accepted = (int, float) if isinstance(default[0], float) else (type(default[0]),)
    return all(type(value) in accepted for value in given) and (field not in FIXED or len(given) == len(default))


def flatten(config, prefix: str = "") -> dict:
    """Nested mapping → {'a.b.c': value}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value}
    return flat


def flatten_as_json(config) -> dict:
    """`flatten`, with tuples as lists, as in JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flatten(config).items()}
