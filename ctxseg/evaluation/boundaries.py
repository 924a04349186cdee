"""Boundary IoU: how well the outlines of the classes agree. Cheng et al., "Boundary IoU", CVPR 2021.

For a class with the mask G in the truth and P in the prediction (eq. 3)

    boundary IoU = |(G_d ∩ G) ∩ (P_d ∩ P)| / |(G_d ∩ G) ∪ (P_d ∩ P)|

G_d ∩ G are the pixels of G near its outline: those that d erosions by a 3×3 square remove. d is 2 % of the diagonal of the image. As in
the authors' code, everything outside the image is outside the mask. The paper scores the objects of an image; here, the pixels of a class
are summed over all images before the division, as they are for IoU. Ignored pixels are outside every mask, of truth and prediction alike.
"""

import math

import cv2
import numpy as np
from jaxtyping import Bool, Int64, UInt8

from ctxseg.data.builders.labels import IGNORE

# d as a share of the image's diagonal.
WIDTH = 0.02


def width(size: tuple[int, int]) -> int:
    """d in pixels, at least 1, for an image of a size (height, width)."""
    return max(1, round(WIDTH * math.hypot(*size)))


def near(labels: UInt8[np.ndarray, "H W"], d: int) -> Bool[np.ndarray, "H W"]:
    """The pixels that are in the boundary region G_d ∩ G of their own class. For ignored pixels the result has no meaning.

    d erosions by a 3×3 square are one erosion by a square of 2d + 1 pixels. So a pixel is in the region if the square around it has a pixel
    of another value or leaves the image, and one maximum and one minimum over the square answer for all classes.
    """
    square = np.ones((2 * d + 1, 2 * d + 1), np.uint8)
    highest = cv2.dilate(labels, square, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE)
    lowest = cv2.erode(labels, square, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE)
    return highest != lowest


def count(
    label: UInt8[np.ndarray, "H W"], prediction: UInt8[np.ndarray, "H W"], num_classes: int
) -> Int64[np.ndarray, "{num_classes} 2"]:
    """The pixels in the intersection and in the union of the boundary regions of each class, in one image.

    Args:
        label: class ids; `IGNORE` for ignored pixels.
        prediction: class ids, and `IGNORE` where the label has it.
        num_classes: K, at most `IGNORE`.
    """
    d = width(label.shape)
    true, predicted = near(label, d), near(prediction, d)
    maps = label[true & predicted & (label == prediction)], label[true], prediction[predicted]
    both, *each = (np.bincount(ids, minlength=num_classes)[:num_classes] for ids in maps)
    return np.stack([both, sum(each) - both], axis=1)


def scores(counts: Int64[np.ndarray, "k 2"], class_names: list[str]) -> dict:
    """`boundary_IoU`, the mean over classes, and `per_class_boundary_iou` {name: score}, in [0, 1].

    A class that is neither in the truth nor predicted has None. The mean skips it, and is None if no class has a score.

    Args:
        counts: the sum of `count` over images.
        class_names: K names.
    """
    per_class = {name: float(i / u) if u else None for name, (i, u) in zip(class_names, counts, strict=True)}
    values = [value for value in per_class.values() if value is not None]
    return {"boundary_IoU": float(np.mean(values)) if values else None, "per_class_boundary_iou": per_class}
