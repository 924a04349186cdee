"""Several processes on the command line: `--mode=train` and `--mode=evaluate` join them, the other modes run in one process."""

import os

import jax

import ctxseg
from ctxseg import processes
from ctxseg.errors import UserError
from ctxseg.runs import workdir
from ctxseg.settings.fields import flatten_as_json

# Fields in which the processes of a run may differ, as machines do.
OF_MACHINE = ("data.data_dir", "data.manual_dir", "data.threads")


def joined(values, preemption: bool):
    """A context in which this process is part of the run of several that flags or the environment describe, if they do.

    Args:
        values: the flags.
        preemption: see `processes.joined`.
    """
    launch = None
    if workdir.LOCK not in os.environ:  # a run of a sweep has one process
        launch = processes.find(values.coordinator, values.process_count, values.process_id, os.environ)
    config = {f"config.{k}": v for k, v in flatten_as_json(values.config).items() if k not in OF_MACHINE}
    identity = {
        "ctxseg": ctxseg.__version__,
        "jax": jax.__version__,
        "--mode": values.mode,
        "--checkpoint": values.checkpoint,
        **config,
    }
    return processes.joined(launch, values.process_timeout, identity, preemption)


def check_alone(mode: str) -> None:
    """UserError if this process was started as one of several, in a mode that runs in one."""
    found = None if workdir.LOCK in os.environ else processes.started_together(os.environ)
    if found:
        index, count = found
        raise UserError(f"--mode={mode} runs in one process, but this is process {index} of {count}: start it once")
