"""From images to objects with boxes, scores and masks at the images' own size (SPEC §9, testing).

The objects of an image are a dict: `boxes` float32 `[n,4]`, (left, top, right, bottom) in pixels; `scores` float32 `[n]`; `classes` int32
`[n]`; `masks`, n masks as COCO's compressed run lengths, {"size": [height, width], "counts": bytes}. The best object comes first.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from pycocotools import mask as run_lengths

from ctxseg import devices
from ctxseg.data.sizes import bucket
from ctxseg.models.detectors import masks
from ctxseg.models.detectors.outputs import Detections


def create_detect_step(model):
    """(replicated variables, batch) → `Detections`, compiled for every local device.

    The batch has `image` uint8 `[D,B,H,W,3]` and `size` int32 `[D,B,2]`, the height and width of each image, which is padded.
    """
    return devices.Parallel(lambda variables, batch: model.apply(variables, batch["image"], batch["size"]))


def objects_of(detections: Detections, index: int, size, own: tuple[int, int]) -> dict:
    """The objects of one image of a batch, at the image's own size.

    Args:
        detections: NumPy arrays, of a batch.
        index: of the image in the batch.
        size: height and width that the detector saw.
        own: height and width of the image itself.
    """
    count = int(detections.valid[index].sum())
    height, width = (n / m for n, m in zip(own, size, strict=True))
    boxes = detections.boxes[index] * np.array([width, height, width, height], np.float32)
    shape = tuple(map(bucket, own))  # few shapes, since each is compiled

    def mask(probabilities, box):
        pasted = np.asarray(_paste(probabilities, box, detections.threshold, shape))[: own[0], : own[1]]
        return run_lengths.encode(np.asfortranarray(pasted))

    return {
        "boxes": boxes[:count],
        "scores": detections.scores[index][:count],
        "classes": detections.classes[index][:count],
        # One at a time, since the masks of a large image need much memory.
        "masks": [mask(*pair) for pair in zip(detections.masks[index][:count], boxes[:count], strict=True)],
    }


@partial(jax.jit, static_argnums=3)
def _paste(probabilities, box, threshold, shape):
    """The mask of a box `[m,m]` in the image: uint8 `[*shape]`, 0 or 1."""
    return (masks.paste(probabilities[None], box[None], shape)[0] >= threshold).astype(np.uint8)


def create_finder(model, resize: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """(variables, uint8 image `[H,W,3]`, (height, width)) → its objects, at that size.

    Args:
        model: a detector, on one device.
        resize: image → image of the size that the detector sees.
    """
    apply = jax.jit(model.apply)

    def find(variables, image, size_of_objects):
        resized = resize(image)
        size = resized.shape[:2]
        canvas = np.zeros((1, *map(bucket, size), 3), np.uint8)
        canvas[0, : size[0], : size[1]] = resized
        detections = jax.device_get(apply(variables, canvas, np.array([size], np.int32)))
        return objects_of(detections, 0, size, size_of_objects)

    return find
