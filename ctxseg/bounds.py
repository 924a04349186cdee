"""The values that a field of a config may have: declared in its annotation, checked by `check`.

channels: Count = 512                           a whole number, at least 1
norm: Literal["batch", "none"] = "batch"        one of these
dilations: tuple[Count, ...] = (12, 24, 36)     one or more, all different
scales: Sequence[Factor] = (1.0,)               one or more, which may repeat
patch: tuple[Count, Count]                      exactly two
crop: Annotated[tuple[int, int], OFF]           exactly two, or ()
"""

import math
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from ctxseg.errors import UserError


class Bound(NamedTuple):
    """The limits of a number: minimum ≤ number ≤ maximum, above < number < below."""

    minimum: float = -math.inf
    maximum: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def in_words(self) -> str:
        """All limits: "at least 0, less than 1"."""
        limits = (
            ("at least", self.minimum),
            ("more than", self.above),
            ("at most", self.maximum),
            ("less than", self.below),
        )
        return ", ".join(f"{word} {limit:.15g}" for word, limit in limits if math.isfinite(limit))

    def violated(self, value: float) -> str | None:
        """The limit that a number violates, in words, or None. NaN violates all of them."""
        if math.isnan(value):
            return "a number"
        if value < self.minimum:
            return f"at least {self.minimum:g}"
        if value <= self.above:
            return f"more than {self.above:g}"
        if value > self.maximum:
            return f"at most {self.maximum:.15g}"
        if value >= self.below:
            return f"less than {self.below:.15g}" if math.isfinite(self.below) else "a finite number"
        return None


PLURALS = {int: "whole numbers", float: "numbers", str: "names", bool: "true or false values"}
# In the annotation of a field: 0 or () turns the field off, and so does `none` on the command line.
OFF = "off"

Count = Annotated[int, Bound(minimum=1)]
Whole = Annotated[int, Bound(minimum=0)]
Amount = Annotated[float, Bound(minimum=0, below=math.inf)]
Factor = Annotated[float, Bound(above=0, below=math.inf)]
Portion = Annotated[float, Bound(minimum=0, below=1)]


class _Nonzero:
    def __contains__(self, value: Sequence[int]) -> bool:
        return any(value)


# In a module's `READ_WHEN`, the values of a field that is a list: all lists with an entry other than 0.
NONZERO = _Nonzero()


def check(field: str, value: Any, annotation: Any) -> None:
    """Checks a value against the limits in its annotation.

    Args:
        field: name in the config, for the message.
        value: value of the field.
        annotation: annotation of the field.

    Raises:
        UserError: the value violates the annotation. The message names the field and the expected values.
    """
    origin, entries = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):  # `X | None`
        if value is not None:
            check(field, value, entries[0])
    elif origin is typing.Literal:
        if value not in entries:
            raise UserError(f"config.{field} is {value!r}; expected one of {', '.join(map(str, entries))}")
    elif origin is Annotated and OFF in entries and value == ():
        return
    elif origin is Annotated:
        check(field, value, entries[0])
        _check_number(field, value, entries)
    elif origin in (tuple, Sequence):
        _check_entries(field, value, origin, entries)


def check_fields(section: str, values: typing.Mapping[str, Any], cls: type) -> None:
    """Calls `check` for the fields of a dataclass that are in `values`, {name: value}; `section` is their section of the config."""
    for name, annotation in typing.get_type_hints(cls, include_extras=True).items():
        if name in values:
            check(f"{section}.{name}", values[name], annotation)


def _check_number(field, value, entries):
    for limit in entries[1:]:
        if isinstance(limit, Bound) and (expected := limit.violated(value)):
            raise UserError(f"config.{field} is {value}; expected {expected}")


def _check_entries(field, value, origin, entries):
    value, entry = tuple(value), entries[0]
    entry_type = typing.get_args(entry)[0] if typing.get_origin(entry) is Annotated else entry
    accepted = (int, float) if entry_type is float else (entry_type,)
    any_length = origin is Sequence or entries[-1] is Ellipsis
    distinct = origin is tuple and any_length
    wrong_length = not value if any_length else len(value) != len(entries)
    repeats = distinct and len(set(value)) < len(value)
    if wrong_length or repeats or any(type(v) not in accepted for v in value):
        count = f"one or more{' different' * distinct}" if any_length else str(len(entries))
        raise UserError(f"config.{field} is {value}; expected {count} {PLURALS[entry_type]}")
    for v in value:
        if typing.get_origin(entry) is Annotated:
            for limit in typing.get_args(entry)[1:]:
                if expected := limit.violated(v):
                    raise UserError(f"config.{field} is {value}; expected every entry to be {expected}")
