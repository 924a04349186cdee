"""`--mode=pictures`: draws maps from inside the networks of one or several runs, on images of the evaluation split."""

import re

from ctxseg.commands.command_line import folders_of
from ctxseg.errors import UserError
from ctxseg.runs import workdir
from ctxseg.training import checks
from ctxseg.views import pictures


def run(values) -> None:
    checks.check_fields(values.config)
    folders = folders_of(values)
    runs = {folder: workdir.read_config(folder) for folder in folders}
    if len(folders) == 1:
        runs = {folders[0]: values.config}  # with the overrides
    for path in pictures.pictures(list(runs), list(runs.values()), _indices(values.images)):
        print(path)


def _indices(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"--images={text}: expected indices of images, such as 0,1,2")
    return tuple(map(int, text.split(",")))
