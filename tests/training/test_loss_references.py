"""The NumPy reference of the losses, against PyTorch (`benchmarks/published_losses.py`) or values computed by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest

from tests.references import losses_numpy as reference
from tests.references import published_losses as published

LOSSES = (reference.cross_entropy, reference.focal, reference.dice, reference.lovasz, reference.ohem)
log = math.log


def scores_of(*probabilities):
    """Scores with these softmax probabilities, a row for each pixel."""
    return np.log(np.array(probabilities, np.float64))


def close(a, b, tolerance=1e-12):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def check_recorded(case, loss, scores):
    """The value, and the gradient along a random direction by a central difference."""
    value, gradient = published.recorded(case)
    close(loss(scores), value)
    direction = np.random.default_rng(0).standard_normal(scores.shape)
    change = loss(scores + 1e-5 * direction) - loss(scores - 1e-5 * direction)
    close(change / 2e-5, np.vdot(direction, gradient), 1e-8)


@pytest.mark.parametrize("case", published.CROSS_ENTROPY)
def test_cross_entropy_of_pytorch(case):
    names = {"weight": "weights", "label_smoothing": "smoothing"}
    arguments = {names[key]: value for key, value in published.CROSS_ENTROPY[case].items()}
    scores, labels = published.pixels()
    check_recorded(case, lambda s: reference.cross_entropy(s, labels, **arguments), scores)


@pytest.mark.parametrize("case", published.FOCAL)
def test_focal_loss_of_torchvision(case):
    scores, labels = published.two_classes()
    check_recorded(case, lambda s: reference.focal(s, labels, published.FOCAL[case]), scores)


def test_cross_entropy():
    scores = scores_of((0.5, 0.25, 0.25), (0.1, 0.1, 0.8), (0.6, 0.3, 0.1))
    labels = [0, 2, 255]
    close(reference.cross_entropy(scores, labels), -(log(0.5) + log(0.8)) / 2)
    close(reference.cross_entropy(scores, labels, [3, 0, 1]), -(3 * log(0.5) + log(0.8)) / 4)
    # ε = 0.3: the label has 0.8, each other class 0.1.
    smooth = [-0.8 * log(0.5) - 0.2 * log(0.25), -0.8 * log(0.8) - 0.2 * log(0.1)]
    close(reference.cross_entropy(scores, labels, smoothing=0.3), sum(smooth) / 2)
    close(reference.cross_entropy(scores, labels, [3, 0, 1], 0.3), (3 * smooth[0] + smooth[1]) / 4)
    assert reference.cross_entropy(scores, labels, [0, 5, 0]) == 0


def test_focal():
    scores = scores_of((0.5, 0.25, 0.25), (0.1, 0.1, 0.8), (0.6, 0.3, 0.1))
    labels = [0, 2, 255]
    close(reference.focal(scores, labels), -(0.25 * log(0.5) + 0.04 * log(0.8)) / 2)
    close(reference.focal(scores, labels, 1.0, [3, 0, 1]), -(3 * 0.5 * log(0.5) + 0.2 * log(0.8)) / 4)
    close(reference.focal(scores, labels, 0.0), reference.cross_entropy(scores, labels))


def test_dice():
    scores = scores_of((0.5, 0.25, 0.25), (0.1, 0.1, 0.8), (0.2, 0.2, 0.6), (0.9, 0.05, 0.05))
    # Class 0: 2 · 0.5 / (0.8 + 1). Class 2: 2 · 1.4 / (1.65 + 2). Class 1 is in no label.
    close(reference.dice(scores, [0, 2, 2, 255]), 1 - (1 / 1.8 + 2.8 / 3.65) / 2)


def test_lovasz():
    """Two pixels of class 0 and one of class 1; class 2 is in no label."""
    scores = scores_of((0.7, 0.2, 0.1), (0.4, 0.5, 0.1), (0.3, 0.1, 0.6), (0.1, 0.1, 0.8))
    # Class 0: errors 0.6 (true), 0.3 (true), 0.3 (false), Jaccard losses 1/2, 1, 1.
    # Class 1: errors 0.9 (true), 0.5, 0.2 (false), Jaccard losses 1, 1, 1.
    close(reference.lovasz(scores, [0, 0, 1, 255]), ((0.6 / 2 + 0.3 / 2) + 0.9) / 2)
    # A false pixel first: errors 0.5 (false), 0.2 (true), Jaccard losses 1/2, 1, of both classes.
    close(reference.lovasz(scores_of((0.8, 0.2), (0.5, 0.5)), [0, 255]), 0.2)
    close(reference.lovasz(scores_of((0.8, 0.2), (0.5, 0.5)), [0, 1]), (0.5 / 2 + 0.2 / 2 + 0.5) / 2)


def test_lovasz_is_the_integral_of_the_jaccard_loss_over_thresholds():
    """The Lovász extension of a set function f at errors e is ∫ f({i: e_i ≥ t}) dt over t in [0, 1], if f of the empty set is 0."""
    scores, labels = published.pixels()
    counted = labels != published.IGNORE
    p, y = np.array([reference.softmax(s) for s in scores[counted]]), labels[counted]
    terms = []
    for k in np.unique(y):
        truth, term = y == k, 0.0
        errors = np.abs(truth - p[:, k])
        for low, high in pairwise((0.0, *np.sort(errors))):
            wrong = errors >= high
            term += (high - low) * (1 - (truth & ~wrong).sum() / (truth | wrong).sum())
        terms.append(term)
    close(reference.lovasz(scores, labels), np.mean(terms))


def test_lovasz_of_certain_predictions_is_the_jaccard_loss():
    labels, predictions = np.array([0, 0, 0, 1, 1, 2, 255]), np.array([0, 0, 1, 1, 3, 2, 0])
    scores = 1000.0 * (predictions[:, None] == np.arange(4))
    close(reference.lovasz(scores, labels), 1 - (2 / 3 + 1 / 3 + 1) / 3)


def test_ohem():
    p = (0.9, 0.75, 0.5, 0.6, 0.8, 0.1)
    scores, labels = scores_of(*((value, 1 - value) for value in p)), np.array([0, 0, 0, 0, 0, 255])

    def ohem(threshold, least):
        return reference.ohem(scores, labels, threshold, least)

    def mean(*chosen):
        return -sum(map(log, chosen)) / len(chosen)

    close(ohem(0.7, 1), mean(0.5, 0.6))
    close(ohem(0.7, 2), mean(0.5, 0.6))
    close(ohem(0.7, 3), mean(0.5, 0.6, 0.75))
    close(ohem(0.1, 1), mean(0.5))
    close(ohem(0.7, 5), mean(*p[:5]))
    close(ohem(0.7, 100), mean(*p[:5]))
    close(reference.ohem(scores, labels), mean(*p[:5]))  # 5 pixels are fewer than the least number
    close(ohem(1.0, 1), mean(*p[:5]))


def test_ohem_takes_all_pixels_of_a_tie():
    scores, labels = np.array([[0.0, 0.0], [0, 3], [3, 0], [2, 0], [3, 0], [0, 9]]), np.array([0, 1, 0, 0, 0, 255])
    losses = [log(2), *(log(1 + math.exp(-s)) for s in (3, 3, 2, 3))]
    close(reference.ohem(scores, labels, 0.1, 2), (losses[0] + losses[3]) / 2)
    close(reference.ohem(scores, labels, 0.1, 3), sum(losses) / 5)


def test_ohem_takes_pixels_at_the_threshold():
    close(reference.ohem([[0, 0], [0, 1], [3, 0]], [0, 0, 0], 0.5, 1), (log(2) + log(1 + math.e)) / 2)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_ignored_pixels_and_large_scores(loss):
    scores, labels = published.pixels()
    value = loss(scores, labels)
    scores[labels == published.IGNORE] = 1e30
    assert loss(scores, labels) == value > 0
    assert loss(scores, np.full_like(labels, published.IGNORE)) == loss(np.zeros((0, 5)), np.zeros(0, int)) == 0
    certain = 1e4 * (np.arange(5) == labels[:, None])
    assert loss(certain, labels) == 0
    assert np.isfinite(loss(-certain, labels))


def test_median_frequency():
    # f: class 0 has 6 + 1 of 10 + 5 pixels, class 1 4 of 10, class 3 4 of 5, class 2 none. The median is 7/15.
    pixels = [[6, 4, 0, 0], [1, 0, 0, 4]]
    close(reference.median_frequency(pixels), [1, 7 / 15 / 0.4, 0, 7 / 15 / 0.8])
    # f = 0.75 and 0.25 of one image
    close(reference.median_frequency([[3, 1, 0], [0, 0, 0]]), [2 / 3, 2, 0])
    close(reference.median_frequency([[0, 0]]), [0, 0])
