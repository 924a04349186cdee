"""Anchors against the NumPy reference and torchvision's."""

import numpy as np

from ctxseg.models.detectors import anchors
from tests.references import detection_numpy as reference

RATIOS = (0.5, 1.0, 2.0)
RECORDED = np.load(reference.RECORDED)


def test_base_anchors():
    for size, ratios in ((32, RATIOS), (33, (1.0,)), (20.5, (0.3, 3.0))):
        for rounded in (False, True):
            expected = reference.base_anchors(size, ratios, rounded)
            np.testing.assert_allclose(anchors.base_anchors(size, ratios, rounded), expected, rtol=1e-6)
    assert (anchors.base_anchors(33, (1.0,), True) == [-16, -16, 16, 16]).all()  # ±16.5, half to even


def test_grid_anchors():
    base = anchors.base_anchors(10, RATIOS, False)
    for shape, stride in (((3, 4), (4, 5)), ((1, 1), (8, 8))):
        expected = reference.grid_anchors(shape, stride, base)
        np.testing.assert_allclose(anchors.grid_anchors(shape, stride, base), expected, rtol=1e-6, atol=1e-6)


def test_anchors_are_torchvisions():
    recorded = {key: RECORDED[f"anchors/{key}"] for key in ("sizes", "ratios", "shapes", "strides", "base")}
    for level, (size, shape, stride) in enumerate(
        zip(recorded["sizes"], recorded["shapes"], recorded["strides"], strict=True)
    ):
        base = anchors.base_anchors(size, recorded["ratios"], rounded=True)
        np.testing.assert_array_equal(base, recorded["base"][level])
        grid = anchors.grid_anchors(tuple(shape), tuple(stride), base)
        np.testing.assert_array_equal(grid, RECORDED[f"anchors/level{level}"])
