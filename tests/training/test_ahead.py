"""The evaluation's programs are compiled in a thread."""

import threading

import pytest

from ctxseg.training.ahead import CompiledAhead


class Programs:
    """Program n is compiled when `free[n]` is set."""

    def __init__(self, count):
        self.compiled, self.free = 0, [threading.Event() for _ in range(count)]

    def __iter__(self):
        for free in self.free:
            assert free.wait(60)
            self.compiled += 1
            yield


def test_the_program_in_progress_is_awaited_and_later_ones_are_not_begun():
    programs = Programs(3)
    with CompiledAhead(iter(programs)) as ahead:
        assert programs.compiled == 0
        ahead.start()
        ahead.start()
        programs.free[0].set()
        threading.Timer(0.05, programs.free[1].set).start()
        while not programs.compiled:
            pass
        ahead.stop()
        assert programs.compiled in (1, 2)
        programs.free[2].set()
    assert programs.compiled < 3


def test_nothing_is_awaited_without_a_start_or_after_an_error():
    with CompiledAhead(iter(Programs(1))) as ahead:
        ahead.stop()
    with pytest.raises(ValueError, match="here"), CompiledAhead(iter(Programs(1))) as ahead:
        ahead.start()
        raise ValueError("here")


def test_an_error_is_left_to_the_evaluation():
    def faulty():
        yield
        raise ValueError("not supported")

    with CompiledAhead(faulty()) as ahead:
        ahead.start()
