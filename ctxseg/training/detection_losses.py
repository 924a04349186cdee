"""Losses of a detector (Mask R-CNN, §3; SPEC §9), by name.

Each is a sum on one device, divided by a count over all devices, so the result does not depend on how a batch is split.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float

from ctxseg.models.detectors.outputs import DetectorOutput, SampledAnchors, SampledBoxes, SampledMasks
from ctxseg.models.shapes import Array


def losses(output: DetectorOutput, config, axis_name: str | None = None) -> dict[str, Float[Array, ""]]:
    """The losses that the training minimises the weighted sum of.

    Args:
        output: of the detector.
        config: `config.loss`; `rpn_box_beta` and `box_beta` are read, and the weights of a region's losses to choose the hard examples.
        axis_name: the `pmap` axis over which the batch is split, or None.

    Returns:
        {"rpn_class", "rpn_box", "box_class", "box", "mask": this device's share}: the sum over devices (`psum`) is the loss.
    """
    if output.hard_examples:
        output = hardest(output, config)
    return {
        "rpn_class": rpn_class(output.rpn, axis_name),
        "rpn_box": rpn_box(output.rpn, config.rpn_box_beta, axis_name),
        "box_class": box_class(output.boxes, axis_name),
        "box": box(output.boxes, config.box_beta, axis_name),
        "mask": mask(output.masks, output.boxes.valid if output.masks.of_every_box else output.masks.valid, axis_name),
    }


def total(output: DetectorOutput, config, axis_name: str | None = None) -> tuple[Array, dict[str, Array]]:
    """The sum of `losses`, each times its weight in `config.loss`, and the losses. Shares of this device, as in `losses`."""
    parts = losses(output, config, axis_name)
    return sum(config[name] * loss for name, loss in parts.items()), parts


def of_batch(
    model, variables, batch: dict, rng, config, axis_name: str | None = None, whole: dict | None = None
) -> tuple[Float[Array, ""], tuple]:
    """The loss of instance segmentation on a training batch, or the share of one of its micro-batches.

    The counts that divide the losses depend on the sampled boxes, which are known for only one micro-batch at a time. So each micro-batch
    is divided by its own counts, and the loss of the batch is the mean over micro-batches.

    Args:
        model: a detector.
        variables: its variables.
        batch: see `data.instances.train_iterator`.
        rng: key from which anchors and proposals are drawn, and the dropout of the backbone, if it has one.
        config: `config.loss`.
        axis_name: as in `losses`.
        whole: this device's whole batch, if `batch` is a micro-batch of it; else None.

    Returns:
        This device's share of the loss, and the updated batch statistics and None, as detectors have no memory.
    """
    output, updated = model.apply(
        variables,
        batch["image"],
        batch["size"],
        {key: batch[key] for key in ("boxes", "classes", "masks")},
        train=True,
        rngs={"sample": rng, "dropout": rng},
        mutable=["batch_stats"],
    )
    loss, _ = total(output, config, axis_name)
    parts = 1 if whole is None else len(whole["image"]) // len(batch["image"])
    return loss if parts == 1 else loss / parts, (updated, None)


def rpn_class(rpn: SampledAnchors, axis_name: str | None = None) -> Float[Array, ""]:
    """Mean binary cross entropy of the scores of the sampled anchors."""
    return _mean(optax.sigmoid_binary_cross_entropy(rpn.scores, rpn.positive), rpn.valid, rpn.valid, axis_name)


def rpn_box(rpn: SampledAnchors, beta: float, axis_name: str | None = None) -> Float[Array, ""]:
    """`smooth_l1` of the deltas of the positive anchors, summed, divided by the number of all sampled anchors."""
    return _mean(smooth_l1(rpn.deltas - rpn.targets, beta).sum(-1), rpn.positive, rpn.valid, axis_name)


def hardest(output: DetectorOutput, config) -> DetectorOutput:
    """Only the regions of each image with the largest losses are valid (online hard example mining, Shrivastava et al., CVPR 2016).

    The loss of a region is that of its class and its box, and of its mask if every region has one, each times its weight in `config`.
    """
    boxes, masks = output.boxes, output.masks
    loss = config.box_class * _of_classes(boxes) + config.box * jnp.where(
        boxes.positive, _of_boxes(boxes, config.box_beta), 0
    )
    if masks.of_every_box:
        loss += config.mask * jnp.where(masks.valid, _of_masks(masks), 0)
    loss = jax.lax.stop_gradient(jnp.where(boxes.valid, loss, -1))
    _, index = jax.lax.top_k(loss, min(output.hard_examples, loss.shape[1]))
    chosen = jax.vmap(lambda i: jnp.zeros(loss.shape[1], bool).at[i].set(True))(index)
    boxes = replace(boxes, valid=boxes.valid & chosen, positive=boxes.positive & chosen)
    if masks.of_every_box:
        masks = replace(masks, valid=masks.valid & chosen)
    return replace(output, boxes=boxes, masks=masks)


def box_class(boxes: SampledBoxes, axis_name: str | None = None) -> Float[Array, ""]:
    """Mean cross entropy of the classes of the sampled boxes, with the background."""
    return _mean(_of_classes(boxes), boxes.valid, boxes.valid, axis_name)


def box(boxes: SampledBoxes, beta: float, axis_name: str | None = None) -> Float[Array, ""]:
    """`smooth_l1` of the deltas of the positive boxes, of their own class, summed, divided by the number of all sampled boxes."""
    return _mean(_of_boxes(boxes, beta), boxes.positive, boxes.valid, axis_name)


def mask(masks: SampledMasks, counted: Bool[Array, "b _"], axis_name: str | None = None) -> Float[Array, ""]:
    """The cross entropy of the cells of the masks of positive boxes, summed over the masks, divided by the number of those `counted`.

    `sigmoid`: binary, of the mask of the object's own class. `softmax`: over the classes and the background, with the share of the object
    in the cell as the target of its class, and the rest of the cell as that of the background. A mask's is the mean over its cells.
    """
    return _mean(_of_masks(masks), masks.valid, counted, axis_name)


def _of_classes(boxes):
    """The loss of the class of each box, `[b,r]`."""
    return optax.softmax_cross_entropy_with_integer_labels(boxes.logits, boxes.classes)


def _of_boxes(boxes, beta):
    own = jnp.minimum(jnp.maximum(boxes.classes - 1, 0), boxes.deltas.shape[2] - 1)[..., None, None]
    deltas = jnp.take_along_axis(boxes.deltas, own, 2)[..., 0, :]
    return smooth_l1(deltas - boxes.targets, beta).sum(-1)


def _of_masks(masks):
    own = masks.classes[..., None, None, None]
    if masks.kind == "softmax":
        log = jax.nn.log_softmax(masks.logits)
        object_, background = jnp.take_along_axis(log, own + 1, -1)[..., 0], log[..., 0]
        ce = -(masks.targets * object_ + (1 - masks.targets) * background)
    else:
        ce = optax.sigmoid_binary_cross_entropy(jnp.take_along_axis(masks.logits, own, -1)[..., 0], masks.targets)
    return ce.mean((-1, -2))


def smooth_l1(x: Float[Array, "*n"], beta: float) -> Float[Array, "*n"]:
    """½x²/β where |x| < β, else |x| − ½β (Fast R-CNN, eq. 3, has β = 1); |x| if β = 0."""
    size = jnp.abs(x)
    if beta == 0:
        return size
    return jnp.where(size < beta, 0.5 * jnp.square(x) / beta, size - 0.5 * beta)


def _mean(values, counted, of, axis_name):
    """The sum of the `values` that are `counted`, divided by the number of all that there are `of` on all devices."""
    count = of.sum()
    if axis_name is not None:
        count = jax.lax.psum(count, axis_name)
    return jnp.where(counted, values, 0).sum() / jnp.maximum(count, 1)
