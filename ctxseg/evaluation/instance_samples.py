"""Pictures for reports on instance segmentation: whole images, and close-ups of misses, in a bounded size."""

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from pycocotools import mask as mask_api

from ctxseg.evaluation.misses import Miss, Misses
from ctxseg.runs.record import Instances, Picture

# The longer sides of pictures, in pixels.
LONGEST, LONGEST_CLOSE_UP = 1024, 384
# Detections of samples have at least this score.
SHOWN = 0.5


def pictures(
    objects: Sequence[Mapping], detections: Sequence[Mapping], missed: Misses, read_image: Callable, count: int
) -> list[Picture]:
    """The pictures of an evaluation: the first `count` images, and a close-up of each example of a miss.

    Args:
        objects: see `instances`.
        detections: see `instances`, in the same order.
        missed: their misses.
        read_image: index in the lists → image, uint8 `[h,w,3]`.
        count: number of samples.
    """
    names = [image["name"] for image in detections]
    samples = range(min(count, len(names)))
    examples = [miss for kind in missed.examples.values() for miss in kind]
    return [
        *(whole(names[i], read_image(i), objects[i], detections[i]) for i in samples),
        *(close_up(m, names[m.image], read_image(m.image), objects[m.image], detections[m.image]) for m in examples),
    ]


def whole(name: str, image: np.ndarray, objects: Mapping, detections: Mapping) -> Picture:
    """An image with its objects, and its detections with a score of at least `SHOWN`.

    Args:
        name: of the image.
        image: uint8 `[h,w,3]`.
        objects: of the image, see `instances`.
        detections: in the image, see `instances`.
    """
    scores = np.asarray(detections["scores"])
    order = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] >= SHOWN]
    everything = range(len(objects["annotations"]))
    return _picture(name, "", image, objects, everything, detections, order, (0, 0, *image.shape[1::-1]), LONGEST)


def close_up(miss: Miss, name: str, image: np.ndarray, objects: Mapping, detections: Mapping) -> Picture:
    """The part of an image around a miss, with its detection and the object that decided its kind. Arguments as for `whole`."""
    boxes = []
    if miss.detection is not None:
        boxes.append(np.asarray(detections["boxes"][miss.detection], np.float64))
    if miss.object is not None:
        left, top, width, height = objects["annotations"][miss.object]["bbox"]
        boxes.append(np.array([left, top, left + width, top + height], np.float64))
    low, high = np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]
    margin = max(16, (high - low).max() / 2)
    limit = np.array(image.shape[1::-1])
    left, top = np.clip(np.floor(low - margin), 0, limit - 1).astype(int)
    right, bottom = np.clip(np.ceil(high + margin), (left + 1, top + 1), limit).astype(int)
    chosen = [] if miss.object is None else [miss.object]
    found = [] if miss.detection is None else [miss.detection]
    window = (left, top, right, bottom)
    return _picture(name, miss.kind, image, objects, chosen, detections, found, window, LONGEST_CLOSE_UP)


def _picture(name, kind, image, objects, chosen, detections, found, window, longest):
    """The window (left, top, right, bottom) of an image, reduced to `longest`."""
    left, top, right, bottom = window
    factor = min(1.0, longest / max(right - left, bottom - top))
    size = tuple(max(1, round(n * factor)) for n in (right - left, bottom - top))  # width, height, as cv2 wants it
    image = cv2.resize(image[top:bottom, left:right], size, interpolation=cv2.INTER_AREA)
    scale = np.array(size) / (right - left, bottom - top)

    def placed(boxes, masks, classes, scores, crowd):
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        small = [_reduced(mask, window, size) for mask in masks]  # one at a time: large masks need much memory
        return Instances(
            ((boxes - np.tile((left, top), 2)) * np.tile(scale, 2)).astype(np.float32),
            np.array(classes, np.int32),
            np.array(small, bool).reshape(-1, *size[::-1]),
            np.array(scores, np.float32),
            np.array(crowd, bool),
        )

    annotations = [objects["annotations"][i] for i in chosen]
    corners = [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in annotations)]
    truth = placed(
        corners,
        [a["segmentation"] for a in annotations],
        [a["category"] for a in annotations],
        np.ones(len(annotations)),
        [a["iscrowd"] for a in annotations],
    )
    boxes, masks, classes, scores = (
        [detections[key][i] for i in found] for key in ("boxes", "masks", "classes", "scores")
    )
    return Picture(name, kind, image, truth, placed(boxes, masks, classes, scores, np.zeros(len(found))))


def _reduced(mask, window, size):
    left, top, right, bottom = window
    part = np.ascontiguousarray(mask_api.decode(mask)[top:bottom, left:right])
    return cv2.resize(part, size, interpolation=cv2.INTER_NEAREST)
