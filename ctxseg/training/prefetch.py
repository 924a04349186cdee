"""Training batches on the devices before the steps that need them."""

import queue
import threading
import time

import grain
import jax

from ctxseg import devices

# Batches that are read before they are needed. They take memory on the devices.
AHEAD = 2


class Prefetch:
    """The next `count` batches. A thread reads them, at most `AHEAD` too early, and puts them onto the devices.

    Use it as a context manager; `next` and `position` are for one thread.

    Attributes:
        position: the position of `batches` after the batch that `next` returned last. It does not count batches that were read too early.
        waited: seconds that the devices had nothing to compute, because the next batch was missing. The caller may reset it.
    """

    def __init__(self, batches: grain.DatasetIterator, count: int):
        """`batches`: such as those of `pipeline.train_iterator`; only the thread may use them from now on."""
        self.position = batches.get_state()
        self.waited = 0.0
        self._batches, self._count = batches, count
        self._ready: queue.SimpleQueue = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="prefetch", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended = True
        self._room.release()
        self._thread.join()

    def next(self, computing=None) -> dict:
        """The next batch, split over the local devices, see `devices.put`. Raises the error that reading this batch raised.

        Args:
            computing: the results of the step before, which may still be computed. Time counts as waited only when they are ready.
        """
        try:
            item = self._ready.get_nowait()
        except queue.Empty:
            jax.block_until_ready(computing)
            start = time.monotonic()
            with jax.profiler.TraceAnnotation("wait for a batch"):
                item = self._ready.get()
            self.waited += time.monotonic() - start
        self._room.release()
        batch, position, error = item
        if error is not None:
            raise error
        self.position = position
        return batch

    def _read(self):
        try:
            for _ in range(self._count):
                self._room.acquire()
                if self._ended:
                    return
                with jax.profiler.TraceAnnotation("read a batch"):
                    batch = jax.block_until_ready(devices.put(next(self._batches)))
                self._ready.put((batch, self._batches.get_state(), None))
        except BaseException as error:  # raised by the `next` that needs the batch
            self._ready.put((None, None, error))
