"""Metrics of semantic segmentation, all computed from one confusion matrix. SPEC §8."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32, Integer

from ctxseg.models.shapes import Array


def confusion_matrix(
    labels: Integer[Array, "*shape"], predictions: Integer[Array, "*shape"], num_classes: int
) -> Int32[Array, "{num_classes} {num_classes}"]:
    """Pixels by true class (row) and predicted class (column).

    Args:
        labels: ids; those outside [0, num_classes), such as 255, are not counted.
        predictions: ids in [0, num_classes).
        num_classes: K.

    Returns:
        The counts. Sum over batches on the host in int64.
    """
    labels = labels.astype(jnp.int32).ravel()
    counted = (labels >= 0) & (labels < num_classes)
    cells = jnp.where(counted, labels * num_classes + predictions.ravel(), num_classes**2)
    return jnp.bincount(cells, length=num_classes**2 + 1)[:-1].reshape(num_classes, num_classes)


def image_counts(confusion: Integer[Array, "*images k k"]) -> Integer[Array, "*images k 3"]:
    """The counts that IoU needs, for each class: pixels that are correct, pixels in the truth, and pixels in the prediction.

    Args:
        confusion: of each image, rows = truth.

    Returns:
        The three, of the same dtype.
    """
    return jnp.stack([jnp.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)], axis=-1)


def image_iou(counts: Integer[np.ndarray, "k 3"]) -> float | None:
    """Mean IoU of an image over the classes that are in its truth or in its prediction. None without a labelled pixel.

    Args:
        counts: see `image_counts`.
    """
    hits, truth, predicted = np.asarray(counts).T
    union = truth + predicted - hits
    return float(np.mean(hits[union > 0] / union[union > 0])) if truth.any() else None


def scores(confusion: Integer[Array, "k k"], class_names: list[str], groups: dict[str, list[str]]) -> dict:
    """mIoU, pixel accuracy, mean class accuracy, F1, and IoU weighted by frequency; IoU and F1 per class, and IoU per group of classes.

        IoU_k = n_kk / (Σ_j n_kj + Σ_j n_jk − n_kk)        F1_k = 2 n_kk / (Σ_j n_kj + Σ_j n_jk), also called Dice's coefficient

    Args:
        confusion: rows = truth.
        class_names: K names.
        groups: {group: names of its classes}, may be empty.

    Returns:
        `mIoU`, `pixel_accuracy`, `mean_accuracy`, `mean_F1`, `frequency_weighted_IoU` (Σ_k IoU_k Σ_j n_kj / Σ_kj n_kj) in [0, 1], or None
        without a labelled pixel; `per_class_iou` and `per_class_f1` {name: score, or None for a class that is neither in the truth nor
        predicted}; `group_iou` {group: mean over its classes, or None}. Means skip None.
    """
    confusion = np.asarray(confusion, np.float64)
    hits, truth, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    union = truth + predicted - hits
    iou = {name: hit / u if u else None for name, hit, u in zip(class_names, hits, union, strict=True)}
    f1 = {name: None if value is None else 2 * value / (1 + value) for name, value in iou.items()}
    weighted = sum(t * (value or 0.0) for t, value in zip(truth, iou.values(), strict=True))
    return {
        "mIoU": _mean(iou.values()),
        "pixel_accuracy": hits.sum() / truth.sum() if truth.any() else None,
        "mean_accuracy": _mean(hit / t for hit, t in zip(hits, truth, strict=True) if t),
        "mean_F1": _mean(f1.values()),
        "frequency_weighted_IoU": float(weighted / truth.sum()) if truth.any() else None,
        "per_class_iou": iou,
        "per_class_f1": f1,
        "group_iou": {group: _mean(iou[name] for name in names) for group, names in groups.items()},
    }


def _mean(values):
    values = [v for v in values if v is not None]
    return float(np.mean(values)) if values else None
