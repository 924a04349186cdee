"""Which parameters of the fully connected CRF are best on a validation split."""

import itertools

import numpy as np

from ctxseg.errors import UserError
from ctxseg.evaluation import metrics
from ctxseg.inference.crf import mean_field
from ctxseg.inference.protocol import check_crf


def grid(**values) -> list[dict]:
    """All combinations: `grid(bilateral_weight=(3, 4), colour_sigma=(3, 5))` are four candidates of `search`."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def search(samples, candidates: list[dict]) -> list[dict]:
    """Tries parameters on the images of a validation split.

    Args:
        samples: iterable of probabilities, float32 `[H,W,K]`; image, `[H,W,3]`; labels, integer `[H,W]`. Gone through once. Another shape,
            `spatial_sigma` or `iterations` means another compilation.
        candidates: arguments of `mean_field`; what is left out has its default. `{"iterations": 0}` is without a CRF. See `grid`.

    Returns:
        The candidates, each with its `mIoU` in [0, 1], over all images, best first. UserError for a parameter that cannot be.
    """
    for candidate in candidates:
        check_crf(candidate, "crf")
    confusion = [np.zeros((), np.int64)] * len(candidates)
    for probabilities, image, labels in samples:
        for i, candidate in enumerate(candidates):
            predictions = mean_field(probabilities[None], image[None], **candidate).argmax(-1)
            counts = metrics.confusion_matrix(labels[None], predictions, probabilities.shape[-1])
            confusion[i] = confusion[i] + np.asarray(counts, np.int64)
    if not np.any(confusion):
        raise UserError("there is nothing to search the CRF's parameters with: no image, no label or no candidate")
    names = [str(k) for k in range(len(confusion[0]))]
    found = [{"mIoU": metrics.scores(n, names, {})["mIoU"], **c} for n, c in zip(confusion, candidates, strict=True)]
    return sorted(found, key=lambda one: -one["mIoU"])
