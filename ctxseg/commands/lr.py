"""`--mode=lr`: tests at which learning rates the loss of a config falls, and suggests one."""

from ctxseg.studies import learning_rate


def run(values) -> None:
    learning_rate.find(values.config, values.workdir)
