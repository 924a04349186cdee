"""`--mode=predict`: labels the user's images, or finds the objects in them; or labels a test split for its server."""

import os
from functools import partial

from etils import epath

from ctxseg.commands.command_line import parse_checkpoint
from ctxseg.evaluation import splits
from ctxseg.inference import predict, submission
from ctxseg.tasks import task_of
from ctxseg.training import checks


def run(values) -> int:
    checks.check_fields(values.config)
    return (_label_for_a_server if values.format else _predict)(values)


def _predict(values):
    """Files beside each other for every image, as the task writes them."""
    task, checkpoint = task_of(values.config), parse_checkpoint(values.checkpoint)[1]
    output = epath.Path(values.output or os.path.join(values.workdir, "predictions"))
    create = partial(task.create_prediction, values.config, values.workdir, checkpoint, values.probabilities)
    inputs = predict.find(values.input, output, values.config.eval.max_pixels)
    suffixes = task.prediction_suffixes(values.probabilities)
    failed = predict.predict(
        values.config, values.workdir, create, suffixes, inputs, output, values.overwrite, checkpoint
    )
    return 1 if failed else 0


def _label_for_a_server(values):
    """Label maps of the given images, or of the split `eval.split`, and their archive."""
    config, workdir, checkpoint = values.config, values.workdir, parse_checkpoint(values.checkpoint)[1]
    output = epath.Path(values.output or os.path.join(workdir, values.format))
    create = task_of(config).create_submission(config, workdir, checkpoint, values.format)
    if values.input:
        inputs = predict.find(values.input, output, config.eval.max_pixels)
    else:
        inputs = splits.inputs(config, workdir)
    stems = [stem for _, stem in predict.stems(inputs)]
    submission.check_folder(output, values.format, config, workdir, checkpoint, stems, values.overwrite)
    if predict.predict(config, workdir, create, [".png"], inputs, output, values.overwrite, checkpoint):
        return 1
    print(submission.write_archive(values.format, output, stems))
    return 0
