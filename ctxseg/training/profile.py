"""`--profile=STEPS`: a trace of some training steps, by JAX's profiler."""

import os
import sys
from pathlib import Path

import jax
from tqdm import tqdm

from ctxseg import processes
from ctxseg.errors import one_line

# Steps after each start of a run that are not traced, since the first one is compiled.
SKIPPED = 2


class Profile:
    """Traces steps of a run into its folder `profile`: the first `count` ones after `SKIPPED`, or fewer if the run ends before.

    Use it as a context manager around all steps. Of several processes, only the first one traces itself and its devices. A note on stderr
    says if the trace cannot be written.
    """

    def __init__(self, folder: str, count: int, done: int, total: int):
        """`folder` is the run's, on this machine. `count`: steps to trace; 0: none. `done` of the `total` steps are finished."""
        self._folder = os.path.join(folder, "profile")
        first = done + SKIPPED + 1
        self._steps = range(first, min(first + count, total + 1)) if processes.is_first() else range(0)
        self._tracing = False
        if count and first > total and processes.is_first():
            _say(f"note: no trace: {total - done} steps are left, and the first {SKIPPED} are not traced")

    def __enter__(self):
        return self

    def before(self, step: int, computing) -> None:
        """Called before each step. `computing`: the results of the step before, which may still be computed."""
        if self._steps and step == self._steps[0]:
            jax.block_until_ready(computing)
            options = jax.profiler.ProfileOptions()
            # Calls of Python functions would be 95 % of the events, and slow the steps.
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
            self._tracing = True

    def after(self, step: int, computing) -> None:
        """Called after each step with its results, which may still be computed."""
        if self._tracing and step == self._steps[-1]:
            jax.block_until_ready(computing)
            self._stop()

    def __exit__(self, *_):
        if self._tracing:  # the run was interrupted
            self._stop()

    def _stop(self):
        self._tracing = False
        try:
            jax.profiler.stop_trace()
            path = max(Path(self._folder).glob("plugins/profile/*/perfetto_trace.json.gz"), key=os.path.getmtime)
        # ValueError: JAX does not find what it has written.
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            _say(f"note: no trace in {self._folder}: {one_line(error)}")
        else:
            _say(f"trace: {path}: open it in https://ui.perfetto.dev, or use tensorboard --logdir={self._folder}")


def _say(line):
    """Prints a line on stderr, above a progress bar."""
    tqdm.write(line, file=sys.stderr)
