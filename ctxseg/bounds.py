"""What values a field of a config may have: said in its annotation, and held to it by `check`.

channels: Count = 512                           a whole number, at least 1
norm: Literal["batch", "none"] = "batch"        one of these
dilations: tuple[Count, ...] = (12, 24, 36)     one or more, none of them twice; a `Sequence` may repeat
patch: tuple[Count, Count]                      two, and no more
"""

import math
import typing
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from ctxseg.errors import UserError


class Bound(NamedTuple):
    """The limits of a number: at least, at most, more than, less than."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def in_words(self) -> str:
        """All of its limits: "at least 0, less than 1"."""
        limits = (
            ("at least", self.least),
            ("more than", self.above),
            ("at most", self.most),
            ("less than", self.below),
        )
        return ", ".join(f"{word} {limit:.15g}" for word, limit in limits if math.isfinite(limit))

    def broken(self, value: float) -> str | None:
        """The limit that a number does not keep, in words, or None. NaN keeps none."""
        if math.isnan(value):
            return "a number"
        if value < self.least:
            return f"at least {self.least:g}"
        if value <= self.above:
            return f"more than {self.above:g}"
        if value > self.most:
            return f"at most {self.most:.15g}"
        if value >= self.below:
            return f"less than {self.below:.15g}"
        return None


# In the annotation of a field that 0, or (), turns off: `none` on the command line.
OFF = "off"

Count = Annotated[int, Bound(least=1)]
Whole = Annotated[int, Bound(least=0)]
Amount = Annotated[float, Bound(least=0, below=math.inf)]
Factor = Annotated[float, Bound(above=0, below=math.inf)]
Portion = Annotated[float, Bound(least=0, below=1)]  # less than all


def check(field: str, value: Any, kind: Any) -> None:
    """Holds a value to an annotation, as far as that says anything.

    Args:
        field: of the config, for the message.
        value: of the field.
        kind: its annotation.

    Raises:
        UserError: in one line, which names the field and what would be right.
    """
    origin, entries = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value not in entries:
            raise UserError(f"config.{field} is {value!r}, but it can be {', '.join(map(str, entries))}")
    elif origin is Annotated:
        check(field, value, entries[0])
        _check_number(field, value, entries)
    elif origin in (tuple, Sequence):
        _check_entries(field, value, origin, entries)


def check_fields(section: str, values: typing.Mapping[str, Any], cls: type) -> None:
    """`check` of the fields of a dataclass that are in `values`, {name: value}; `section` is that of the config."""
    for name, kind in typing.get_type_hints(cls, include_extras=True).items():
        if name in values:
            check(f"{section}.{name}", values[name], kind)


def _check_number(field, value, entries):
    for limit in entries[1:]:
        if isinstance(limit, Bound) and (wanted := limit.broken(value)):
            raise UserError(f"config.{field} is {value}, but must be {wanted}")


def _check_entries(field, value, origin, entries):
    value, of = tuple(value), entries[0]
    plain = typing.get_args(of)[0] if typing.get_origin(of) is Annotated else of
    accepted = (int, float) if plain is float else (plain,)
    any_number = origin is Sequence or entries[-1] is Ellipsis
    repeats = origin is tuple and any_number and len(set(value)) < len(value)
    count = "one or more" if any_number else str(len(entries))
    short = not value if any_number else len(value) != len(entries)
    if short or repeats or any(type(v) not in accepted for v in value):
        rule = ", none of them twice" if origin is tuple and any_number else ""
        raise UserError(f"config.{field} is {value}, but must be {count} {plain.__name__}{rule}")
    for v in value:
        if typing.get_origin(of) is Annotated:
            for limit in typing.get_args(of)[1:]:
                if wanted := limit.broken(v):
                    raise UserError(f"config.{field} is {value}, but every entry must be {wanted}")
