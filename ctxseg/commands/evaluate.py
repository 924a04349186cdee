"""`--mode=evaluate`: evaluates a checkpoint of a run and writes its report."""

from ctxseg.commands.command_line import parse_checkpoint
from ctxseg.commands.joining import joined
from ctxseg.commands.train import finish
from ctxseg.evaluation import evaluate
from ctxseg.runs import workdir
from ctxseg.training import checks


def run(values) -> None:
    checkpoint = parse_checkpoint(values.checkpoint)[1]
    with joined(values, preemption=False), workdir.hold(values.workdir, create=False):
        checks.check_fields(values.config)
        finish(values, evaluate.evaluate(values.config, values.workdir, checkpoint))
