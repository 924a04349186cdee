"""The NumPy reference of the scores, against values computed by hand."""

import numpy as np
import pytest

from tests.references import scores_numpy as reference

NAN = np.nan


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_f1_and_frequency_weighted_iou():
    confusion = [
        [6, 2, 0, 0],
        [1, 3, 0, 0],
        [0, 0, 0, 0],  # only predicted
        [0, 2, 1, 0],  # never right
    ]
    # TP, FP, FN: 6, 1, 2;  3, 4, 1;  0, 1, 0;  0, 0, 3.
    close(reference.f1(confusion), [12 / 15, 6 / 11, 0, 0])
    close(reference.frequency_weighted_iou(confusion), 8 / 15 * 6 / 9 + 4 / 15 * 3 / 8)
    close(reference.f1([[5, 0, 1], [0, 0, 0], [0, 0, 2]]), [10 / 11, NAN, 4 / 5])
    close(reference.f1(np.zeros((2, 2))), [NAN, NAN])
    assert np.isnan(reference.frequency_weighted_iou(np.zeros((2, 2))))


def test_f1_is_a_function_of_iou():
    confusion = np.random.default_rng(0).integers(0, 9, (5, 5))
    iou = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
    close(reference.f1(confusion), 2 * iou / (1 + iou))


@pytest.mark.parametrize(
    "size, width",
    (
        ((1, 1), 1),
        ((20, 20), 1),  # 0.57
        ((60, 45), 2),  # 1.5 of a diagonal of 75
        ((75, 100), 2),  # 2.5 of a diagonal of 125
        ((105, 140), 4),  # 3.5 of a diagonal of 175
        ((1024, 2048), 46),  # 45.8
    ),
)
def test_boundary_width(size, width):
    assert reference.boundary_width(size) == width


def test_boundary():
    mask = np.zeros((7, 8), bool)
    mask[0:5, 1:6] = True  # touches the upper border
    mask[6, 7] = True
    for d in (1, 2, 3, 9):
        expected = mask.copy()
        expected[d : 5 - d, 1 + d : 6 - d] = False
        np.testing.assert_array_equal(reference.boundary(mask, d), expected)
    np.testing.assert_array_equal(reference.boundary(np.ones((3, 3), bool), 1), [[1, 1, 1], [1, 0, 1], [1, 1, 1]])


def test_boundary_has_the_pixels_at_most_d_from_the_outside():
    mask = np.random.default_rng(0).random((11, 13)) < 0.95
    for d in (1, 2):
        around = np.lib.stride_tricks.sliding_window_view(np.pad(mask, d), (2 * d + 1, 2 * d + 1))
        boundary = reference.boundary(mask, d)
        np.testing.assert_array_equal(boundary, mask & ~around.all(axis=(2, 3)))
        assert boundary.any() and not (boundary == mask).all()


def test_boundary_iou():
    label = np.zeros((6, 6), int)
    label[1:5, 1:5] = 1
    prediction = np.zeros((6, 6), int)
    prediction[1:5, 2:6] = 1  # one pixel to the right
    # Class 1: two rings of 12 pixels. They share 3 pixels in each of their horizontal sides; the vertical sides are apart.
    # Class 0: no pixel is inside, so all 20 pixels of both are boundaries, and 16 are shared.
    close(reference.boundary_iou([label], [prediction], 3), [16 / 24, 6 / 18, NAN])
    close(reference.boundary_iou([label], [label], 3), [1, 1, NAN])


def test_boundary_iou_sums_over_images_of_different_sizes():
    """The second image has d = 2, and class 2 is only predicted."""
    labels = [np.zeros((4, 4), int), np.zeros((45, 60), int)]
    predictions = [np.ones((4, 4), int), np.zeros((45, 60), int)]
    predictions[1][20, 30] = 2
    second = 45 * 60 - 41 * 56
    # Around the wrong pixel, 5·5 - 1 pixels of class 0 are a boundary of the prediction alone. The pixel is in the inside of the label.
    close(reference.boundary_iou(labels, predictions, 3), [second / (12 + second + 24), 0, 0])


def test_boundary_iou_without_ignored_pixels():
    label = np.zeros((8, 8), int)
    label[2:6, 2:6] = 1
    prediction = label.copy()
    label[2:6, 4] = 255
    close(reference.boundary_iou([label], [prediction], 2), [1, 1])
    prediction[label == 255] = 7
    close(reference.boundary_iou([label], [prediction], 2), [1, 1])
    prediction[2, 5] = 0
    # All 12 pixels of class 1 and all 48 of class 0 are boundaries in the label. The prediction has 11 and 49, and (1, 6) is in the
    # inside of class 0.
    close(reference.boundary_iou([label], [prediction], 2), [47 / 49, 11 / 12])
    everything = np.full((8, 8), 255)
    close(reference.boundary_iou([everything], [prediction], 2), [NAN, NAN])


def test_calibration():
    probabilities = [
        (0.5, 0.25, 0.25),  # right; 0.5 is in the first of two bins
        (0.4, 0.4, 0.2),  # a tie: class 0, which is wrong
        (0.0, 0.75, 0.25),  # right
        (1.0, 0.0, 0.0),  # wrong
        (0.0, 0.0, 1.0),  # ignored
    ]
    ece, accuracy, confidence, count = reference.calibration(probabilities, [0, 1, 1, 2, 255], bins=2)
    close(accuracy, [0.5, 0.5])
    close(confidence, [0.45, 0.875])
    np.testing.assert_array_equal(count, [2, 2])
    close(ece, 0.5 * 0.05 + 0.5 * 0.375)


def test_bins_of_calibration():
    for i in range(15):
        edge = (i + 1) / 15
        for confidence, bin in ((edge, i), (np.nextafter(edge, 2), min(i + 1, 14)), (np.nextafter(edge, 0), i)):
            _, accuracy, mean, count = reference.calibration([[confidence, 0.0]], [0])
            assert list(np.flatnonzero(count)) == [bin] and accuracy[bin] == 1 and mean[bin] == confidence
            assert np.isnan(np.delete(accuracy, bin)).all() and np.isnan(np.delete(mean, bin)).all()


def test_calibration_without_pixels():
    ece, accuracy, confidence, count = reference.calibration([[0.5, 0.5]], [255])
    assert np.isnan([ece, *accuracy, *confidence]).all() and not count.any()
