"""Kinds of misses of a detector, after Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, §2.2.

Of a class with N objects, the N detections with the highest scores are considered, like the top-ranked false positives of Hoiem et al.,
"Diagnosing Error in Object Detectors", ECCV 2012. So there is no threshold on scores, and a class without misses has all its objects found.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as mask_api

from ctxseg.evaluation.instances import check_same_images

# IoU from which a detection has found an object, and below which it is on background.
FOUND, BACKGROUND = 0.5, 0.1
# Kind → what it is. All but the last are of detections, the last is of objects.
KINDS = {
    "wrong class": f"IoU of at least {FOUND} with an object of another class",
    "badly placed": f"IoU of {BACKGROUND} to {FOUND} with an object of its class",
    "wrong class and badly placed": f"IoU of {BACKGROUND} to {FOUND} with an object of another class",
    "duplicate": f"IoU of at least {FOUND} with an object of its class that a higher score has found",
    "background": f"IoU below {BACKGROUND} with every object",
    "missed": "an object that was not found, not given a wrong class and not badly placed",
}


class Miss(NamedTuple):
    """A detection that found no object, or an object that was missed.

    Attributes:
        kind: one of `KINDS`.
        image: index of the image in the lists.
        detection: index of the detection in the image; None for `missed`.
        object: index of the annotation with the largest IoU, or that was missed; None on the background.
        iou: IoU of the two masks, None for `missed`.
        score: of the detection; None for `missed`.
    """

    kind: str
    image: int
    detection: int | None
    object: int | None
    iou: float | None
    score: float | None


class Misses(NamedTuple):
    """Misses of a split.

    Attributes:
        counts: {kind: number}, all of `KINDS`.
        found: number of objects that were found.
        objects: number of objects, without crowds.
        examples: {kind: misses, highest score first; of `missed`, largest object first}, of different images.
    """

    counts: dict[str, int]
    found: int
    objects: int
    examples: dict[str, list[Miss]]

    def summary(self) -> dict:
        """`misses` of results.json: `counts`, `found` and `objects`."""
        return {"counts": self.counts, "found": self.found, "objects": self.objects}


def find(objects: Sequence[Mapping], detections: Sequence[Mapping], num_classes: int, examples: int = 3) -> Misses:
    """The misses of each kind, by the IoU of masks.

    The N highest scores of a class with N objects in the split are considered. Highest score first, a detection finds the free object of
    its class with the largest IoU, of at least 0.5. Detections in a crowd of their class do not count. For each of the others, the object
    with the largest IoU decides the kind (of equal ones, one of its class), see `KINDS`.

    Args:
        objects: see `instances`.
        detections: see `instances`, in the same order.
        num_classes: K.
        examples: number of examples of a kind.

    Raises:
        ValueError: see `instances.check_same_images`.
    """
    check_same_images(objects, detections)
    considered = _highest(objects, detections, num_classes)
    counts, found, total = dict.fromkeys(KINDS, 0), 0, 0
    best: dict[str, list[tuple[float, Miss]]] = {kind: [] for kind in KINDS}
    for i, (image, listed, chosen) in enumerate(zip(objects, detections, considered, strict=True)):
        misses, hits = _of_image(i, image["annotations"], listed, chosen)
        found += hits
        total += sum(not a["iscrowd"] for a in image["annotations"])
        ranked: dict[str, tuple[float, Miss]] = {}  # the best of the image
        for miss in misses:
            counts[miss.kind] += 1
            rank = image["annotations"][miss.object]["area"] if miss.score is None else miss.score
            if miss.kind not in ranked or rank > ranked[miss.kind][0]:
                ranked[miss.kind] = (rank, miss)
        for kind, entry in ranked.items():
            best[kind] = sorted([*best[kind], entry], key=lambda e: -e[0])[:examples]
    return Misses(counts, found, total, {kind: [miss for _, miss in entries] for kind, entries in best.items()})


def _highest(objects, detections, num_classes):
    """Indices of the detections of each image that are considered, highest score first."""
    truth = [a["category"] for image in objects for a in image["annotations"] if not a["iscrowd"]]
    number = np.bincount(np.array(truth, int), minlength=num_classes)
    counts = [len(image["scores"]) for image in detections]
    scores = np.concatenate([[], *(image["scores"] for image in detections)])
    classes = np.concatenate([[], *(image["classes"] for image in detections)]).astype(int)
    keep = np.zeros(len(scores), bool)
    for k in range(num_classes):
        (indices,) = np.nonzero(classes == k)
        keep[indices[np.argsort(-scores[indices], kind="stable")[: number[k]]]] = True
    starts = np.cumsum([0, *counts])
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        (chosen,) = np.nonzero(keep[start:end])
        yield chosen[np.argsort(-scores[start:end][chosen], kind="stable")]


def _of_image(i, annotations, listed, chosen):
    """The misses of an image, and the number of objects that were found."""
    categories = np.array([a["category"] for a in annotations], int)
    crowd = np.array([bool(a["iscrowd"]) for a in annotations], bool)
    iou = _iou([listed["masks"][j] for j in chosen], annotations)
    free, excused, misses = ~crowd, crowd.copy(), []
    for row, j in zip(iou, chosen, strict=True):
        same = categories == listed["classes"][j]
        candidates = np.where(same & free, row, 0)
        if candidates.max(initial=0) >= FOUND:
            free[candidates.argmax()] = False
            continue
        if np.where(same & crowd, row, 0).max(initial=0) >= FOUND:
            continue
        alone = np.where(crowd, 0, row)
        largest = alone.max(initial=0)
        own = largest > 0 and np.where(same, alone, 0).max() == largest
        nearest = int(np.where(alone == largest, 1 + same, 0).argmax()) if largest >= BACKGROUND else None
        if nearest is None:
            kind = "background"
        elif own:
            kind = "duplicate" if largest >= FOUND else "badly placed"
        else:
            kind = "wrong class" if largest >= FOUND else "wrong class and badly placed"
        if kind in ("wrong class", "badly placed"):
            excused[nearest] = True
        misses.append(Miss(kind, i, int(j), nearest, float(largest), float(listed["scores"][j])))
    # An object is missed if it is still free once every detection has been matched.
    misses += [Miss("missed", i, None, int(g), None, None) for g in np.flatnonzero(free & ~excused)]
    return misses, int((~free & ~crowd).sum())


def _iou(masks, annotations):
    """IoU of masks with annotations, `[n,m]`; of a crowd, the share of the mask in it."""
    if not masks or not annotations:
        return np.zeros((len(masks), len(annotations)))
    return mask_api.iou(masks, [a["segmentation"] for a in annotations], [int(a["iscrowd"]) for a in annotations])
