"""Objects and detections that are rectangles, as lists of `ctxseg.evaluation.instances`."""

import numpy as np
from pycocotools import mask as mask_api

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
