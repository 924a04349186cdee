"""`--mode=predict`: labels the user's images, or finds the objects in them."""

from functools import partial

from ctxseg.commands.command_line import parse_checkpoint
from ctxseg.inference import predict
from ctxseg.tasks import task_of
from ctxseg.training import checks


def run(values) -> int:
    checks.check_fields(values.config)
    predictions = task_of(values.config).predictions
    checkpoint = parse_checkpoint(values.checkpoint)[1]
    failed = predict.predict(
        values.config,
        values.workdir,
        partial(predictions.create_prediction, values.config, values.workdir, checkpoint, values.probabilities),
        predictions.suffixes(values.probabilities),
        values.input,
        values.output,
        values.overwrite,
        checkpoint,
    )
    return 1 if failed else 0
