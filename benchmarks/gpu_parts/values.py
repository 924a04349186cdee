"""Values and gradients of every module on the device against those of the CPU, in float32, with products of full precision."""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ctxseg.configs import defaults
from ctxseg.inference import crf as dense_crf
from ctxseg.models import CONTEXTS, create_model, memory
from ctxseg.models.attention import attention
from ctxseg.models.convolution import convolve, convolve_depthwise
from ctxseg.models.detectors import boxes, masks
from ctxseg.models.detectors.matching import match, sample
from ctxseg.models.detectors.nms import nms
from ctxseg.models.detectors.roi_align import levels_of, roi_align
from ctxseg.models.resizing import area_resize, average_pool, max_pool, resize, window_mean
from ctxseg.training import detection_losses, losses, pixel_losses
from gpu_parts import crf, steps

TOLERANCES = {"values": 1e-4, "gradients": 5e-2}
TITLE = "Values against the CPU's"
NOTE = (
    "For each array, the norm of its difference divided by its norm, or by a thousandth of the largest norm if that is more; of integers, "
    "the share that differs. The table has the largest of all arrays. Gradients differ more than values, because rounding moves some "
    "values across the kink of a ReLU. "
    f"Tolerances: {TOLERANCES['values']:g} for values, {TOLERANCES['gradients']:g} for gradients."
)
FRESH = False
COLUMNS = ("module", "values", "gradients", "within the tolerances")
CLASSES, KEY = 5, 0

SMALL = {
    "model.backbone.width": 8, "model.context.channels": 16, "model.context.stages": 2, "model.context.subdivisions": (2, 3),
    "model.context.units": (8,), "model.context.regions": 16, "model.context.key_channels": 8, "model.context.bins": (1, 2),
    "model.context.dilations": (1, 2), "model.memory.channels": 16, "model.auxiliary.channels": 8, "model.scales.head_filters": 8,
}  # fmt: skip
MULTISCALE = {"model.scales.scales": (1.0, 0.5)}
DETECTOR = {
    "model.detector.name": "mask_rcnn", "model.backbone.output_stride": 32, "model.context.channels": 16,
    "model.detector.anchor_sizes": (12.0, 24.0, 48.0, 96.0), "model.detector.canonical_size": 42.0, "model.detector.rois": 16,
    "model.detector.proposals_before": (60, 60), "model.detector.proposals_after": (30, 30), "model.detector.rpn_samples": 32,
    "model.detector.box_channels": 32, "model.detector.mask_channels": 8, "model.detector.detections": 10,
}  # fmt: skip
TRANSFORMER = {"model.backbone.depth": 4, "model.backbone.heads": 2, "model.backbone.grid": 3}
# {entry: fields of the config}. The other ResNets have the blocks of these two; the same holds for the other networks of several sizes.
NETWORKS = {
    f"backbone {name}": {"model.backbone.name": name}
    for name in ("none", "tiny", "efficientnet_lite0", "vgg16", "resnet18", "resnet50")
}
NETWORKS |= {
    "backbone vgg16 hrenet": {"model.backbone.name": "vgg16", "model.backbone.layout": "hrenet"},
    "backbone resnet50 stem": {"model.backbone.name": "resnet50", "model.backbone.stem": "conv3_32"},
    "backbone resnet18 deformable": {"model.backbone.name": "resnet18", "model.backbone.deformable": (0, 0, 1, 2)},
    "backbone resnest50": {"model.backbone.name": "resnest50", "model.backbone.stage_sizes": (1, 1, 1, 1)},
    "backbone hrnetv2_w18": {
        "model.backbone.name": "hrnetv2_w18",
        "model.backbone.modules": (1, 1, 1),
        "model.backbone.blocks": 1,
    },
    "backbone vit_tiny_16": {"model.backbone.name": "vit_tiny_16"} | TRANSFORMER,
    "backbone dinov2_small_14": {"model.backbone.name": "dinov2_small_14"} | TRANSFORMER,
}
NETWORKS |= {f"context {name}": {"model.context.name": name} for name in CONTEXTS if name != "none"}
NETWORKS |= {
    f"context renet {cell}": {"model.context.name": "renet", "model.context.cell": cell} for cell in ("gru", "irnn")
}
NETWORKS |= {
    "connections msci": {
        "model.context.name": "ppm", "model.connections.name": "msci", "model.connections.channels": 16,
        "model.connections.stages": 1, "model.connections.regions": 16,
    },
    "memory mcibi": {"model.memory.name": "mcibi"},
    "auxiliary heads": {"model.auxiliary.levels": ("res3", "res4")},
    "scales attention": {"model.scales.merge": "attention"} | MULTISCALE,
    "scales average": {"model.scales.merge": "average"} | MULTISCALE,
    "scales max": {"model.scales.merge": "max"} | MULTISCALE,
    "detector mask_rcnn fpn": {"model.context.name": "fpn"} | DETECTOR,
    "detector mask_rcnn zigzag": {"model.context.name": "zigzag", "model.detector.mask_scores": "softmax"} | DETECTOR,
    "detector mask_rcnn deformable": {"model.context.name": "fpn"} | DETECTOR | {
        "model.backbone.deformable": (0, 1, 1, 0), "model.backbone.offset_groups": 2, "model.detector.box_pooling": "deformable",
    },
    "detector fcis": {"model.context.name": "fpn"} | DETECTOR | {
        "model.detector.name": "fcis", "model.detector.groups": 2, "model.detector.bins": 4, "model.detector.hard_examples": 8,
    },
}  # fmt: skip


