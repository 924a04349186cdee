"""Pixels by distance and by the size of their region, against slow loops and by hand."""

import math

import numpy as np
import pytest

from ctxseg.evaluation import regions


def random_maps(size, block, seed):
    """Labels in blocks of classes 0 to 3 with single pixels of others, partly ignored, and predictions that are right at most pixels."""
    rng = np.random.default_rng(seed)
    height, width = size
    label = np.kron(rng.integers(0, 4, (-(-height // block), -(-width // block))), np.ones((block, block)))
    label = label[:height, :width]
    label[rng.random(size) < 0.01] = 2
    prediction = np.where(rng.random(size) < 0.3, rng.integers(0, 5, size), label)
    label[rng.random(size) < 0.05] = 255
    return label.astype(np.uint8), np.where(label == 255, 255, prediction).astype(np.uint8)


def slow_by_distance(label, prediction):
    pixels, correct = [0] * 7, [0] * 7
    places = [(y, x) for y, x in np.ndindex(label.shape) if label[y, x] != 255]
    for y, x in places:
        others = [(y - v) ** 2 + (x - u) ** 2 for v, u in places if label[v, u] != label[y, x]]
        distance = math.sqrt(min(others)) if others else math.inf
        place = sum(distance > limit for limit in (1, 2, 4, 8, 16, 32))
        pixels[place] += 1
        correct[place] += int(prediction[y, x] == label[y, x])
    return [pixels, correct]


def slow_by_size(label, prediction, num_classes):
    counts = np.zeros((3, num_classes, 4), int)
    seen = label == 255
    for start in np.ndindex(label.shape):
        if seen[start]:
            continue
        seen[start], region = True, [start]
        for y, x in region:
            for v, u in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                inside = 0 <= v < label.shape[0] and 0 <= u < label.shape[1]
                if inside and not seen[v, u] and label[v, u] == label[start]:
                    seen[v, u] = True
                    region.append((v, u))
        share = len(region) / label.size
        place = sum(share > limit for limit in (0.001, 0.01, 0.1))
        right = sum(int(prediction[p] == label[p]) for p in region)
        counts[:, label[start], place] += [1, len(region), right]
    return counts


@pytest.mark.parametrize("size, block", [((13, 17), 3), ((40, 25), 12), ((70, 9), 60), ((1, 80), 50)])
def test_distances_equal_a_slow_loop(size, block):
    maps = random_maps(size, block, block)
    np.testing.assert_array_equal(regions.by_distance(*maps), slow_by_distance(*maps))


@pytest.mark.parametrize("size, block", [((13, 17), 3), ((60, 50), 9), ((90, 80), 50), ((1, 30), 7)])
def test_sizes_equal_a_slow_loop(size, block):
    maps = random_maps(size, block, block)
    np.testing.assert_array_equal(regions.by_size(*maps, 6), slow_by_size(*maps, 6))


def test_distances_by_hand():
    """A row of 40 pixels: class 0, an ignored pixel, class 1 from column 37 on. Distances are 37 to 2 and 2 to 4."""
    label = np.zeros((1, 40), np.uint8)
    label[0, 36], label[0, 37:] = 255, 1
    prediction = label.copy()
    prediction[0, 35] = prediction[0, 0] = 1
    pixels, correct = regions.by_distance(label, prediction).tolist()
    assert pixels == [0, 1 + 1, 2 + 2, 4, 8, 16, 5]
    assert correct == [0, 1, 2 + 2, 4, 8, 16, 4]
    diagonal = np.array([[0, 0], [0, 1]], np.uint8)
    assert regions.by_distance(diagonal, diagonal).tolist() == [[3, 1, 0, 0, 0, 0, 0]] * 2


def test_one_class_or_none_has_no_boundary():
    for label, expected in ((np.full((3, 5), 2, np.uint8), 15), (np.full((3, 5), 255, np.uint8), 0)):
        assert regions.by_distance(label, label).tolist() == [[0, 0, 0, 0, 0, 0, expected]] * 2
        assert (
            regions.by_size(label, label, 4).sum(1).tolist() == [[0, 0, 0, bool(expected)]] + [[0, 0, 0, expected]] * 2
        )


def test_sizes_by_hand():
    """Of 1000 pixels: two of class 1 that touch at their corners are one region; single pixels are small up to the limit itself."""
    label = np.zeros((20, 50), np.uint8)
    label[0, 0] = label[1, 1] = 1
    label[10, 10] = 1
    label[15:, :20] = 2
    prediction = np.zeros((20, 50), np.uint8)
    prediction[1, 1] = 1
    counts = regions.by_size(label, prediction, 4)
    assert counts[0].tolist() == [[0, 0, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert counts[1].tolist() == [[0, 0, 0, 897], [1, 2, 0, 0], [0, 0, 100, 0], [0, 0, 0, 0]]
    assert counts[2].tolist() == [[0, 0, 0, 897], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    summary = regions.summary(regions.by_distance(label, prediction), counts, ["a", "b", "c", "d"])
    assert summary["by_size"]["limits"] == [0.001, 0.01, 0.1] and summary["by_distance"]["limits"] == [
        1,
        2,
        4,
        8,
        16,
        32,
    ]
    assert summary["by_size"]["pixels"] == dict(zip("abcd", counts[1].tolist(), strict=True))
    assert summary["by_size"]["regions"]["b"] == [1, 1, 0, 0] and summary["by_size"]["correct"]["b"] == [0, 1, 0, 0]
    assert sum(summary["by_distance"]["pixels"]) == 1000 and sum(summary["by_distance"]["correct"]) == 898
