"""Config files: Python files with a function `get_config`, or for a sweep `get_table`."""

import inspect
import os
import runpy
from pathlib import Path

from ml_collections import ConfigDict

from ctxseg.errors import UserError, one_line
from ctxseg.nearest import nearest
from ctxseg.settings import collect
from ctxseg.settings.fields import flatten
from ctxseg.settings.overrides import field_flags, unknown

CONFIGS = Path(__file__).parents[1] / "configs"


def find(path: str) -> str:
    """Finds the Python file that `--config` names.

    Args:
        path: a path, or a config of the package: `zigzag`, `configs/zigzag.py` or `configs/tables/NAME.py`.

    Raises:
        UserError: there is no such file; the message suggests a similar name.
    """
    if os.path.isfile(path):
        return path
    files = [file for folder in (CONFIGS, CONFIGS / "tables") for file in sorted(folder.glob("[!_]*.py"))]
    names = {name: file for file in files for name in (file.stem, f"configs/{file.relative_to(CONFIGS)}")}
    if path in names:
        return str(names[path])
    near = nearest(Path(path).stem, [file.stem for file in files])
    hint = next((name for name, file in names.items() if file.stem == near and ("/" in name) == ("/" in path)), None)
    missing = f"{path} is not a file" if "/" in path or path.endswith(".py") else f"there is no config {path}"
    raise UserError(f"--config: {missing}" + (f": did you mean {hint}?" if hint else ""))


def load(path: str, dataset: str, *functions: str):
    """Calls the first of `functions` that the Python file defines, with `dataset` unless that is empty, and returns its result.

    Raises:
        UserError: the file defines none of them, or fails.
    """
    try:
        module = runpy.run_path(find(path))
        for function in functions:
            if function in module:
                if dataset and not inspect.signature(module[function]).parameters:
                    raise UserError(f"--config={path}:{dataset}: its {function}() takes no data set; omit :{dataset}")
                result = module[function](*[dataset] if dataset else [])
                if function == "get_config":
                    _check_fields(result, path)
                return result
    except UserError:
        raise
    except (Exception, SystemExit) as e:  # anything may go wrong in a user's file
        raise UserError(f"--config: {path}: {type(e).__name__}: {one_line(e)}") from e
    description = "a table, for --mode=sweep" if "get_table" in module else "not the config of a system"
    raise UserError(f"--config: {path} has no {functions[0]}: it is {description}")


def _check_fields(config, path):
    """UserError if the result of a get_config has fewer or more fields than the defaults."""
    remedy = "start from configs.defaults.get_config(), or from another config's"
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config: {path}: get_config returned a {type(config).__name__}, expected a ConfigDict: {remedy}"
        )
    defaults = collect.get_config(collect.names_of(config))
    names, expected = flatten(config), flatten(defaults)
    if missing := [name for name in expected if name not in names]:
        raise UserError(f"--config: {path}: get_config returned no config.{missing[0]}: {remedy}")
    if extra := [name for name in names if name not in expected]:
        raise UserError(f"--config: {path}: {unknown(f'config.{extra[0]}', field_flags(defaults))}")
