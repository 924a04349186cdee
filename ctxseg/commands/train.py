"""`--mode=train`: trains a run to the end, evaluates it and writes its report."""

import os

import jax

import ctxseg
from ctxseg import processes
from ctxseg.commands.report import config_without_overrides
from ctxseg.evaluation import evaluate
from ctxseg.runs import workdir
from ctxseg.settings.fields import flatten_as_json
from ctxseg.training import loop
from ctxseg.views import report

# Fields in which the processes of a run may differ, as machines do.
OF_MACHINE = ("data.data_dir", "data.manual_dir", "data.threads")


def run(values) -> None:
    with joined(values, preemption=True), workdir.hold(values.workdir, create=True):
        finish(values, loop.train(values.config, values.workdir))


def joined(values, preemption: bool):
    """A context in which this process is part of the run of several that flags or the environment describe, if they do."""
    launch = None
    if workdir.LOCK not in os.environ:  # a run of a sweep has one process
        launch = processes.find(values.coordinator, values.process_count, values.process_id, os.environ)
    config = {f"config.{k}": v for k, v in flatten_as_json(values.config).items() if k not in OF_MACHINE}
    identity = {
        "ctxseg": ctxseg.__version__,
        "jax": jax.__version__,
        "--mode": values.mode,
        "--checkpoint": values.checkpoint,
        "config.system": values.config.system,
        **config,
    }
    return processes.joined(launch, values.process_timeout, identity, preemption)


def finish(values, scores: dict) -> None:
    """Writes the report of the run and prints its path and the scores; the scores even if the report fails."""
    if not processes.is_first():
        return
    page = None
    try:
        page = report.write_report([values.workdir], config_without_overrides)
    finally:
        evaluate.print_scores(values.config, scores, page)
