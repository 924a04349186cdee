"""The calibration error and the reliability diagram, against the slow reference and by hand."""

import jax
import numpy as np
import pytest

from ctxseg.evaluation import calibration
from tests.references import scores_numpy as reference


def summary(labels, probabilities):
    pixels, confidence = jax.jit(calibration.count)(labels, probabilities)
    counts = np.concatenate([np.asarray(pixels).sum(0), np.asarray(confidence, np.float64).sum((0, 1))[None]])
    return calibration.summary(counts)


def check(labels, probabilities, actual):
    ignored = np.where(labels >= probabilities.shape[-1], 255, labels)
    expected = reference.calibration(probabilities.reshape(-1, probabilities.shape[-1]), ignored.ravel())
    ece, accuracy, confidence, count = expected
    assert actual["reliability"]["pixels"] == count.tolist()
    assert actual["ECE"] == pytest.approx(ece, abs=1e-6)
    for name, values in (("accuracy", accuracy), ("confidence", confidence)):
        means = [np.nan if v is None else v for v in actual["reliability"][name]]
        np.testing.assert_allclose(means, values, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 4, 30])
def test_random_probabilities(classes):
    """With 30 classes, the first bin has pixels. Some labels are ignored, others belong to no class."""
    rng = np.random.default_rng(classes)
    logits = rng.normal(0, 1 if classes == 30 else 2, (3, 17, 23, classes)) * rng.choice([0.1, 1, 3], (3, 17, 23, 1))
    probabilities = np.asarray(jax.nn.softmax(logits.astype(np.float32)))
    labels = np.where(rng.random((3, 17, 23)) < 0.6, probabilities.argmax(-1), rng.integers(0, classes, (3, 17, 23)))
    labels[rng.random(labels.shape) < 0.1] = 255
    labels[0, 0, :5] = 254
    actual = summary(labels.astype(np.uint8), probabilities)
    check(labels, probabilities, actual)
    assert (actual["reliability"]["pixels"][0] > 0) == (classes == 30)


def test_confidences_at_the_ends_of_bins():
    """A confidence belongs to the bin that it does not exceed. The nearest numbers of float32 are on both sides of such an end."""
    ends = (np.arange(1, 16) / 15).astype(np.float32)
    near = np.concatenate([ends, np.nextafter(ends, np.float32(0)), np.nextafter(ends, np.float32(2))])
    probabilities = np.stack([near, np.zeros_like(near)], axis=-1)[None, None]
    labels = np.zeros((1, 1, len(near)), np.uint8)
    check(labels, probabilities, summary(labels, probabilities))


def test_by_hand():
    probabilities = np.array([[[[0.8, 0.2], [0.1, 0.9], [0.7, 0.3], [0.0, 1.0]]]], np.float32)
    actual = summary(np.array([[[0, 0, 0, 255]]], np.uint8), probabilities)
    # Bins 10 to 13 end at 0.733, 0.8, 0.867 and 0.933. 0.8 in float32 is above 0.8.
    assert actual["reliability"]["pixels"] == [0] * 10 + [1, 0, 1, 1, 0]
    assert actual["reliability"]["accuracy"][10:14] == [1, None, 1, 0]
    assert actual["ECE"] == pytest.approx((0.3 + 0.2 + 0.9) / 3)


def test_large_images_do_not_lose_digits():
    """Six million equal terms. One float32 sum of them would be off by more than a percent."""
    share = np.float32(0.95)
    probabilities = np.broadcast_to(np.stack([share, 1 - share]), (1, 2000, 3000, 2))
    actual = summary(np.zeros((1, 2000, 3000), np.uint8), probabilities)
    assert actual["reliability"]["confidence"][14] == pytest.approx(share, abs=2e-6)
    assert actual["ECE"] == pytest.approx(1 - share, abs=2e-6)


def test_without_labelled_pixels():
    actual = summary(np.full((1, 2, 3), 255, np.uint8), np.full((1, 2, 3, 4), 0.25, np.float32))
    empty = [None] * 15
    assert actual == {"ECE": None, "reliability": {"pixels": [0] * 15, "confidence": empty, "accuracy": empty}}
