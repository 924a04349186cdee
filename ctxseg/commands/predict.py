"""`--mode=predict`: labels the user's images, or finds the objects in them."""

from functools import partial

from ctxseg.commands.command_line import parse_checkpoint
from ctxseg.inference import predict
from ctxseg.tasks import task_of
from ctxseg.training import checks


def run(values) -> int:
    checks.check_fields(values.config)
    task = task_of(values.config)
    checkpoint = parse_checkpoint(values.checkpoint)[1]
    failed = predict.predict(
        values.config,
        values.workdir,
        partial(task.create_prediction, values.config, values.workdir, checkpoint, values.probabilities),
        task.prediction_suffixes(values.probabilities),
        values.input,
        values.output,
        values.overwrite,
        checkpoint,
    )
    return 1 if failed else 0
