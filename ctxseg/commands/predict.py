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
    task = task_of(values.config)
    checkpoint = parse_checkpoint(values.checkpoint)[1]
    output = epath.Path(values.output or os.path.join(values.workdir, values.format or "predictions"))
    arguments = values.config, values.workdir, checkpoint
    if values.format:
        create, suffixes = task.create_submission(*arguments, values.format), [".png"]
    else:
        create = partial(task.create_prediction, *arguments, values.probabilities)
        suffixes = task.prediction_suffixes(values.probabilities)
    if values.input:
        inputs = predict.find(values.input, output, values.config.eval.max_pixels)
    else:
        inputs = splits.inputs(values.config, values.workdir)
    stems = [stem for _, stem in predict.stems(inputs)]
    if values.format:
        submission.check_folder(output, values.format, *arguments, stems, values.overwrite)
    failed = predict.predict(
        values.config, values.workdir, create, suffixes, inputs, output, values.overwrite, checkpoint
    )
    if values.format and not failed:
        print(submission.write_archive(values.format, output, stems))
    return 1 if failed else 0
