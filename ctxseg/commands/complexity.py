"""`--mode=complexity`: what contexts cost."""

from ctxseg.studies import complexity


def run(values) -> None:
    complexity.complexity(values.config, values.workdir)
