"""A training step of every system, with the crop and the backbone of its paper."""

import importlib

import jax
import numpy as np

from ctxseg import devices
from ctxseg.models import create_model
from ctxseg.training import detection_losses, losses, optimizers
from ctxseg.training.state import create_state
from ctxseg.training.step import create_train_step
from gpu_parts import pytorch
from gpu_parts.measuring import compile_program, count_operations, median_seconds, memory_cell, peak_memory

TITLE = "Training steps"
NOTE = (
    "Share of the ceiling: operations of matrix products and convolutions per second, as XLA counts them, divided by those of the matrix "
    "product of the same dtype. Images: per step and device; halved while memory is lacking. Images/s are those of all devices; PyTorch "
    "uses one."
)
FRESH = True
COLUMNS = ("step", "crop", "images", "images/s", "share of the ceiling", "peak memory, GiB", "compilation, s")
DTYPES = ("bfloat16", "float32")

# {system: (data set of its paper, number of classes)}. The systems of the five papers are first.
SYSTEMS = {
    "msci": ("voc2012", 21),
    "nrenet": ("stanford_background", 8),
    "hrenet": ("voc2012", 21),
    "attention": ("pascal_person_part", 7),
    "zigzag": ("voc2012", 21),
    "mcibi": ("ade20k", 150),
    "zigzag_mask_rcnn": ("coco_instances", 80),
    "zigzag_deformable_rcnn": ("coco_instances", 80),
    "zigzag_fcis": ("coco_instances", 80),
    "fcn": ("voc2012", 21),
    "largefov": ("pascal_person_part", 7),
    "pspnet": ("ade20k", 150),
    "deeplabv3": ("ade20k", 150),
    "deeplabv3plus": ("ade20k", 150),
    "encoder_decoder": ("voc2012", 21),
    "ocrnet": ("ade20k", 150),
    "mask_rcnn": ("coco_instances", 80),
    "deformable_rcnn": ("coco_instances", 80),
    "deformable_faster_rcnn": ("coco_instances", 80),
    "fcis": ("coco_instances", 80),
}
# The network that is also measured in PyTorch, that of `benchmarks/cpu_steps.py`.
COMPARED = "fcn_resnet50"
PYTORCH = " PyTorch"


def entries():
    compared = [f"{COMPARED} {dtype}{side}" for dtype in DTYPES for side in ("", PYTORCH)]
    first, *others = [[f"{system} {dtype}" for dtype in DTYPES] for system in SYSTEMS]
    return [*first, *compared, *(entry for pair in others for entry in pair)]


def measure(entry: str, tiny: bool, images: int) -> dict:
    if entry.endswith(PYTORCH):
        return _measure_pytorch(entry.removesuffix(PYTORCH), tiny, images)
    config, classes, crop = _config(*entry.split(), tiny)
    model = create_model(config.model, classes, axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps, tuple(config.model.frozen))
    detector = config.model.detector.name != "none"
    loss = detection_losses.of_batch if detector else losses.of_batch
    step = create_train_step(model, optimizer, config, loss)
    state = [devices.replicate(create_state(model, optimizer, crop, 0))]
    count = images * jax.local_device_count()
    batch = devices.shard(
        objects(count, crop, config.data.max_objects, classes)
        if detector
        else labelled(count, crop, classes, config.data.superpixels)
    )
    batch = jax.device_put(batch, state[0].step.sharding)
    operations = count_operations(step, state[0], batch)
    program, compilation = compile_program(step, state[0], batch)

    def run():
        state[0], metrics = program(state[0], batch)
        jax.block_until_ready(metrics)

    seconds = median_seconds(run, tiny)
    figures = _figures(crop, images, count, seconds) | {"compile_seconds": compilation, "operations": operations}
    return figures | {"operations_per_second": operations / seconds} | peak_memory(program)


