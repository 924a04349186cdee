"""`--mode=report`: writes the page of a run, or of several beside each other."""

import os

from etils import epath

from ctxseg.commands.command_line import base_config, folders_of
from ctxseg.errors import UserError
from ctxseg.runs import workdir
from ctxseg.settings import reading
from ctxseg.settings.fields import flatten
from ctxseg.training import checks
from ctxseg.views import report


def run(values) -> None:
    folders = folders_of(values)
    if values["config"].present and epath.Path(folders[0]).is_dir():
        checks.check_fields(values.config)
        workdir.check_same(os.path.join(folders[0], "config.json"), values.config)
    print(report.write_report(folders, usual))


def usual(folder) -> dict | None:
    """The config of a run without overrides, a nested dict, with what nothing reads as the run has it; None without its file."""
    try:
        run = workdir.read_config(folder)
        usual = base_config(["", f"--config={run.system}:{run.data.name}"]).copy_and_resolve_references()
    except UserError:
        return None
    given = flatten(run)
    usual.update_from_flattened_dict({name: given[name] for name in reading.unread(run)})
    return usual.to_dict()
