"""Scores and labels of a few pixels, and the losses that PyTorch and torchvision compute for them.

`benchmarks/published_losses.py` records them in `published_losses.npz`, float64. The scores are not in the file. They are drawn by
`published.uniform`, which gives the same values with every release of NumPy.
"""

from pathlib import Path

import numpy as np

from tests.references.published import uniform

RECORDED = Path(__file__).with_name("published_losses.npz")

PIXELS, CLASSES, IGNORE = 24, 5, 255
WEIGHTS = (0.5, 2.0, 1.25, 0.0, 3.0)  # the pixels of class 3 do not count
SMOOTHING = 0.1
# {case: arguments of `torch.nn.functional.cross_entropy` besides the scores and the labels}
CROSS_ENTROPY = {
    "plain": {},
    "weights": {"weight": WEIGHTS},
    "smoothing": {"label_smoothing": SMOOTHING},
}
FOCAL = {"focal_gamma_2": 2.0, "focal_gamma_0.5": 0.5}  # {case: γ}


def pixels():
    """Scores [24,5] in [-4, 4), float64, and labels [24], int64: all classes but class 4, and 255 at every fifth pixel."""
    scores = 4 * uniform("scores", PIXELS * CLASSES).reshape(PIXELS, CLASSES).astype(np.float64)
    labels = np.arange(PIXELS) % (CLASSES - 1)
    labels[::5] = IGNORE
    return scores, labels


def two_classes():
    """Scores [24,2] and labels [24], 0, 1 and 255: the focal loss of a softmax is that of a sigmoid of the difference of the scores."""
    scores, labels = pixels()
    return scores[:, :2], np.where(labels == IGNORE, IGNORE, labels % 2)


def recorded(case):
    """(loss, its gradient in the shape of the scores), float64."""
    with np.load(RECORDED) as file:
        return float(file[f"{case}/loss"]), file[f"{case}/gradient"]
