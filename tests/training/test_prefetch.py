"""Batches are read before the steps that need them; positions, errors and waiting times belong to the step that takes the batch."""

import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ctxseg.errors import UserError
from ctxseg.training import prefetch
from ctxseg.training.prefetch import Prefetch


class Batches:
    """Batch n is full of n. `faulty` cannot be read, and `blocked` only after `free.set()`."""

    def __init__(self, faulty=None, blocked=None):
        self.read, self.faulty, self.blocked = 0, faulty, blocked
        self.free = threading.Event()

    def __next__(self):
        n = self.read
        if n == self.faulty:
            raise UserError(f"record {n} cannot be read")
        if n == self.blocked:
            assert self.free.wait(60)
        self.read += 1
        return {"image": np.full((3 * jax.local_device_count(), 2), n), "name": ["a"]}

    def get_state(self):
        return {"next_index": self.read}


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_batches_are_read_ahead_in_their_order_and_the_position_is_that_of_the_last_one_taken():
    batches = Batches()
    with Prefetch(batches, 5) as ahead:
        assert ahead.position == {"next_index": 0}
        for n in range(5):
            wait_until(lambda: batches.read == min(n + prefetch.AHEAD, 5))  # noqa: B023
            time.sleep(0.01)
            assert batches.read <= n + prefetch.AHEAD and batches.read <= 5
            batch = ahead.next()
            np.testing.assert_array_equal(batch["image"], np.full((jax.local_device_count(), 3, 2), n))
            assert ahead.position == {"next_index": n + 1}
    assert batch.keys() == {"image"} and isinstance(batch["image"], jax.Array)


def test_an_error_arrives_at_the_step_that_needs_the_batch():
    batches = Batches(faulty=2)
    with Prefetch(batches, 5) as ahead:
        ahead.next()
        wait_until(lambda: not ahead._thread.is_alive())
        ahead.next()
        with pytest.raises(UserError, match="^record 2 "):
            ahead.next()
        assert ahead.position == {"next_index": 2}
    with Prefetch(Batches(faulty=2), 2) as ahead:  # nothing needs it
        assert ahead.next() and ahead.next()


def test_the_thread_ends_when_the_steps_do():
    batches = Batches()
    with pytest.raises(KeyboardInterrupt), Prefetch(batches, 100) as ahead:
        ahead.next()
        raise KeyboardInterrupt
    assert not ahead._thread.is_alive() and batches.read <= 1 + prefetch.AHEAD


def test_only_time_after_the_step_before_counts_as_waited(monkeypatch):
    batches, times = Batches(blocked=2), [10.0, 17.0]

    class Computing:
        def block_until_ready(self):
            assert len(times) == 2, "the clock runs while the devices compute"

    def clock():
        batches.free.set()
        return times.pop(0)

    monkeypatch.setattr(prefetch, "time", SimpleNamespace(monotonic=clock))
    with Prefetch(batches, 3) as ahead:
        wait_until(lambda: ahead._ready.qsize() == 2)
        ahead.next()
        ahead.next()
        assert ahead.waited == 0.0 and len(times) == 2
        ahead.next(Computing())
        assert ahead.waited == 7.0
