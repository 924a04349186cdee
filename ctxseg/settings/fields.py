"""What the fields of a config are, apart from what they mean."""

import typing
from typing import Any

from ctxseg.settings import declared

# Tuples whose entries have a meaning by their place; others may become longer or shorter.
FIXED = [
    f"{path}.{name}"
    for path, cls in declared.SECTIONS.items()
    for name, annotation in typing.get_type_hints(cls).items()
    if typing.get_origin(annotation) is tuple
]

# Fields that may change between a run and its continuation: none of them touches what is learned.
FREE = (
    "data.data_dir", "data.manual_dir", "data.threads",
    "train.loggers", "train.log_every", "train.eval_every", "train.checkpoint_every", "train.keep",
    "eval.", "complexity.",
)  # fmt: skip


def is_like(given: tuple, default: tuple | None, field: str) -> bool:
    """Whether a tuple has entries of the kind that the field's default has, and as many where their place says what they are."""
    if not default:
        return all(isinstance(value, str | int | float) for value in given)
    kinds = (int, float) if isinstance(default[0], float) else (type(default[0]),)
    return all(type(value) in kinds for value in given) and (field not in FIXED or len(given) == len(default))


def flatten(config, prefix: str = "") -> dict:
    """Nested mapping → {'a.b.c': value}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value}
    return flat


def flatten_as_json(config) -> dict:
    """`flatten`, with tuples as lists, as JSON has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in flatten(config).items()}
