"""Looks up a name in a config: a built-in entry, or `package.module:Class` of any module that can be imported."""

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from ctxseg.errors import UserError, one_line


def find(field: str, name: str, choices: Mapping[str, Any]) -> Any:
    """The entry of `choices`, or the imported object if the name has a colon. Modules are also searched in the working directory.

    Args:
        field: name in the config, for the message.
        name: value of the field.
        choices: {name: object}.

    Raises:
        UserError: there is no such name, the module cannot be imported, or it lacks the name.
    """
    if name in choices:
        return choices[name]
    module, _, attribute = str(name).partition(":")
    if not attribute:
        raise UserError(f"config.{field} is {name!r}; expected one of {', '.join(map(str, choices))}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as e:  # a user's module may raise any exception
        raise UserError(f"config.{field} is {name!r}: {type(e).__name__}: {one_line(e)}") from e
