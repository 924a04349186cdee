"""`--mode=sweep`: the rows of a table, or the grid of `--sweep` over a system's config."""

import os

from ml_collections import ConfigDict

from ctxseg import program
from ctxseg.commands.command_line import default_workdir, read_flags, value_of
from ctxseg.errors import UserError
from ctxseg.settings import config_file, declared
from ctxseg.studies import sweep, tables


def run(command) -> int:
    """Runs the result of `command_line.read_sweep`. Returns 1 if runs failed.

    Raises:
        UserError: an error in a row.
    """
    values, path = command.values, command.path
    table = config_file.load(path, command.dataset, "get_table", "get_config")
    if isinstance(table, ConfigDict):
        table = sweep.grid(os.path.splitext(os.path.basename(path))[0], table.data.name, values.sweep)
    elif not isinstance(table, tables.Table):
        raise UserError(f"--config: {path}: get_table returned a {type(table).__name__}, expected a Table")
    elif values.sweep:
        raise UserError(f"--sweep needs a system's config, but {path} is a table")
    tables.check(table)  # before its rows are counted
    if values.row is not None and not 0 <= values.row < len(table.rows):
        raise UserError(f"--row={values.row}: expected a row from 0 to {len(table.rows) - 1}")

    manual_dir = value_of(command.overrides, "config.data.manual_dir")
    data_dir = value_of(command.overrides, "config.data.data_dir") or declared.DataFields.data_dir
    failed = sweep.sweep(
        table,
        values.workdir or default_workdir(table.name, table.dataset, manual_dir, data_dir, find_folder=False),
        command.overrides,
        lambda arguments: read_flags(["main.py", *arguments]).config,
        program.COMMAND,
        values.seeds,
        values.rows if values.row is None else str(values.row),
        values.jobs,
        values.dry_run,
    )
    return 1 if failed else 0
