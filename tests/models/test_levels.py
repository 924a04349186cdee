"""Which maps a context reads if `levels` names none."""

import numpy as np
import pytest

from ctxseg.models.context.levels import last, select


def maps(**rows):
    return {name: np.zeros((1, n, n + 1, 2)) for name, n in rows.items()}


FINE_MAP_LAST = maps(pixels=64, res2=16, res3=8, res4=4, res5=2, concat=16)
COARSE_MAPS_FIRST = maps(pixels=64, layer5=4, res2=16, res3=8, res4=4, res5=2, layer9=4, layer11=4)
SAME_SIZES = maps(pixels=64, pool3=8, pool4=8, conv7=8)


@pytest.mark.parametrize(
    "features, count, expected",
    [
        (FINE_MAP_LAST, 1, ["concat"]),
        (FINE_MAP_LAST, 4, ["res2", "res3", "res4", "res5"]),
        (FINE_MAP_LAST, 3, ["res3", "res4", "res5"]),
        (FINE_MAP_LAST, 2, ["res5", "concat"]),
        (FINE_MAP_LAST, 5, ["res2", "res3", "res4", "res5", "concat"]),  # the pyramid has fewer
        (COARSE_MAPS_FIRST, 1, ["layer11"]),
        (COARSE_MAPS_FIRST, 2, ["layer9", "layer11"]),
        (COARSE_MAPS_FIRST, 4, ["res2", "res3", "res4", "res5"]),
        (SAME_SIZES, 2, ["pool4", "conv7"]),
        (SAME_SIZES, 6, ["pixels", "pool3", "pool4", "conv7"]),  # there are not as many
    ],
)
def test_the_last_maps_or_those_of_the_pyramid(features, count, expected):
    assert last(features, count) == expected
    assert [id(x) for x in select(features, (), count)] == [id(features[name]) for name in expected]


def test_named_maps_may_have_any_order():
    chosen = select(FINE_MAP_LAST, ("res5", "concat"), 1)
    assert [x.shape[1] for x in chosen] == [2, 16]
