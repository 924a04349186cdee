"""Pictures of an evaluation for loggers, as arrays."""

from collections.abc import Sequence

import cv2
import numpy as np

from ctxseg.runs.record import Picture
from ctxseg.views import instance_pictures

# Largest width of an image, of which a picture has two or three, and the gap between them, in pixels.
WIDTH, GAP = 512, 4


def labels(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, palette: Sequence) -> np.ndarray:
    """An image, its labels and their prediction, side by side.

    Args:
        image: uint8 `[h,w,3]`. A wide image is reduced to `WIDTH`.
        label: integers `[h,w]`, 255 where pixels are ignored: grey.
        prediction: integers `[h,w]`.
        palette: K colours.

    Returns:
        uint8 `[h',w',3]`.
    """
    colours = np.full((256, 3), 128, np.uint8)
    colours[: len(palette)] = palette
    maps = [colours[_reduced(np.asarray(x, np.uint8), cv2.INTER_NEAREST)] for x in (label, prediction)]
    return _beside(_reduced(image, cv2.INTER_AREA), *maps)


def objects(picture: Picture, class_names: Sequence[str]) -> np.ndarray:
    """The objects of a picture, and the detections with a high score, side by side: uint8 `[h',w',3]`."""
    truth = picture.objects
    names = [
        class_names[label] + (" (crowd)" if crowd else "")
        for label, crowd in zip(truth.classes, truth.crowd, strict=True)
    ]
    return _beside(
        instance_pictures.draw(picture.image, truth.boxes, names, list(truth.masks), list(truth.crowd)),
        instance_pictures.draw_detections(picture.image, picture.detections._asdict(), class_names),
    )


def _reduced(image, interpolation):
    height, width = image.shape[:2]
    if width <= WIDTH:
        return image
    return cv2.resize(image, (WIDTH, max(round(height * WIDTH / width), 1)), interpolation=interpolation)


def _beside(first, *others):
    """Images `[h,w,3]` of one height, with white gaps between them."""
    gap = np.full((len(first), GAP, 3), 255, np.uint8)
    return np.concatenate([first, *(part for image in others for part in (gap, image))], axis=1)