def _figures(crop, images, count, seconds):
    return {"crop": crop, "images": images, "seconds": seconds, "images_per_second": count / seconds}


def _config(system, dtype, tiny):
    """The config, the number of classes and the crop (height, width) of a step."""
    dataset, classes = SYSTEMS["fcn" if system == COMPARED else system]
    if tiny:
        dataset = "scenes_instances" if dataset == "coco_instances" else "scenes"
    config = importlib.import_module(f"ctxseg.configs.{'fcn' if system == COMPARED else system}").get_config(dataset)
    config.model.dtype = dtype
    if tiny:
        config.data.crop = (64, 64)
        config.model.backbone.width = 4
    elif system == COMPARED:
        config.model.backbone.update({"name": "resnet50", "output_stride": 8})
    landscape = (800, 1344)  # where images are not cropped, see `InstanceAugmentation.canvas`
    return config, classes, tuple(config.data.crop) or landscape


def labelled(count: int, size: tuple[int, int], classes: int, superpixels: int) -> dict:
    """A batch of noise whose labels are squares of 16 pixels. Super-pixels are a grid of rectangles, at most `superpixels`."""
    rng, (height, width) = np.random.default_rng(0), size
    coarse = rng.integers(0, classes, (count, -(-height // 16), -(-width // 16)), np.uint8)
    batch = {
        "image": rng.integers(0, 256, (count, height, width, 3), np.uint8),
        "label": np.kron(coarse, np.ones((16, 16), np.uint8))[:, :height, :width],
    }
    if superpixels:
        side = int(superpixels**0.5)
        rows, columns = (np.arange(n) * side // n for n in size)
        batch["regions"] = np.tile((rows[:, None] * side + columns).astype(np.int32), (count, 1, 1))
    return batch


def objects(count: int, size: tuple[int, int], most: int, classes: int) -> dict:
    """A batch for a detector, as in `ctxseg/data/instances.py`: noise, with at most 32 rectangular objects per image."""
    rng, (height, width) = np.random.default_rng(0), size
    corners = rng.uniform(0, 0.6, (count, most, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 0.4, corners.shape)], -1)
    boxes *= np.array([width, height, width, height])
    columns, rows = np.arange(-(-width // 8)) * 8, np.arange(height)  # a byte has 8 columns
    across = (columns >= boxes[..., :1]) & (columns < boxes[..., 2:3])
    down = (rows >= boxes[..., 1:2]) & (rows < boxes[..., 3:])
    return {
        "image": rng.integers(0, 256, (count, height, width, 3), np.uint8),
        "size": np.tile(np.array(size, np.int32), (count, 1)),
        "boxes": boxes.astype(np.float32),
        "classes": np.where(np.arange(most) < 32, rng.integers(0, classes, (count, most)), -1).astype(np.int32),
        "masks": np.where(down[..., :, None] & across[..., None, :], 255, 0).astype(np.uint8),
    }


def _measure_pytorch(name, tiny, images):
    if reason := pytorch.missing(tiny):
        return {"skipped": reason}
    system, dtype = name.split()
    _, classes, crop = _config(system, dtype, tiny)
    batch = labelled(images, crop, classes, 0)
    seconds, memory = pytorch.measure(batch["image"], batch["label"], classes, dtype, tiny)
    return _figures(crop, images, images, seconds) | memory


def cells(entry: str, figures: dict, parts: dict) -> list:
    dtype = "bfloat16" if "bfloat16" in entry else "float32"
    ceiling = parts.get("ceilings", {}).get(dtype, {}).get("operations_per_second")
    reached, compilation = figures.get("operations_per_second"), figures.get("compile_seconds")
    return [
        "×".join(map(str, figures["crop"])),
        str(figures["images"]),
        f"{figures['images_per_second']:.2f}",
        f"{reached / ceiling:.1%}" if reached and ceiling else None,
        memory_cell(figures),
        None if compilation is None else f"{compilation:.0f}",
    ]
