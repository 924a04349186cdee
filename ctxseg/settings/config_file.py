"""Config files: Python files with a `get_config`, or for a sweep a `get_table`."""

import glob
import inspect
import os
import runpy

from ml_collections import ConfigDict

from ctxseg.errors import UserError, one_line
from ctxseg.nearest import nearest
from ctxseg.settings import collect
from ctxseg.settings.fields import flatten
from ctxseg.settings.overrides import field_flags, unknown


def check(path: str) -> None:
    """UserError if there is no such file; it names one that is near."""
    if not os.path.isfile(path):
        files = glob.glob("configs/[!_]*.py") + glob.glob("configs/tables/[!_]*.py")
        near = nearest(_stem(path), map(_stem, files))
        same = [file for file in files if _stem(file) == near]
        raise UserError(f"--config: {path} is not a file" + (f": did you mean {same[0]}?" if same else ""))


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def load(path: str, dataset: str, *functions: str):
    """What the first of `functions` that the Python file has gives for a data set, or for its own default. UserError if it has none."""
    try:
        module = runpy.run_path(path)
        for function in functions:
            if function in module:
                if dataset and not inspect.signature(module[function]).parameters:
                    raise UserError(f"--config={path}:{dataset} cannot be: its {function}() takes no data set")
                given = module[function](*[dataset] if dataset else [])
                if function == "get_config":
                    _check_whole(given, path)
                return given
    except UserError:
        raise
    except (Exception, SystemExit) as e:  # whatever is wrong in the file
        raise UserError(f"--config: {path}: {type(e).__name__}: {one_line(e)}") from e
    of = " a table, for --mode=sweep" if "get_table" in module else " not the config of a system"
    raise UserError(f"--config: {path} has no {functions[0]}: it is{of}")


def _check_whole(config, path):
    """UserError for what a get_config gives, if it has other sections or fields than the defaults."""
    right = "begin with configs.defaults.get_config(), or with another config's"
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config: {path}: get_config gives a {type(config).__name__}, but must give a ConfigDict: {right}"
        )
    known_config = collect.get_config(collect.names_of(config))
    names, known = flatten(config), flatten(known_config)
    if missing := [name for name in known if name not in names]:
        raise UserError(f"--config: {path}: get_config gives no config.{missing[0]}: {right}")
    if more := [name for name in names if name not in known]:
        raise UserError(f"--config: {path}: {unknown(f'config.{more[0]}', field_flags(known_config))}")
