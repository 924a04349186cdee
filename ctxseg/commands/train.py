"""`--mode=train`: trains a run to its end, evaluates it and writes its report."""

from ctxseg.commands.report import usual
from ctxseg.evaluation import evaluate
from ctxseg.runs import workdir
from ctxseg.training import loop
from ctxseg.views import report


def run(values) -> None:
    with workdir.hold(values.workdir, make=True):
        finish(values, loop.train(values.config, values.workdir))


def finish(values, scores: dict) -> None:
    """Writes the run's report, and prints its path and the scores; the scores in any case."""
    page = None
    try:
        page = report.write_report([values.workdir], usual)
    finally:
        evaluate.print_scores(scores, page)
