"""Evaluates a run, whatever its task, and writes its results."""

import os
import time
from collections.abc import Callable

import jax

from ctxseg import devices, processes
from ctxseg.evaluation import splits
from ctxseg.progress import Progress
from ctxseg.runs import checkpoints, provenance, workdir
from ctxseg.tasks import task_of
from ctxseg.training.state import averaged

AVERAGES = "averages_"  # begins the names of the scores of `config.train.ema`


def evaluate(config, folder: str, checkpoint: int | str | None = None) -> dict:
    """`--mode=evaluate`: scores a checkpoint of the run in `folder` (see `checkpoints.restore_run`) on `config.eval.split`.

    Raises:
        UserError: `folder` has no run or no checkpoint, its checkpoint belongs to another model, or the processes do not share `folder`.
    """
    start = time.time()
    workdir.check_same(os.path.join(folder, "config.json"), config)
    workdir.check_shared(folder)
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)
    task = task_of(config)
    task.check_data(config)
    builder = splits.load_tested_of_run(config, folder)
    task.check_evaluation(config, builder)
    model, state = checkpoints.restore_run(config, folder, checkpoint)
    evaluation, _ = task.create_evaluation(config, builder, model)
    return finish(config, folder, builder, evaluation, state, start)


def finish(config, folder: str, builder, evaluation, state, start: float, show: Callable | None = None) -> dict:
    """Evaluates `state`; writes results.json and the other files of an evaluation; returns the scores.

    Args:
        evaluation: the first result of `create_evaluation` of the task.
        state: the state, on one device; if it has averages, they are scored too.
        start: start of the command, in seconds since the epoch.
        show: called with the evaluation of the task.
    """
    with Progress(builder.info.splits[config.eval.split].num_examples, 0, "evaluate", compiles=True) as progress:
        evaluated = evaluation(devices.replicate(state.variables), progress.update, complete=True)
    if show:
        show(evaluated)
    scores = evaluated.scores
    if state.averages:
        scores |= _of_averages(evaluation, devices.replicate(averaged(state).variables))
    if not processes.is_first():
        return scores
    dataset = splits.describe(config, builder)
    results = scores | {
        "step": int(state.step),
        "system": config.system,
        "data": config.eval.data or config.data.name,
        "dataset": {key: dataset[key] for key in ("name", "folder", "fingerprint")},
        "split": config.eval.split,
        "eval": config.eval.to_dict(),
        "seconds": round(time.time() - start, 1),
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "class_names": list(builder.info.metadata["class_names"]),
        "palette": [list(c) for c in builder.info.metadata["palette"]],
    }
    task_of(config).write(config, folder, builder, evaluated, results)
    trained = workdir.read_dataset(folder)
    if trained and not provenance.same(trained, dataset):
        print(f"{folder}: trained on {provenance.words(trained)}, evaluated on {provenance.words(dataset)}")
    return scores


def scores_of(evaluation, state, show: Callable | None = None) -> dict:
    """The scores of a replicated state during training; with averages, also theirs. `show`: see `finish`."""
    evaluated = evaluation(state.variables)
    if show:
        show(evaluated)
    scores = evaluated.scores
    return scores | _of_averages(evaluation, averaged(state).variables) if state.averages else scores


def _of_averages(evaluation, variables):
    """{"averages_mIoU": …}: the scores of the averages that are numbers."""
    scores = evaluation(variables).scores
    return {f"{AVERAGES}{name}": value for name, value in scores.items() if isinstance(value, float)}


def print_scores(config, scores: dict, page=None) -> None:
    """Prints the scores of `finish`; before the last line, the path of the report, if any, and the scores of the averages."""
    task = task_of(config)
    *lines, last = task.lines(scores)
    averages = {key.removeprefix(AVERAGES): value for key, value in scores.items() if key.startswith(AVERAGES)}
    of_averages = [f"averages: {task.lines(scores | averages)[-1]}"] if averages else []
    for line in [*lines, *([page] if page else []), *of_averages, last]:
        print(line, flush=True)
