"""Overrides of a config's fields, `--config.a.b=value`: their names, values and error messages."""

import ast
import re

from ctxseg.errors import UserError
from ctxseg.nearest import nearest
from ctxseg.settings import collect
from ctxseg.settings.fields import FREE, flatten, is_like

KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def overridden(argv):
    """The names of the fields that `argv` overrides."""
    matches = [re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in argv]
    return [match[1] for match in matches if match]


def check_names(argv, base):
    """UserError for the first override that names no field of the config `base`."""
    names, fields = field_flags(base), overridden(argv)
    for name in fields:
        if f"config.{name}" not in names:
            raise UserError(unknown(f"config.{name}", names))
    for name, default in flatten(base).items():
        if isinstance(default, tuple) and fields.count(name) > 1:  # which ml_collections joins
            raise UserError(f"--config.{name} is given twice; give all its values at once, such as A,B")


def field_flags(config):
    """The names of the flags of all fields, `config.a.b`."""
    return [f"config.{name}" for name in flatten(config)]


def unknown(name, names) -> str:
    """The message for a flag that is not among `names`."""
    inside = [n.removeprefix(f"{name}.").partition(".")[0] for n in names if n.startswith(f"{name}.")]
    if inside and "name" not in inside:
        return f"there is no --{name}: it is a section with the fields {', '.join(dict.fromkeys(inside))}"
    near = nearest(name, names)
    return f"there is no --{name}" + (f": did you mean --{near}?" if near else "")


def without_none(argv):
    """`argv` without its arguments `--config.a.b=None`, which absl cannot parse, and the names of those fields.

    `none` is the same for a text that can be off, such as config.model.pretrained.
    """
    matches = [re.fullmatch(r"--?config\.([^=]+)=(None|none)", argument) for argument in argv]
    reset = [m and (m[2] == "None" or collect.can_be_off(m[1]) is str) for m in matches]
    return [a for a, r in zip(argv, reset, strict=True) if not r], [
        m[1] for m, r in zip(matches, reset, strict=True) if m and r
    ]


def without_off(argument):
    """`argument`, with 0 or () for `none` where that turns the field off."""
    match = re.fullmatch(r"(--?config\.([^=]+))=none", argument)
    if not match or not collect.can_be_off(match[2]):
        return argument
    return f"{match[1]}={'()' if collect.can_be_off(match[2]) is tuple else 0}"


def set_none(config, name):
    """Resets a field to the default of its module. UserError if it belongs to no module."""
    if flatten(collect.get_config(collect.names_of(config)))[name] is not None:
        raise UserError(f"--config.{name}=None: only the field of a module can be reset to a default; give a value")
    *sections, last = name.split(".")
    for key in sections:
        config = config[key]
    config[last] = None


def quoted(argument, base):
    """`argument` with quotes around the words of a tuple: a=1,b=2 → ('a=1', 'b=2'). Without them, ml_collections does not split it."""
    match = re.fullmatch(r"(--?config\.([^=]+))=[(\[]?([^\s'\"()\[\]]+,[^\s'\"()\[\]]*)[)\]]?", argument)
    if not match:
        return argument
    *sections, name = match[2].split(".")
    for key in sections:
        base = base[key]
    try:
        ast.literal_eval(match[3])
    except (ValueError, SyntaxError):
        if base.get_type(name) is tuple:
            return f"{match[1]}={tuple(filter(None, match[3].split(',')))}"
    return argument


def bad_value(message, base):
    """The message for a value that absl cannot parse; for a config field, with the expected type."""
    field = re.match(r"flag --config\.([\w.]+)=", message)
    if not field:
        return message
    *sections, name = field[1].split(".")
    section = base
    for key in sections:
        section = section[key]
    argument = message.removeprefix("flag ").partition(": ")[0]
    expected = KINDS.get(section.get_type(name), f"a {section.get_type(name).__name__}")
    return f"{argument}: expected {expected}"


def check_tuples(config, before):
    """UserError for a tuple of the wrong length or with entries of the wrong type; `before` is the flat config without overrides."""
    values = flatten(config)
    for name, default in before.items():
        is_off = values[name] == () and collect.can_be_off(name)
        if isinstance(default, tuple) and default and not is_off and not is_like(values[name], default, name):
            raise UserError(f"config.{name} is {values[name]}; expected values like {default}")


def without_unread(config, unread):
    """A copy in which the fields `unread`, which nothing uses, have their defaults, except those that another mode may use."""
    config = config.copy_and_resolve_references()
    defaults = flatten(collect.get_config(collect.names_of(config)))
    config.update_from_flattened_dict({name: defaults[name] for name in unread if not name.startswith(FREE)})
    return config
