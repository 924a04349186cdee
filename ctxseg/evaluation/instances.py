"""COCO's average precision of boxes and masks, by pycocotools, and detections in COCO's result format. SPEC §9, "Testing".

Two lists describe a split, image by image:

- *objects*: the ground truth as records have it, `{"id", "height", "width", "annotations": [{"category": 0…K−1, "bbox": [x, y, w, h],
  "area", "iscrowd", "segmentation": compressed run lengths}, …]}`;
- *detections*: `{"id", "name", "boxes" float32 [n,4] as (left, top, right, bottom), "scores" float32 [n], "classes" int32 [n], "masks":
  n compressed run lengths}`, in pixels of the image at its own size.
"""

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ctxseg.files import write_bytes

# The name of a score → pycocotools' type of IoU.
KINDS = {"mask": "segm", "box": "bbox"}
# pycocotools' ranges of areas, in its order, with the boundaries 32² and 96² pixels.
AREAS = ("", "_small", "_medium", "_large")
# IoU thresholds of the precision-recall curves.
CURVES = (0.5, 0.75)
# The numbers of detections of a class in an image at which recall is measured; the last is the limit.
MAX_DETECTIONS = (1, 10, 100)


class Scored(NamedTuple):
    """The tables of COCOeval for one kind of IoU. −1 where a class has no object of that size.

    Attributes:
        precision: `[T,R,K,A]`: at T IoU thresholds (.50, .55, …, .95) and R recalls (0, .01, …, 1), for K classes and A ranges of areas.
        recall: `[T,K,A,M]`: with the best M detections of an image.
    """

    precision: np.ndarray
    recall: np.ndarray


def evaluate(objects: Sequence[Mapping], detections: Sequence[Mapping], class_names: Sequence[str]) -> dict:
    """COCO's scores of detections, in [0, 1], as in results.json.

    A crowd neither rewards nor punishes. Of an image, the 100 best detections of each class count. Equal scores are ranked by image id,
    then in the order of the list, as COCOeval does. A mean skips the classes without objects; without any object it is None.

    Args:
        objects: ground truth of every image of the split.
        detections: detections in the same images, in the same order.
        class_names: K names.

    Returns:
        For masks and, with `box_` instead, for boxes: `mask_AP` (mean over IoU .50 to .95), `mask_AP50`, `mask_AP75`, `mask_AP_small`,
        `mask_AP_medium`, `mask_AP_large`, `mask_AR1`, `mask_AR10`, `mask_AR100`, `mask_AR_small`, `mask_AR_medium`, `mask_AR_large`.
        `per_class_AP` and `per_class_box_AP`: {name: AP, or None}. `curves`: {`mask_AP50`, `mask_AP75`, `box_AP50`, `box_AP75`: the
        precision at the recalls 0, .01, …, 1, mean over classes, or None}. `objects`: their number, without crowds.

    Raises:
        ValueError: the lists do not describe the same images, or a mask does not have the size of its image.
    """
    check_same_images(objects, detections)
    order = sorted(range(len(objects)), key=lambda i: objects[i]["id"])
    scores: dict[str, float | None] = {}
    curves, per_class = {}, {}
    for kind, iou_type in KINDS.items():
        scored = _tables(objects, detections, order, len(class_names), iou_type)
        scores |= _summary(scored, kind)
        for threshold in CURVES:
            name = f"{kind}_AP{round(100 * threshold)}"
            curves[name] = _mean_curve(scored.precision[_index(threshold), :, :, 0])
        per_class[kind] = dict(zip(class_names, map(_mean, np.moveaxis(scored.precision[..., 0], 2, 0)), strict=True))
    count = sum(not a["iscrowd"] for image in objects for a in image["annotations"])
    return scores | {
        "per_class_AP": per_class["mask"],
        "per_class_box_AP": per_class["box"],
        "curves": curves,
        "objects": count,
    }


def score_line(scores: Mapping) -> str:
    """The scores of `evaluate` in one line, four decimals, - for None."""
    named = {"mask_AP": "mask AP", "mask_AP50": "AP50", "mask_AP75": "AP75", "box_AP": "box AP", "box_AP50": "AP50"}
    numbers = {key: "-" if scores[key] is None else f"{scores[key]:.4f}" for key in named}
    return "  ".join(f"{name} {numbers[key]}" for key, name in named.items())


def results(detections: Sequence[Mapping], category_ids: Sequence[int]) -> Iterator[dict]:
    """Detections in COCO's result format (https://cocodataset.org/#format-results): boxes as x, y, width, height, and masks.

    Args:
        detections: of the images; their ids are those of the published annotations.
        category_ids: the K published ids of the classes.
    """
    for image in detections:
        rows = zip(image["boxes"], image["scores"], image["masks"], image["classes"], strict=True)
        for *row, label in rows:
            yield {"image_id": image["id"], "category_id": int(category_ids[label])} | coco_result(*row)


def coco_result(box, score, mask) -> dict:
    """`score`, `bbox` (x, y, width, height) and `segmentation` of a detection in COCO's result format, in JSON types."""
    left, top, right, bottom = box
    return {
        "score": _shortest(score),
        "bbox": [_shortest(v) for v in (left, top, right - left, bottom - top)],
        "segmentation": run_lengths_as_text(mask),
    }


def write_results(path, detections: Sequence[Mapping], category_ids: Sequence[int]) -> None:
    """Writes `results` as the JSON file that COCO's server takes, one detection on a line, atomically."""
    buffer = io.BytesIO()
    for i, result in enumerate(results(detections, category_ids)):
        buffer.write((",\n" if i else "[\n").encode() + json.dumps(result, separators=(",", ":")).encode())
    buffer.write(b"\n]\n" if buffer.tell() else b"[]\n")
    write_bytes(path, buffer.getvalue())


