"""The paired bootstrap against a plain loop, and the coverage of its intervals."""

import numpy as np
import pytest

from ctxseg.errors import UserError
from ctxseg.evaluation import bootstrap
from ctxseg.runs import record


def counts_of(rng, hit_rate, images=30, classes=3, pixels=200):
    """Counts [1,N,K,3] of random images, in which a share `hit_rate` of the pixels is correct."""
    counts = np.zeros((1, images, classes, 3), np.int32)
    for n in range(images):
        truth = rng.integers(0, classes, pixels)
        guess = np.where(rng.random(pixels) < hit_rate, truth, rng.integers(0, classes, pixels))
        for k in range(classes):
            counts[0, n, k] = ((truth == k) & (guess == k)).sum(), (truth == k).sum(), (guess == k).sum()
    return counts


def mean_iou(counts):
    """The mIoU for the counts [N,K,3] of one run, in a loop over classes."""
    iou = []
    for both, truth, predicted in counts.sum(0):
        if truth + predicted - both:
            iou.append(both / (truth + predicted - both))
    return np.mean(iou)


def test_difference_and_its_interval_match_a_loop():
    rng = np.random.default_rng(0)
    first, second = (np.concatenate([counts_of(rng, rate) for _ in range(runs)]) for rate, runs in ((0.6, 2), (0.7, 3)))
    first[:, 1:, 2] = second[:, 1:, 2] = 0  # class 2 is only in the first image, and so missing in many draws
    difference = bootstrap.difference(first, second, draws=300, seed=5)
    means = [np.mean([mean_iou(run) for run in runs]) for runs in (first, second)]
    assert difference.mean == pytest.approx(means[1] - means[0], abs=1e-12)

    draws, chosen = [], np.random.default_rng(5).multinomial(30, np.full(30, 1 / 30), 300)
    for times in chosen:
        images = np.repeat(np.arange(30), times)
        a, b = (np.mean([mean_iou(run[images]) for run in runs]) for runs in (first, second))
        draws.append(b - a)
    np.testing.assert_allclose((difference.low, difference.high), np.quantile(draws, [0.025, 0.975]), atol=1e-12)


def test_intervals_contain_the_true_difference():
    """A system does not differ from itself. For equally good systems, about 95 % of the intervals contain 0."""
    rng = np.random.default_rng(1)
    one = counts_of(rng, 0.5)
    assert bootstrap.difference(one, one) == (0, 0, 0)
    covered = 0
    for _ in range(200):
        difference = bootstrap.difference(counts_of(rng, 0.5), counts_of(rng, 0.5), draws=200)
        covered += difference.low <= 0 <= difference.high
    assert 0.88 < covered / 200 < 0.99


def test_counts_are_read_in_the_order_of_image_names(tmp_path):
    """Evaluations may have different orders of images. The message for a damaged file names it, and the mode that writes it."""
    assert record.read_image_counts(tmp_path) is None
    np.savez(tmp_path / "images.npz", names=np.array(["a"]), counts=np.zeros((1, 4, 3), np.int32))
    names, counts = record.read_image_counts(tmp_path)
    assert names == ["a"] and counts.shape == (1, 4, 3)
    np.savez(tmp_path / "images.npz", names=np.array(["b", "a"]), counts=np.array([[[2, 2, 2]], [[1, 1, 1]]], np.int32))
    names, counts = record.read_image_counts(tmp_path)
    assert names == ["a", "b"] and counts[:, 0, 0].tolist() == [1, 2]
    np.savez(tmp_path / "images.npz", names=np.array(["a", "b"]), counts=np.zeros((1, 4, 3), np.int32))
    with pytest.raises(UserError, match=r"images\.npz is damaged.*names and counts.*evaluate"):
        record.read_image_counts(tmp_path)
    (tmp_path / "images.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"images\.npz.*evaluate"):
        record.read_image_counts(tmp_path)
