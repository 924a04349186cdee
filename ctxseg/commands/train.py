"""`--mode=train`: trains a run to the end, evaluates it and writes its report."""

from etils import epath

from ctxseg import processes
from ctxseg.commands.joining import joined
from ctxseg.commands.report import config_without_overrides
from ctxseg.evaluation import evaluate
from ctxseg.runs import workdir
from ctxseg.training import loop
from ctxseg.views import failures, report


def run(values) -> None:
    with joined(values, preemption=True), workdir.hold(values.workdir, create=True):
        finish(values, loop.train(values.config, values.workdir, values.profile or 0))


def finish(values, scores: dict) -> None:
    """Writes the report of the run, and failures.html again if it exists; prints the path of the report and the scores.

    The scores are printed even if the report fails. Only the first process does this.
    """
    if not processes.is_first():
        return
    page = None
    try:
        page = report.write_report([values.workdir], config_without_overrides)
        if (epath.Path(values.workdir) / report.FAILURES).exists():
            failures.write_failures(values.workdir)
    finally:
        evaluate.print_scores(values.config, scores, page)
