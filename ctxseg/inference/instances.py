"""From images to objects with boxes, scores and masks at the images' own size (SPEC §9, testing).

The objects of an image are a dict: `boxes` float32 `[n,4]`, (left, top, right, bottom) in pixels; `scores` float32 `[n]`; `classes` int32
`[n]`; `masks`, n masks as COCO's compressed run lengths, {"size": [height, width], "counts": bytes}. The best object comes first.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from jax import lax
from pycocotools import mask as run_lengths

from ctxseg import devices
from ctxseg.data.sizes import bucket
from ctxseg.models.detectors import masks
from ctxseg.models.detectors.outputs import Detections

THRESHOLD = 0.5  # probability from which a pixel belongs to an object


def create_detect_step(model):
    """(replicated variables, batch) → `Detections`, compiled for every local device.

    The batch has `image` uint8 `[D,B,H,W,3]` and `size` int32 `[D,B,2]`, the height and width of each image, which is padded.
    """
    return devices.parallel(lambda variables, batch: model.apply(variables, batch["image"], batch["size"]))


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
    pasted = np.asarray(_paste(detections.masks[index], boxes, shape))[:count, : own[0], : own[1]]
    return {
        "boxes": boxes[:count],
        "scores": detections.scores[index][:count],
        "classes": detections.classes[index][:count],
        "masks": [run_lengths.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in pasted],
    }


@partial(jax.jit, static_argnums=2)
def _paste(probabilities, boxes, shape):
    """Masks in the image: bool `[n,*shape]`. One at a time, so that only the results are stored."""
    return lax.map(lambda x: masks.paste(x[0][None], x[1][None], shape)[0] >= THRESHOLD, (probabilities, boxes))


def create_finder(model, resize: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """(variables, uint8 image `[H,W,3]`) → its objects.

    Args:
        model: a detector, on one device.
        resize: image → image of the size that the detector sees.
    """
    apply = jax.jit(model.apply)

    def find(variables, image):
        resized = resize(image)
        size = resized.shape[:2]
        canvas = np.zeros((1, *map(bucket, size), 3), np.uint8)
        canvas[0, : size[0], : size[1]] = resized
        detections = jax.device_get(apply(variables, canvas, np.array([size], np.int32)))
        return objects_of(detections, 0, size, image.shape[:2])

    return find
