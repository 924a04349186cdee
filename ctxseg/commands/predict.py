"""`--mode=predict`: labels the user's images."""

from ctxseg.commands.command_line import parse_checkpoint
from ctxseg.inference import predict
from ctxseg.training import checks


def run(values) -> int:
    checks.check_fields(values.config)
    failed = predict.predict(
        values.config,
        values.workdir,
        values.input,
        values.output,
        values.overwrite,
        values.probabilities,
        parse_checkpoint(values.checkpoint)[1],
    )
    return 1 if failed else 0
