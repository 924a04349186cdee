"""A tiny detector, its variables, and a batch with hard images, for the tests and for `tests/detector_on_devices.py`."""

import jax
import numpy as np
from ml_collections import ConfigDict

from ctxseg.models.backbones.tiny import Tiny
from ctxseg.models.context.fpn import FPN
from ctxseg.models.detectors.mask_rcnn import MaskRCNN
from ctxseg.models.layers import ConvNorm
from ctxseg.training import detection_losses

CLASSES, SIZE = 3, 64
LOSS = ConfigDict(
    {
        "rpn_class": 1.0,
        "rpn_box": 1.0,
        "rpn_box_beta": 1 / 9,
        "box_class": 1.0,
        "box": 1.0,
        "box_beta": 1.0,
        "mask": 1.0,
    }
)
FIELDS = {
    "anchor_sizes": (16, 32, 64), "proposals_before": (30, 30), "proposals_after": (20, 20), "rois": 16, "rpn_samples": 32,
    "box_channels": 8, "mask_channels": 4, "mask_layers": 1, "mask_bins": 4, "box_bins": 3, "detections": 6, "canonical_size": 32.0,
    "score_threshold": 0.2,
}  # fmt: skip


# FCIS, of as few parts and cells; and the same networks with deformable layers and hard examples.
FCIS_FIELDS = {
    name: FIELDS[name] for name in ("anchor_sizes", "proposals_before", "proposals_after", "rpn_samples", "detections", "canonical_size")
} | {"groups": 2, "bins": 4, "rois": 24, "hard_examples": 12, "score_threshold": 0.2}  # fmt: skip
DEFORMABLE = {
    "backbone": {"deformable": (0, 1, 1, 0), "offset_groups": 2},
    "box_pooling": "deformable", "hard_examples": 8, "rois": 24, "suppression": "linear",
}  # fmt: skip


def detector(axis_name=None, kind=MaskRCNN, **fields):
    """A detector of two levels. `fields` are in addition to `FIELDS`, or to `FCIS_FIELDS`; `backbone` has those of the backbone."""

    def conv(*args, **kwargs):
        return ConvNorm(*args, axis_name=axis_name, **kwargs)

    # Two maps and a coarser level of anchors: the fewest with every kind of level. Each level adds to the time of compilation.
    backbone = Tiny(width=2, output_stride=32, conv=conv, **fields.pop("backbone", {}))
    neck = FPN(("res3", "res4"), channels=4, conv=conv)
    fields = (FIELDS if kind is MaskRCNN else FCIS_FIELDS) | fields
    return kind(backbone, neck, CLASSES, conv=conv, axis_name=axis_name, **fields)


def variables(model, seed=0):
    """Random values, larger than the initial ones, so that the proposals and the detections differ."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        name = path[-1].key
        if name in ("scale", "var"):
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        fan_in = (
            np.prod(x.shape[:-2] if path[-2].key == "deltas" and x.ndim == 3 else x.shape[:-1]) if x.ndim > 1 else 4
        )
        return rng.normal(0, 1 / np.sqrt(max(fan_in, 1)), x.shape).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), np.zeros((1, SIZE, SIZE, 3), np.uint8))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def batch(count, seed=0):
    """Images with several objects, with one, with none, and with a box of no area, padded to different sizes."""
    rng = np.random.default_rng(seed)
    objects = (
        ((20, 10, 50, 30, 0), (5, 40, 20, 60, 2), (0, 0, 9, 9, 1)),
        ((8, 8, 40, 44, 1),),
        (),
        ((30, 12, 30, 12, 2), (2, 2, 34, 30, 0)),
    )
    boxes, classes = np.zeros((count, 4, 4), np.float32), np.full((count, 4), -1, np.int32)
    masks = np.zeros((count, 4, SIZE, SIZE), np.uint8)
    for i in range(count):
        for n, (left, top, right, bottom, class_) in enumerate(objects[i % len(objects)]):
            boxes[i, n], classes[i, n] = (left, top, right, bottom), class_
            masks[i, n, top:bottom, left:right] = rng.integers(0, 4, (bottom - top, right - left)) > 0
    sizes = np.array([(64, 64), (48, 57), (64, 40), (33, 64)], np.int32)[np.arange(count) % 4]
    return {
        "image": rng.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8),
        "size": sizes,
        "boxes": boxes,
        "classes": classes,
        "masks": np.packbits(masks, axis=-1, bitorder="little"),
    }


def apply(model, variables, batch, seed=1):
    """The output of a training step, and the updated batch statistics."""
    objects = {name: batch[name] for name in ("boxes", "classes", "masks")}
    rngs = {"sample": jax.random.PRNGKey(seed)}
    return model.apply(variables, batch["image"], batch["size"], objects, True, rngs=rngs, mutable=["batch_stats"])


def total(output, axis_name=None):
    """The weighted sum of the losses, and the losses by name."""
    return detection_losses.total(output, LOSS, axis_name)
