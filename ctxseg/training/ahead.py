"""Compiles the evaluation while training runs, so that the first evaluation need not wait."""

import threading
from collections.abc import Iterator


class CompiledAhead:
    """A thread that takes the steps of an iterator, each of which compiles a program.

    Use it as a context manager. After an error in the block, the program in progress is not awaited.
    """

    def __init__(self, programs: Iterator[None]):
        """`programs`: such as the second result of `create_evaluation` of a task. An error ends it: the evaluation will raise it again."""
        self._programs = programs
        self._ended = False
        self._thread = threading.Thread(target=self._compile, name="compile ahead", daemon=True)

    def start(self) -> None:
        """Starts. Call it after the first training step is compiled, which would take longer beside other work. Later calls do nothing."""
        if not self._thread.ident:
            self._thread.start()

    def stop(self) -> None:
        """Waits for the program in progress. Those after it are left to the evaluation."""
        self._ended = True
        if self._thread.ident:
            self._thread.join()

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        self._ended = True
        if error is None:
            self.stop()

    def _compile(self):
        try:
            for _ in self._programs:
                if self._ended:
                    return
        except Exception:  # the evaluation raises it
            pass
