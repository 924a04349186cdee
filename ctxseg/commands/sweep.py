"""`--mode=sweep`: the rows of a table, or the grid of `--sweep` over a system's config."""

import os

from ml_collections import ConfigDict

from ctxseg import program
from ctxseg.commands.command_line import default_workdir, read_flags, value_of
from ctxseg.errors import UserError
from ctxseg.settings import config_file, declared
from ctxseg.studies import sweep, tables


def run(given) -> int:
    """`given` is what `command_line.read_sweep` gives. Returns 1 if runs failed.

    Raises:
        UserError: anything that cannot be right in a row.
    """
    values, path = given.values, given.path
    table = config_file.load(path, given.dataset, "get_table", "get_config")
    if isinstance(table, ConfigDict):
        table = sweep.grid(os.path.splitext(os.path.basename(path))[0], table.data.name, values.sweep)
    elif not isinstance(table, tables.Table):
        raise UserError(f"--config: {path}: get_table gives a {type(table).__name__}, but must give a Table")
    elif values.sweep:
        raise UserError(f"--sweep is of a system's config, and {path} is a table")
    tables.check(table)  # of which --row counts the rows
    if values.row is not None and not 0 <= values.row < len(table.rows):
        raise UserError(f"--row={values.row} cannot be: the rows are 0 to {len(table.rows) - 1}")

    manual_dir = value_of(given.overrides, "config.data.manual_dir")
    data_dir = value_of(given.overrides, "config.data.data_dir") or declared.DataFields.data_dir
    failed = sweep.sweep(
        table,
        values.workdir or default_workdir(table.name, table.dataset, manual_dir, data_dir, own_folder=False),
        given.overrides,
        lambda arguments: read_flags(["main.py", *arguments]).config,
        program.COMMAND,
        values.seeds,
        values.rows if values.row is None else str(values.row),
        values.jobs,
        values.dry_run,
    )
    return 1 if failed else 0
