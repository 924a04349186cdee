"""`--mode=failures`: writes a page on where a run fails."""

from ctxseg.commands.command_line import folders_of
from ctxseg.commands.report import check_given_config
from ctxseg.errors import UserError
from ctxseg.views import failures


def run(values) -> None:
    folder, *others = folders_of(values)
    if others:
        raise UserError(
            f"--workdir={values.workdir}: expected one folder, since --mode=failures shows one run at a time"
        )
    check_given_config(values, folder)
    print(failures.write_failures(folder))
