"""`--mode=report`: writes the page of a run, or one that compares several runs."""

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
    check_given_config(values, folders[0])
    print(report.write_report(folders, config_without_overrides))


def check_given_config(values, folder: str) -> None:
    """UserError: `--config` is given, and is not the config of the run in `folder`."""
    if values["config"].present and epath.Path(folder).is_dir():
        checks.check_fields(values.config)
        workdir.check_same(os.path.join(folder, "config.json"), values.config)


def config_without_overrides(folder) -> dict | None:
    """The config of a run without overrides, a nested dict; unread fields have the run's values. None if its file is missing."""
    try:
        run = workdir.read_config(folder)
        config = base_config(["", f"--config={run.system}:{run.data.name}"]).copy_and_resolve_references()
    except UserError:
        return None
    values = flatten(run)
    config.update_from_flattened_dict({name: values[name] for name in reading.unread(run)})
    return config.to_dict()
