"""Boundary IoU against the slow reference and by hand."""

import numpy as np
import pytest

from ctxseg.evaluation import boundaries
from tests.references import scores_numpy as reference

NAMES = ["road", "car", "tree", "sky", "pole"]


def random_maps(size, seed):
    """Labels in blocks without classes 3 and 4, partly ignored, and predictions without class 4 that are right at most pixels."""
    rng = np.random.default_rng(seed)
    height, width = size
    label = np.kron(rng.integers(0, 3, (5, 5)), np.ones((-(-height // 5), -(-width // 5))))[:height, :width]
    prediction = np.where(rng.random(size) < 0.03, rng.integers(0, 4, size), np.roll(label, 2, axis=1))
    label[rng.random(size) < 0.02] = 255
    label[height // 2 :, : width // 4] = 255
    return label.astype(np.uint8), prediction.astype(np.uint8)


def counts(label, prediction, num_classes):
    """`boundaries.count`, for predictions that are not ignored anywhere."""
    return boundaries.count(label, np.where(label == 255, np.uint8(255), prediction), num_classes)


def test_random_maps_of_several_sizes():
    maps = [random_maps(size, seed) for seed, size in enumerate(((7, 9), (24, 40), (60, 45), (75, 100), (1, 3)))]
    expected = reference.boundary_iou(*zip(*maps, strict=True), 5)
    scores = boundaries.scores(sum(counts(*pair, 5) for pair in maps), NAMES)
    actual = [np.nan if v is None else v for v in scores["per_class_boundary_iou"].values()]
    np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert scores["boundary_IoU"] == pytest.approx(np.nanmean(expected))
    assert expected[3] == 0 and np.isnan(expected[4]) and 0 < expected[0] < 1


@pytest.mark.parametrize("d", [1, 2, 5, 30])
def test_the_region_of_every_class(d):
    label, _ = random_maps((23, 31), d)
    actual = boundaries.near(label, d)
    for k in range(3):
        np.testing.assert_array_equal(actual & (label == k), reference.boundary(label == k, d))


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (60, 45), (75, 100), (105, 140), (1024, 2048)])
def test_width(size):
    assert boundaries.width(size) == reference.boundary_width(size)


def test_by_hand():
    """A square that is predicted one pixel to the right: see the reference's test."""
    label, prediction = np.zeros((2, 6, 6), np.uint8)
    label[1:5, 1:5] = prediction[1:5, 2:6] = 1
    assert boundaries.count(label, prediction, 3).tolist() == [[16, 24], [6, 18], [0, 0]]


def test_without_labelled_pixels():
    scores = boundaries.scores(counts(np.full((4, 5), 255, np.uint8), np.zeros((4, 5), np.uint8), 5), NAMES)
    assert scores == {"boundary_IoU": None, "per_class_boundary_iou": dict.fromkeys(NAMES)}
