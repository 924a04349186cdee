"""The interpreter of pickles, on what Python writes."""

import argparse
import pickle

import numpy as np
import pytest

from ctxseg.models.weights import pickles
from ctxseg.models.weights.tensor import Damaged

PLAIN = [None, True, 1, -1, 300, 70000, -(2**31), 2**70, -(2**70), 0.5, "ä", "x" * 300, "y" * 70000, b"b" * 300]
PLAIN += [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [[1], [2, 3]], {}, {"a": {1: 2.5}, None: (), (1, "b"): 0}]


def load(data):
    value, end = pickles.load(data, 0, {})
    assert end == len(data)
    return value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(protocol):
    expected = PLAIN if protocol > 2 else [x for x in PLAIN if not isinstance(x, bytes)]
    assert load(pickle.dumps([expected, expected], protocol)) == [expected, expected]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [{1, 2}, frozenset({1}), bytearray(b"x"), 1 + 2j, np.float32(1), np.zeros(2), argparse.Namespace(rate=np.int64(1))],
    ids=lambda x: type(x).__name__,
)
def test_other_values_are_ignored(value, protocol):
    assert load(pickle.dumps({"a": value, "b": 1}, protocol))["b"] == 1


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("value", [eval, Damaged("x"), np.frombuffer], ids=lambda x: type(x).__name__)
def test_values_of_other_types_are_refused(value, protocol):
    with pytest.raises(Damaged, match="^it contains .*, which is not a dense tensor: save model.state_dict"):
        load(pickle.dumps(value, protocol))


def test_several_pickles_in_a_row():
    data = pickle.dumps(1, 2) + pickle.dumps("b", 4)
    value, end = pickles.load(data, 0, {})
    assert (value, pickles.load(data, end, {})) == (1, ("b", len(data)))


@pytest.mark.parametrize("protocol", [2, 5])
def test_every_cut_is_reported(protocol):
    data = pickle.dumps(PLAIN[:10], protocol)
    for length in range(len(data)):
        with pytest.raises(Damaged):
            load(data[:length])
