"""Config files: Python files with a `get_config`, or for a sweep a `get_table`."""

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

CONFIGS = Path(__file__).parents[1] / "configs"  # of the package


def find(path: str) -> str:
    """The Python file that `--config` names: a path, or a config of the package, `zigzag`, `configs/zigzag.py` or `configs/tables/NAME.py`.

    UserError if there is none; it names one that is near.
    """
    if os.path.isfile(path):
        return path
    files = [file for folder in (CONFIGS, CONFIGS / "tables") for file in sorted(folder.glob("[!_]*.py"))]
    names = {form: file for file in files for form in (file.stem, f"configs/{file.relative_to(CONFIGS)}")}
    if path in names:
        return str(names[path])
    near = nearest(Path(path).stem, [file.stem for file in files])
    hint = next((form for form, file in names.items() if file.stem == near and ("/" in form) == ("/" in path)), None)
    missing = f"{path} is not a file" if "/" in path or path.endswith(".py") else f"there is no config {path}"
    raise UserError(f"--config: {missing}" + (f": did you mean {hint}?" if hint else ""))


def load(path: str, dataset: str, *functions: str):
    """What the first of `functions` that the Python file has gives for a data set, or for its own default. UserError if it has none."""
    try:
        module = runpy.run_path(find(path))
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