def entries():
    return [*OPERATIONS, *NETWORKS]


def network(fields: dict, size: int):
    """A function of variables and a batch, and its arguments. Its values are the loss, the batch statistics, and the test output."""
    config = defaults.get_config()
    config.update_from_flattened_dict(SMALL | fields)
    model = create_model(config.model, CLASSES)
    detector = config.model.detector.name != "none"
    batch = steps.objects(2, (size, size), 6, CLASSES) if detector else steps.labelled(2, (size, size), CLASSES, 16)
    loss_of_batch = (detection_losses if detector else losses).of_batch

    def function(variables, batch):
        def loss(params):
            result, (updated, _) = loss_of_batch(
                model, variables | {"params": params}, batch, jax.random.PRNGKey(KEY), config.loss
            )
            return result, updated

        result, gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        tested = model.apply(variables, batch["image"], None if detector else batch["regions"])
        return {"values": (result, tested if detector else tested.logits), "gradients": gradients}

    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(KEY), *model.example((size, size)))
    return function, (drawn(shapes), batch)


def drawn(shapes):
    """Random variables of these shapes, the same on every device."""
    rng = np.random.default_rng(KEY)

    def draw(path, x):
        name = path[-1].key
        if name.endswith("kernel") or name == "bank":
            return (rng.normal(size=x.shape) * np.sqrt(2 / max(np.prod(x.shape[:-1]), 1))).astype(x.dtype)
        ones = name in ("scale", "scale1", "scale2", "var", "seen") or "gamma" in name
        return (np.ones if ones else np.zeros)(x.shape, x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def noise(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape, np.float32)


def differentiated(function):
    """A function that returns the values of `function`, and the gradients of half of the sum of their squares."""

    def both(*arguments):
        y, transpose = jax.vjp(function, *arguments)
        return {"values": y, "gradients": transpose(y)}

    return both


def convolutions(size):
    kernels = [noise(k, k, 16, 32) for k in (1, 3, 3, 3, 5)]
    settings = ((1, 1), (1, 1), (2, 1), (1, 4), (2, 1))  # stride, dilation

    def function(x, kernels):
        return [convolve(x, kernel, *setting) for kernel, setting in zip(kernels, settings, strict=True)]

    return differentiated(function), (noise(2, size, size + 1, 16), kernels)


def depthwise(size):
    def function(x, kernel):
        return convolve_depthwise(x, kernel), convolve_depthwise(x, kernel, 2)

    return differentiated(function), (noise(2, size, size, 16), noise(3, 3, 1, 16))


def resized(size):
    def function(x):
        larger, smaller = (2 * size + 1, size + 3), (size // 3, size // 2)
        pooled = average_pool(x, (3, 3)), max_pool(x, 3, 2, 1), window_mean(x, 3)
        return resize(x, larger), resize(x, smaller), resize(x, larger, "nearest"), area_resize(x, smaller), pooled

    return differentiated(function), (noise(2, size, size + 1, 8),)


def attended(size):
    queries, keys, maps = noise(2, size * size, 16), noise(2, 50, 16), noise(2, 50, 8)
    return differentiated(partial(attention, scale=0.25, chunk=64)), (queries, keys, maps)


def memories(size):
    pixels, labels = noise(2, size // 4, size // 4, 8), steps.labelled(2, (size, size), CLASSES, 0)["label"]
    bank = {"bank": noise(CLASSES, 8), "seen": np.arange(CLASSES) > 0}

    def function(bank, pixels, labels):
        sampled = memory.sample(pixels, labels, CLASSES, jax.random.PRNGKey(KEY))
        clustered = memory.centres(memory.cluster(pixels, labels, CLASSES))
        return {"values": (memory.update(bank, pixels, labels, 0.9, cosine=True), sampled, clustered)}

    return function, (bank, pixels, labels)


def random_boxes(count, size):
    corners = np.random.default_rng(KEY).uniform(0, 0.7 * size, (count, 2))
    sides = np.random.default_rng(KEY + 1).uniform(0.02, 0.3, (count, 2)) * size
    return np.concatenate([corners, corners + sides], -1).astype(np.float32)


def aligned(size):
    maps, regions = [noise(2, size // stride, size // stride, 8) for stride in (4, 8)], random_boxes(40, size)

    def function(maps):
        levels = levels_of(regions, 2, 3, size / 4)
        return roi_align(maps, jnp.asarray(regions), np.arange(40) % 2, levels, (1 / 4, 1 / 8), 7, 2, True)

    return differentiated(function), (maps,)


def suppressed(size):
    anchors, objects = random_boxes(300, size), random_boxes(10, size)
    scores = np.random.default_rng(KEY).permutation(300).astype(np.float32)

    def function(anchors, objects, scores):
        matched = match(boxes.iou(anchors, objects), np.arange(10) < 8, 0.5, 0.3, True)
        kept = nms(anchors, scores, 0.5, 100)
        deltas = boxes.encode(objects, anchors[:10], (1.0, 1.0, 1.0, 1.0))
        decoded = boxes.decode(deltas, anchors[:10], (1.0, 1.0, 1.0, 1.0))
        return {"values": (matched, sample(jax.random.PRNGKey(KEY), matched, 64, 0.5), kept, deltas, decoded)}

    return function, (anchors, objects, scores)


def masked(size):
    batch = steps.objects(1, (size, size), 6, CLASSES)

    def function(packed, within):
        cropped = masks.crop(packed, within, np.arange(6), 14)
        return {"values": (cropped, masks.paste(cropped, within, (size, size)))}

    return function, (batch["masks"][0], batch["boxes"][0])


def entropy(size):
    labels = steps.labelled(2, (size, size), CLASSES, 0)["label"]
    logits = noise(2, size // 4, size // 4, CLASSES)
    return differentiated(lambda logits: pixel_losses.cross_entropy(logits, labels)), (logits,)


def mean_field(size):
    image = crf.picture((size, size + 8), crf.NOISE["grainy"])
    probabilities = np.asarray(jax.nn.softmax(2 * noise(1, size, size + 8, CLASSES)))
    return lambda *inputs: {"values": dense_crf.mean_field(*inputs)}, (probabilities, image)


OPERATIONS = {
    "convolutions": convolutions,
    "depthwise convolutions": depthwise,
    "resizing and pooling": resized,
    "attention": attended,
    "updates of the memory": memories,
    "RoIAlign": aligned,
    "boxes and their suppression": suppressed,
    "masks": masked,
    "cross entropy": entropy,
    "DenseCRF": mean_field,
}


def measure(entry: str, tiny: bool, images: int) -> dict:
    size = 32 if tiny else 64
    function, arguments = OPERATIONS[entry](size) if entry in OPERATIONS else network(NETWORKS[entry], size)
    start = time.perf_counter()
    with jax.default_matmul_precision("highest"):
        ours, cpu = (
            jax.device_get(jax.jit(function)(*jax.device_put(arguments, device)))
            for device in (jax.local_devices()[0], jax.local_devices(backend="cpu")[0])
        )
    figures: dict = {"seconds": time.perf_counter() - start}
    for kind, expected in cpu.items():
        figures[kind], figures[f"{kind}_worst"] = difference(ours[kind], expected)
    return figures


def difference(values, expected) -> tuple[float, str]:
    """The largest relative difference of two trees of arrays, and the name of the array that has it."""
    leaves = jax.tree_util.tree_flatten_with_path(expected)[0]
    pairs = [
        (jax.tree_util.keystr(path), np.asarray(x), np.asarray(y))
        for (path, y), x in zip(leaves, jax.tree.leaves(values), strict=True)
    ]
    largest = max((_norm(y) for _, _, y in pairs if y.dtype.kind == "f"), default=0.0)
    return max((_relative(x, y, largest), name) for name, x, y in pairs)


def _relative(x, y, largest):
    if y.dtype.kind != "f":
        return float((x != y).mean()) if y.size else 0.0
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return float("inf")
    return _norm(x.astype(np.float64) - y) / max(_norm(y), 1e-3 * largest, 1e-30)


def _norm(x):
    return float(np.linalg.norm(x.astype(np.float64)))


def cells(entry: str, figures: dict, parts: dict) -> list:
    kinds = [kind for kind in TOLERANCES if kind in figures]
    outside = [figures[f"{kind}_worst"] for kind in kinds if not figures[kind] <= TOLERANCES[kind]]
    return [
        *(f"{figures[kind]:.1e}" if kind in figures else None for kind in TOLERANCES),
        f"no: {', '.join(outside)}" if outside else "yes",
    ]
