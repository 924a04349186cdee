"""Searches parameters of the fully connected CRF on a validation split."""

import itertools

import numpy as np

from ctxseg.errors import UserError
from ctxseg.evaluation import metrics
from ctxseg.inference.crf import mean_field
from ctxseg.inference.protocol import check_crf


def grid(**values) -> list[dict]:
    """All combinations: `grid(bilateral_weight=(3, 4), colour_sigma=(3, 5))` returns four candidates for `search`."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def search(samples, candidates: list[dict]) -> list[dict]:
    """Scores candidate parameters on the images of a validation split.

    Args:
        samples: iterable of (probabilities float32 `[H,W,K]`, image `[H,W,3]`, labels integer `[H,W]`), consumed once. Each new shape,
            `spatial_sigma` or `iterations` is compiled.
        candidates: arguments of `mean_field`; missing ones have their default. `{"iterations": 0}`: no CRF. See `grid`.

    Returns:
        The candidates, each with its `mIoU` in [0, 1] over all images, best first.

    Raises:
        UserError: an invalid parameter, or nothing to search with.
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
        raise UserError("--mode=crf has nothing to search on: no image, no label or no candidate")
    names = [str(k) for k in range(len(confusion[0]))]
    scored = [{"mIoU": metrics.scores(n, names, {})["mIoU"], **c} for n, c in zip(confusion, candidates, strict=True)]
    return sorted(scored, key=lambda candidate: -candidate["mIoU"])
