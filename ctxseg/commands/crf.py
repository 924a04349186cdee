"""`--mode=crf`: searches parameters of the CRF on a validation split."""

from ctxseg.commands.command_line import parse_checkpoint
from ctxseg.errors import UserError
from ctxseg.evaluation import semantic
from ctxseg.training import checks


def run(values) -> None:
    if values.config.model.detector.name != "none":
        raise UserError(f"--mode=crf refines labels of pixels; {values.config.system} is a detector, which has none")
    checks.check_fields(values.config)
    semantic.search_crf(values.config, values.workdir, parse_checkpoint(values.checkpoint)[1])
