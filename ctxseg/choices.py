"""What the name in a config stands for: something of ours, or `package.module:Class` of anybody's."""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from ctxseg.errors import UserError, one_line


def find(field: str, name: str, choices: Mapping[str, Any]) -> Any:
    """An entry of `choices`, or what a name with a colon names, imported; modules are looked for in the working directory too.

    Args:
        field: of the config, for the message.
        name: its value.
        choices: {name: what it stands for}.

    Raises:
        UserError: no such name, or a module that cannot be imported or does not have it.
    """
    if name in choices:
        return choices[name]
    module, _, attribute = str(name).partition(":")
    if not attribute:
        raise UserError(f"config.{field} is {name!r}, but it can be {', '.join(map(str, choices))}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as e:  # whatever is wrong in somebody's module
        raise UserError(f"config.{field} is {name!r}: {type(e).__name__}: {one_line(e)}") from e
