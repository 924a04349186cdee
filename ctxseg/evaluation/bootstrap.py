"""Paired bootstrap over images: how much a difference in mIoU depends on the images of the split (Efron & Tibshirani 1993, §6, §13).

Training is not repeated: the variation between seeds is measured by the standard deviation over seeds.
"""

from typing import NamedTuple

import numpy as np

DRAWS = 2000
# Share of the draws inside the interval.
COVERAGE = 0.95


class Difference(NamedTuple):
    """mIoU of the second system minus that of the first, in [-1, 1], and the interval that contains 95 % of the draws."""

    mean: float
    low: float
    high: float


def difference(first: np.ndarray, second: np.ndarray, draws: int = DRAWS, seed: int = 0) -> Difference:
    """The difference in mIoU of two systems on the same images.

    Each draw takes N of the N images with replacement, the same ones for both systems. The mIoU of a system is the mean over its runs.
    The mIoU of a run is the mean over the classes that occur in the drawn images, in the truth or in the prediction.

    Args:
        first: integer `[R,N,K,3]`: `metrics.image_counts` of R runs (seeds).
        second: the same for the other system; R may differ.
        draws: number of draws.
        seed: random seed of the draws.
    """
    count = first.shape[1]
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    differences = _mean_iou(second, weights) - _mean_iou(first, weights)
    whole = np.ones((1, count), np.int64)
    low, high = np.quantile(differences, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Difference(float((_mean_iou(second, whole) - _mean_iou(first, whole))[0]), float(low), float(high))


def _mean_iou(counts, weights):
    """Mean over runs of the mIoU of each draw, `[D]`, from counts `[R,N,K,3]` and how often each image is drawn, `[D,N]`."""
    runs, images, classes, _ = counts.shape
    sums = weights.astype(np.float64) @ counts.transpose(1, 0, 2, 3).reshape(images, -1)
    both, truth, predicted = np.moveaxis(sums.reshape(len(weights), runs, classes, 3), -1, 0)
    union = truth + predicted - both
    iou = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return (iou.sum(-1) / np.maximum((union > 0).sum(-1), 1)).mean(-1)
