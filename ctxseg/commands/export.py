"""`--mode=export`: exports a run as an archive that does not need ctxseg."""

from ctxseg.commands.command_line import parse_checkpoint
from ctxseg.inference import export
from ctxseg.training import checks


def run(values) -> None:
    checks.check_fields(values.config)
    checkpoint = parse_checkpoint(values.checkpoint)[1]
    print(export.export(values.config, values.workdir, values.output, values.overwrite, checkpoint))
