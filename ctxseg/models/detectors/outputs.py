"""What detectors return: for the losses, and as detections."""

from typing import Literal, no_type_check

import flax
from jaxtyping import Bool, Float32, Int32

from ctxseg.models.shapes import Array


@no_type_check  # its fields may also be shapes, as in `jax.eval_shape`
@flax.struct.dataclass
class SampledAnchors:
    """The anchors that a training step reads.

    Attributes:
        scores: logits that the anchor has an object.
        deltas: predicted deltas.
        targets: deltas of the object that the anchor is matched with.
        valid: which of them exist, fewer than S if there are too few positives and negatives.
        positive: which of them are matched with an object.
    """

    scores: Float32[Array, "b s"]
    deltas: Float32[Array, "b s 4"]
    targets: Float32[Array, "b s 4"]
    valid: Bool[Array, "b s"]
    positive: Bool[Array, "b s"]


@no_type_check
@flax.struct.dataclass
class SampledBoxes:
    """The regions of interest that a training step reads.

    Attributes:
        logits: scores of the background and of the K classes, in this order.
        deltas: predicted deltas of each class, or one row for all classes.
        classes: 0 for the background, else 1 + the class of the object.
        targets: deltas of the object that the box is matched with.
        valid: which of them exist.
        positive: which of them are matched with an object.
    """

    logits: Float32[Array, "b r k+1"]
    deltas: Float32[Array, "b r _ 4"]
    classes: Int32[Array, "b r"]
    targets: Float32[Array, "b r 4"]
    valid: Bool[Array, "b r"]
    positive: Bool[Array, "b r"]


@no_type_check
@flax.struct.dataclass
class SampledMasks:
    """The masks of the positive regions of interest.

    Attributes:
        logits: scores of the mask of each class; with `kind="softmax"`, of the background and of the K classes, in this order.
        targets: share of the object in each cell, from 0 to 1.
        classes: class of the object, 0 to K − 1.
        valid: which of them exist.
        kind: `sigmoid`: each class has a mask of its own; `softmax`: each cell has one class.
        of_every_box: whether there is a mask for every region, not only for the first ones. Its loss is then a mean over regions, and one
            of the losses by which hard examples are chosen.
    """

    logits: Float32[Array, "b p m m _"]
    targets: Float32[Array, "b p m m"]
    classes: Int32[Array, "b p"]
    valid: Bool[Array, "b p"]
    kind: Literal["sigmoid", "softmax"] = flax.struct.field(pytree_node=False, default="sigmoid")
    of_every_box: bool = flax.struct.field(pytree_node=False, default=False)


@no_type_check
@flax.struct.dataclass
class DetectorOutput:
    """What a detector returns in training: everything that the losses need, matched and sampled.

    Attributes:
        rpn: anchors.
        boxes: regions of interest.
        masks: their masks.
        hard_examples: number of regions of an image, those with the largest losses, that are trained on; 0: all.
    """

    rpn: SampledAnchors
    boxes: SampledBoxes
    masks: SampledMasks
    hard_examples: int = flax.struct.field(pytree_node=False, default=0)


@no_type_check
@flax.struct.dataclass
class Detections:
    """The objects that a detector found, best first.

    Attributes:
        boxes: (left, top, right, bottom), in pixels.
        scores: probabilities.
        classes: 0 to K − 1; −1 if there is no detection.
        valid: which of them exist, the first ones.
        masks: probability of the object in each cell of a grid over the box.
        threshold: probability from which a pixel belongs to the object.
    """

    boxes: Float32[Array, "b d 4"]
    scores: Float32[Array, "b d"]
    classes: Int32[Array, "b d"]
    valid: Bool[Array, "b d"]
    masks: Float32[Array, "b d m m"]
    threshold: float = flax.struct.field(pytree_node=False, default=0.5)
