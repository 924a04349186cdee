"""`--mode=train`: trains a run to the end, evaluates it and writes its report."""

from ctxseg.commands.report import config_without_overrides
from ctxseg.evaluation import evaluate
from ctxseg.runs import workdir
from ctxseg.training import loop
from ctxseg.views import report


def run(values) -> None:
    with workdir.hold(values.workdir, create=True):
        finish(values, loop.train(values.config, values.workdir))


def finish(values, scores: dict) -> None:
    """Writes the report of the run and prints its path and the scores; the scores even if the report fails."""
    page = None
    try:
        page = report.write_report([values.workdir], config_without_overrides)
    finally:
        evaluate.print_scores(values.config, scores, page)
