"""`python -m ctxseg.settings.page > docs/fields.md`: every field of a config, with its default, its values and its meaning."""

import typing
from collections.abc import Mapping
from dataclasses import MISSING
from typing import Annotated, Any, Literal

from ctxseg.bounds import OFF, Bound
from ctxseg.settings import collect, declared

HEAD = """# Every field of a config

Made by `python -m ctxseg.settings.page > docs/fields.md`.

`--config.a.b=value` sets a field. `none` turns off what can be off. For a field of a module, `None` is the module's own default.
`python main.py --config=configs/SYSTEM.py --mode=show` lists the fields that a config reads, with their values; an override of a field
that nothing reads is an error. A `name` may be `package.module:Class`, a module of your own, whose fields then join the section.
"""


def page() -> str:
    """The page, in Markdown."""
    parts = [HEAD]
    for path, cls in declared.SECTIONS.items():
        parts.append(_table(path, declared.annotations(path), vars(cls), collect.meanings(cls)))
        if path == "model":
            for section, (chooser, default, modules) in collect.CHOSEN.items():
                parts.append(
                    f"## config.{section}\n\n`{chooser}` = `{default}`: {', '.join(f'`{m}`' for m in modules)}\n"
                )
                parts += [
                    _module(cls, modules)
                    for cls in dict.fromkeys(map(collect.class_of, filter(None, modules.values())))
                ]
            for section, cls in collect.FIXED.items():
                parts.append(_table(section, collect.own_fields(cls), collect.defaults_of(cls), collect.meanings(cls)))
    return "\n".join(parts)


def _module(cls, modules):
    """The fields of a class, and under which names a config chooses it."""
    names = [f"`{name}`" for name, module in modules.items() if module and collect.class_of(module) is cls]
    (first, *_) = (module for module in modules.values() if module and collect.class_of(module) is cls)
    rows = _rows(collect.own_fields(first), collect.defaults_of(cls), collect.meanings(cls))
    return f"### {', '.join(names)}\n\n{rows}" if rows else ""


def _table(path, annotations, defaults, meanings):
    title = f"config.{path}" if path else "config"
    return f"## {title}\n\n{_rows(annotations, defaults, meanings)}"


def _rows(annotations: Mapping[str, Any], defaults: Mapping[str, Any], meanings: Mapping[str, str]) -> str:
    """A table of fields."""
    if not annotations:
        return ""
    lines = ["| field | default | values | meaning |", "|---|---|---|---|"]
    for name, annotation in annotations.items():
        default = defaults.get(name, MISSING)
        off = OFF in typing.get_args(annotation) and not default
        shown = "none" if off else "" if default in (MISSING, None, "") else _plain(default)
        cells = (f"`{name}`", shown and f"`{shown}`", _values(annotation), meanings.get(name, ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _plain(value):
    return (
        ",".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _values(annotation) -> str:
    """What values an annotation allows, in words."""
    origin, entries = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{entry}`" for entry in entries)
    if origin is Annotated:
        limits = [limit.in_words() for limit in entries[1:] if isinstance(limit, Bound)]
        off = ["or none"] if OFF in entries else []
        return ", ".join(filter(None, [_values(entries[0]), *limits, *off]))
    if origin is tuple and Ellipsis not in entries:
        return f"{len(entries)} × {_values(entries[0])}"
    if origin is not None and entries:
        return _values(entries[0]) if collect.kind(annotation) is not tuple else f"list of {_values(entries[0])}"
    return {int: "whole number", float: "number", bool: "true or false", str: "text", tuple: "list"}.get(annotation, "")


if __name__ == "__main__":
    print(page(), end="")
