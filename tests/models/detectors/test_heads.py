"""The choice of the detections, by non-maximum suppression and Soft-NMS."""

import functools

import jax
import numpy as np
import pytest

from ctxseg.models.detectors.heads import detect
from tests.references import detection_numpy

KINDS = pytest.mark.parametrize("suppression", ["hard", "linear", "gaussian"])


def factors(overlaps, threshold, suppression):
    """What the scores of boxes with these overlaps are multiplied by."""
    if suppression == "gaussian":
        return np.exp(-(overlaps**2) / threshold)
    return np.where(overlaps > threshold, 0 if suppression == "hard" else 1 - overlaps, 1)


def plain(scores, boxes, minimum, threshold, count, suppression):
    """(score, class, row) of each detection, class by class: [r,k], [r,k,4] → best first."""
    found = []
    for k in range(scores.shape[1]):
        left = {row: score for row, score in enumerate(scores[:, k]) if score > minimum}
        while left:
            best = max(left, key=lambda row: (left[row], -row))
            found.append((left.pop(best), k, best))
            rows = list(left)
            overlaps = detection_numpy.iou(boxes[[best], k], boxes[rows, k])[0]
            for row, factor in zip(rows, factors(overlaps, threshold, suppression), strict=True):
                left[row] *= factor
            left = {row: score for row, score in left.items() if score > 0}
    return sorted(found, key=lambda one: (-one[0], one[2], one[1]))[:count]


@functools.cache
def compiled(minimum, threshold, count, suppression):
    return jax.jit(lambda *inputs: detect(*inputs, minimum, threshold, count, suppression))


@KINDS
def test_detections(suppression):
    rng = np.random.default_rng(0)
    centre = rng.uniform(0, 100, (4, 2))[rng.integers(0, 4, 80)][:, None] + rng.normal(0, 5, (80, 3, 2))
    half = rng.uniform(8, 16, (80, 3, 2))
    boxes = np.concatenate([centre - half, centre + half], -1).astype(np.float32)
    scores, valid = rng.random((80, 3)).astype(np.float32), rng.random(80) < 0.8
    found, score, class_, row, exists = compiled(0.1, 0.4, 100, suppression)(scores, boxes, valid)
    expected = plain(np.where(valid[:, None], scores, 0).astype(np.float64), boxes, 0.1, 0.4, 100, suppression)
    n = len(expected)
    assert (n < 100) == (suppression == "hard")
    np.testing.assert_array_equal(exists, np.arange(100) < n)
    correct_score, correct_class, correct_row = (np.array(x) for x in zip(*expected, strict=True))
    np.testing.assert_array_equal(class_[:n], correct_class)
    np.testing.assert_array_equal(row[:n], correct_row)
    np.testing.assert_allclose(score[:n], correct_score, rtol=1e-5)
    np.testing.assert_array_equal(found[:n], boxes[correct_row, correct_class])


@pytest.mark.parametrize(
    "suppression, order, scores",
    [
        ("hard", [0, 2], [0.9, 0.5]),
        ("linear", [0, 2, 1], [0.9, 0.5, 0.4]),  # 0.8 · (1 − ½)
        ("gaussian", [0, 2, 1], [0.9, 0.5, 0.8 * np.exp(-0.25 / 0.4)]),
    ],
)
def test_by_hand(suppression, order, scores):
    """Boxes 0 and 1 have the IoU ½. Box 3 is below the minimum. Box 4 is box 1 in another class, where nothing suppresses it."""
    boxes = np.float32([(0, 0, 10, 10), (0, 0, 10, 5), (20, 0, 30, 10), (0, 0, 10, 10), (0, 0, 10, 5)])
    probabilities = np.float32([[0.9, 0], [0.8, 0], [0.5, 0], [0.05, 0], [0, 0.95]])
    result = compiled(0.1, 0.4, 6, suppression)(probabilities, boxes[:, None].repeat(2, 1), np.ones(5, bool))
    _, score, class_, row, exists = (np.asarray(x) for x in result)
    n = len(order) + 1
    assert exists.tolist() == [True] * n + [False] * (6 - n)
    assert row[:n].tolist() == [4, *order] and class_[:n].tolist() == [1] + [0] * len(order)
    np.testing.assert_allclose(score[:n], [0.95, *scores], rtol=1e-6)
    assert (score[n:] == 0).all() and (class_[n:] == -1).all()


def test_lower_scores_than_the_minimum_remain():
    boxes = np.float32([(0, 0, 10, 10), (0, 0, 10, 9), (0, 0, 10, 10)])[:, None]
    result = compiled(0.3, 0.4, 3, "linear")(np.float32([[0.9], [0.8], [0.7]]), boxes, np.ones(3, bool))
    _, score, _, row, exists = (np.asarray(x) for x in result)
    assert exists.tolist() == [True, True, False]  # a copy of a detection, with the IoU 1, has the score 0
    assert row[:2].tolist() == [0, 1]
    np.testing.assert_allclose(score, [0.9, 0.08, 0], rtol=1e-5)
