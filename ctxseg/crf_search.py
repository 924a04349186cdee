"""The parameters of the fully connected CRF: which they can be, and which are best on a validation split."""

import itertools

import numpy as np

from ctxseg import metrics
from ctxseg.crf import mean_field
from ctxseg.errors import UserError

PARAMETERS = ("iterations", "spatial_weight", "spatial_sigma", "bilateral_weight", "bilateral_sigma", "colour_sigma")


def grid(**values) -> list[dict]:
    """All combinations: `grid(bilateral_weight=(3, 4), colour_sigma=(3, 5))` are four candidates of `search`."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def check(parameters: dict, field: str = "config.crf") -> None:
    """UserError unless these are parameters of `mean_field`, with values that they can have; `field` is what they are called by."""
    for name, value in parameters.items():
        if name not in PARAMETERS:
            raise UserError(f"{field}.{name} is unknown: the parameters of the CRF are {', '.join(PARAMETERS)}")
        if name == "iterations":
            if type(value) is not int or value < 0:
                raise UserError(f"{field}.iterations is {value!r}, but must be a whole number, at least 0")
            continue
        least = 0.1 if name.endswith("sigma") else 0
        if not isinstance(value, (int, float)) or not least <= value < np.inf:
            raise UserError(f"{field}.{name} is {value!r}, but must be a number, at least {least}")


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
        check(candidate, "crf")
    confusion = [0] * len(candidates)
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