def run_lengths_as_text(mask: Mapping) -> dict:
    """Compressed run lengths in JSON types: pycocotools' encoder returns the counts as bytes."""
    counts = mask["counts"]
    return {"size": [int(n) for n in mask["size"]], "counts": counts.decode() if isinstance(counts, bytes) else counts}


def _shortest(value):
    """The shortest decimal that is this float32: short to write, and equal scores stay equal."""
    return float(str(np.float32(value)))


def check_same_images(objects, detections) -> None:
    """ValueError if the lists do not describe the same images in the same order, or a mask does not have the size of its image."""
    if [image["id"] for image in objects] != [image["id"] for image in detections]:
        raise ValueError("objects and detections do not have the same images in the same order")
    for image, found in zip(objects, detections, strict=True):
        size = [image["height"], image["width"]]
        masks = [*found["masks"], *(a["segmentation"] for a in image["annotations"])]
        if any(list(mask["size"]) != size for mask in masks):
            raise ValueError(f"a mask of image {image['id']} does not have the size of the image, {size}")


def _tables(objects, detections, order, classes, iou_type) -> Scored:
    """COCOeval's tables. Each class is evaluated by itself, which gives the same numbers and needs the memory of one class only."""
    precision = np.full((10, 101, classes, len(AREAS)), -1.0)
    recall = np.full((10, classes, len(AREAS), len(MAX_DETECTIONS)), -1.0)
    truth = _by_class([[a["category"] for a in objects[i]["annotations"]] for i in order], classes)
    found = _by_class([detections[i]["classes"] for i in order], classes)
    for k in range(classes):
        annotations = [_object(objects[order[i]]["annotations"][j], i) for i, j in truth[k]]
        if all(a["iscrowd"] for a in annotations):
            continue
        tables = _evaluate_class(
            annotations, [_detection(detections[order[i]], j, i, iou_type) for i, j in found[k]], iou_type
        )
        precision[:, :, k] = tables["precision"][:, :, 0, :, -1]
        recall[:, k] = tables["recall"][:, 0]
    return Scored(precision, recall)


def _by_class(labels, classes):
    """For each class, the pairs (image, index in the image) with its label, int `[n,2]`."""
    counts = [len(x) for x in labels]
    where = np.stack(
        [np.repeat(np.arange(len(counts)), counts), np.concatenate([[], *map(np.arange, counts)]).astype(int)], axis=1
    )
    flat = np.concatenate([[], *labels]).astype(int)
    return [where[flat == k] for k in range(classes)]


def _object(annotation, image):
    return {
        "image_id": image,
        "category_id": 1,
        "segmentation": annotation["segmentation"],
        "bbox": annotation["bbox"],
        "area": annotation["area"],
        "iscrowd": int(annotation["iscrowd"]),
    }


def _detection(found, j, image, iou_type):
    """A detection as COCO's server reads it: its area is that of what is compared, the mask or the box."""
    left, top, right, bottom = map(float, found["boxes"][j])
    width, height = right - left, bottom - top
    mask = found["masks"][j]
    return {
        "image_id": image,
        "category_id": 1,
        "segmentation": mask,
        "bbox": [left, top, width, height],
        "area": float(mask_api.area(mask)) if iou_type == "segm" else width * height,
        "score": float(found["scores"][j]),
    }


def _evaluate_class(truth, found, iou_type):
    """COCOeval's tables of one class."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(truth, found), _coco(found, truth), iou_type)
        evaluation.params.maxDets = list(MAX_DETECTIONS)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


def _coco(annotations, others):
    """The annotations as pycocotools' index, with the images of both lists."""
    coco = COCO()
    images = sorted({int(a["image_id"]) for a in (*annotations, *others)})
    # Ids from 1, as pycocotools takes 0 for "not matched".
    annotations = [a | {"id": i} for i, a in enumerate(annotations, 1)]
    entries = [{"id": i, "height": 0, "width": 0} for i in images]  # the sizes are read, and used for polygons only
    coco.dataset = {"images": entries, "annotations": annotations, "categories": [{"id": 1}]}
    coco.createIndex()
    return coco


def _summary(scored, kind):
    """COCO's twelve numbers, see `evaluate`."""
    precision, recall = scored
    scores = {f"{kind}_AP": _mean(precision[..., 0])}
    scores |= {f"{kind}_AP{round(100 * t)}": _mean(precision[_index(t), :, :, 0]) for t in CURVES}
    scores |= {f"{kind}_AP{name}": _mean(precision[..., i]) for i, name in enumerate(AREAS) if name}
    scores |= {f"{kind}_AR{count}": _mean(recall[:, :, 0, i]) for i, count in enumerate(MAX_DETECTIONS)}
    return scores | {f"{kind}_AR{name}": _mean(recall[:, :, i, -1]) for i, name in enumerate(AREAS) if name}


def _index(threshold):
    """The index of an IoU threshold in COCOeval's tables."""
    return round((threshold - 0.5) / 0.05)


def _mean(values):
    """The mean of the values that are not −1, None without any."""
    values = values[values > -1]
    return float(values.mean()) if values.size else None


def _mean_curve(precision):
    """Precision `[R]`, mean over the classes of `[R,K]` that have objects, None without any."""
    precision = precision[:, precision[0] > -1]
    return [round(float(p), 4) for p in precision.mean(1)] if precision.size else None
