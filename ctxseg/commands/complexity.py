"""`--mode=complexity`: the costs of contexts."""

from ctxseg.studies import complexity


def run(values) -> None:
    complexity.complexity(values.config, values.workdir)
