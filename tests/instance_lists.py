"""Objects and detections that are rectangles, as lists of `ctxseg.evaluation.instances`, and a run that has them."""

import numpy as np
from pycocotools import mask as mask_api

from ctxseg import files
from ctxseg.evaluation import instance_samples, instances, misses
from ctxseg.runs import metrics_log, record

SIZE = 200
CAT, DOG, OWL = range(3)
A, B, C = (0, 0, 50, 50), (100, 0, 150, 50), (0, 100, 50, 150)
NOWHERE = (150, 150, 190, 190)


def run_lengths(box, size=SIZE):
    left, top, right, bottom = box
    mask = np.zeros((size, size), np.uint8, order="F")
    mask[top:bottom, left:right] = 1
    return mask_api.encode(mask)


def truth(*objects, image=1):
    """An image with objects (class, box) or (class, box, whether it is a crowd)."""
    annotations = []
    for i, (category, box, *crowd) in enumerate(objects):
        left, top, right, bottom = map(int, box)
        width, height = right - left, bottom - top
        annotations.append(
            {"id": i, "category": int(category), "bbox": [left, top, width, height], "area": width * height,
             "iscrowd": int(any(crowd)), "segmentation": run_lengths((left, top, right, bottom))}
        )  # fmt: skip
    return {"id": image, "height": SIZE, "width": SIZE, "annotations": annotations}


def found(*detections, image=1):
    """Detections in an image: (class, box, score)."""
    return {
        "id": image,
        "name": f"image {image}",
        "boxes": np.array([box for _, box, _ in detections], np.float32).reshape(-1, 4),
        "scores": np.array([score for *_, score in detections], np.float32),
        "classes": np.array([category for category, *_ in detections], np.int32),
        "masks": [run_lengths(box) for _, box, _ in detections],
    }


def write_run(folder, detections, names, system="mask_rcnn"):
    """The files of a run whose split has two images: a cat and a dog, and a cat. `names` are those of the two classes."""
    folder.mkdir()
    objects = [truth((CAT, A), (DOG, B), image=1), truth((CAT, C), image=2)]
    scores, missed = instances.evaluate(objects, detections, names), misses.find(objects, detections, 2)
    image = np.full((SIZE, SIZE, 3), 90, np.uint8)
    pictures = instance_samples.pictures(objects, detections, missed, lambda i: image, 5)
    results = scores | {
        "task": "instances", "misses": missed.summary(),
        "step": 600, "data": "scenes_instances", "split": "val", "protocol": "shorter side 128", "class_names": names,
    }  # fmt: skip
    record.write_instances(folder, results, pictures)
    config = {"system": system, "model": {"detector": {"name": "mask_rcnn"}}, "data": {"name": "scenes_instances"}}
    files.write_json(folder / "config.json", config)
    metrics_log.MetricsLog(folder).write(300, "eval", {"mask_AP": 0.4321})
    return folder
