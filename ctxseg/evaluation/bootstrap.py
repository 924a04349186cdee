"""Paired bootstrap over images: how far a difference in mIoU would move had the split had other images (Efron & Tibshirani 1993, §6, §13).

Training is not drawn again: of what another seed would give, the standard deviation over seeds speaks.
"""

from typing import NamedTuple

import numpy as np

DRAWS = 2000
COVERED = 0.95  # of the draws lie inside the interval


class Difference(NamedTuple):
    """The second system's mIoU minus the first one's, in [-1, 1], and the interval that 95 % of the draws lie in."""

    mean: float
    low: float
    high: float


def difference(first: np.ndarray, second: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Of the mIoU of two systems on the same images.

    In each draw, N images are taken from the N with replacement, the same ones for both systems. A system's mIoU is the mean over
    its runs; of each run, the mean over the classes that are in the drawn images, as truth or predicted.

    Args:
        first: integer `[R,N,K,3]`: `metrics.image_counts` of R runs (seeds).
        second: likewise; R may differ.
        draws: how often.
        seed: of the draws.
    """
    count = first.shape[1]
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    moved = _mean_iou(second, weights) - _mean_iou(first, weights)
    whole = np.ones((1, count), np.int64)
    low, high = np.quantile(moved, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Difference(float((_mean_iou(second, whole) - _mean_iou(first, whole))[0]), float(low), float(high))


def _mean_iou(counts, weights):
    """`[R,N,K,3]`, `[D,N]`: how often each image is drawn → `[D]`, the mean over runs of the mIoU of all drawn images' pixels."""
    runs, images, classes, _ = counts.shape
    sums = weights.astype(np.float64) @ counts.transpose(1, 0, 2, 3).reshape(images, -1)
    both, truth, predicted = np.moveaxis(sums.reshape(len(weights), runs, classes, 3), -1, 0)
    union = truth + predicted - both
    iou = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return (iou.sum(-1) / np.maximum((union > 0).sum(-1), 1)).mean(-1)
