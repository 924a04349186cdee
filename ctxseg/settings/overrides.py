"""Overrides of a config's fields, as `--config.a.b=value` gives them: names, values, and what is wrong with them."""

import ast
import re

from ctxseg.errors import UserError
from ctxseg.nearest import nearest
from ctxseg.settings import collect
from ctxseg.settings.fields import FREE, flatten, is_like

KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def overridden(argv):
    """The names of the fields that `argv` overrides."""
    found = [re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in argv]
    return [override[1] for override in found if override]


def check_names(argv, base):
    """UserError for the first override that names no field of the config it changes."""
    names, given = field_flags(base), overridden(argv)
    for name in given:
        if f"config.{name}" not in names:
            raise UserError(unknown(f"config.{name}", names))
    for name, default in flatten(base).items():
        if isinstance(default, tuple) and given.count(name) > 1:  # which ml_collections joins
            raise UserError(f"--config.{name} is given twice: give all its values at once, as A,B")


def field_flags(config):
    return [f"config.{name}" for name in flatten(config)]


def unknown(name, names) -> str:
    inside = [n.removeprefix(f"{name}.").partition(".")[0] for n in names if n.startswith(f"{name}.")]
    if inside and "name" not in inside:
        return f"there is no --{name}: it is a section, of {', '.join(dict.fromkeys(inside))}"
    near = nearest(name, names)
    return f"there is no --{name}" + (f": did you mean --{near}?" if near else "")


def without_none(argv):
    """`argv` without its `--config.a.b=None`, which absl cannot parse, and the names of those fields."""
    found = [re.fullmatch(r"--?config\.([^=]+)=None", argument) for argument in argv]
    return [a for a, f in zip(argv, found, strict=True) if not f], [f[1] for f in found if f]


def without_off(argument):
    """`argument`; of `--config.a.b=none`, where 0 or () turns the field off, with that."""
    found = re.fullmatch(r"(--?config\.([^=]+))=none", argument)
    if not found or not collect.can_be_off(found[2]):
        return argument
    return f"{found[1]}={'()' if collect.can_be_off(found[2]) is tuple else 0}"


def set_none(config, name):
    """Gives a field back to the default of the module it belongs to. UserError if it is not such a field."""
    if flatten(collect.get_config(collect.names_of(config)))[name] is not None:
        raise UserError(f"--config.{name}=None: only a field of a module has a default to go back to; give a value")
    *sections, last = name.split(".")
    for key in sections:
        config = config[key]
    config[last] = None


def quoted(argument, base):
    """`argument` with quotes around the words of a tuple, without which ml_collections does not part them: a=1,b=2 → ('a=1', 'b=2')."""
    found = re.fullmatch(r"(--?config\.([^=]+))=[(\[]?([^\s'\"()\[\]]+,[^\s'\"()\[\]]*)[)\]]?", argument)
    if not found:
        return argument
    *sections, name = found[2].split(".")
    for key in sections:
        base = base[key]
    try:
        ast.literal_eval(found[3])
    except (ValueError, SyntaxError):
        if base.get_type(name) is tuple:
            return f"{found[1]}={tuple(filter(None, found[3].split(',')))}"
    return argument


def bad_value(message, base):
    """absl's message, and for a config field what it wants."""
    field = re.match(r"flag --config\.([\w.]+)=", message)
    if not field:
        return message
    *sections, name = field[1].split(".")
    section = base
    for key in sections:
        section = section[key]
    given = message.removeprefix("flag ").partition(": ")[0]
    return f"{given} cannot be: it wants {KINDS.get(section.get_type(name), 'a ' + section.get_type(name).__name__)}"


def check_tuples(config, before):
    """UserError for a tuple whose entries have become of another kind, or more or fewer than they can be; `before`: the flat config."""
    given = flatten(config)
    for name, default in before.items():
        if isinstance(default, tuple) and default and not is_like(given[name], default, name):
            raise UserError(f"config.{name} is {given[name]}, but must be like {default}")


def without_unread(config, unread):
    """A copy with the defaults of `unread`, the fields that nothing reads; but for what another mode may read of the run."""
    config = config.copy_and_resolve_references()
    default = flatten(collect.get_config(collect.names_of(config)))
    config.update_from_flattened_dict({name: default[name] for name in unread if not name.startswith(FREE)})
    return config
