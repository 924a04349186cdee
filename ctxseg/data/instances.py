"""Samples and batches for instance segmentation.

A sample is a dict of

    image    uint8 [H, W, 3], RGB
    name     str
    id       int, the image's id in the published JSON
    boxes    float32 [n, 4]: left, top, right, bottom in pixels; a box of the whole image is (0, 0, W, H)
    classes  int32 [n], 0 … K-1
    crowd    bool [n]: whether it is a region with many objects
    areas    float32 [n]: the published area in pixels of the original image
    masks    uint8 [n, H, W], 0 or 1

Boxes and masks move with the image. Masks take the nearest pixel, so that they stay binary. A box is scaled and shifted exactly. Only if a
crop cuts it, the box of the remaining mask replaces it, as the mask often fills less of the clipped box (Detectron2 does the same). Objects
without a pixel are dropped: they would be boxes with an empty mask.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import cv2
import grain
import numpy as np
from pycocotools import mask as run_lengths

from ctxseg import bounds
from ctxseg.data import pipeline, transforms
from ctxseg.data.builders.records import objects_file
from ctxseg.data.sizes import bucket, limited_size_of
from ctxseg.data.transforms import PADDING, Share
from ctxseg.errors import UserError
from ctxseg.files import parse_json, read_bytes

STRIDE = 32  # the sides of canvases are multiples of the coarsest map's stride in most networks
ROUNDING = 0.01  # pixels; a box that reaches less far out of a window is not cut
ENDLESS = 2**40  # number of samples in an endless data set; Grain counts its batches in floating point


class InstanceSource(pipeline.Records):
    """The decoded samples of one split, by index, see the top of this file. Indexing raises UserError if a record is damaged.

    Attributes:
        sizes: int32 [N, 2], height and width of each image.
        counts: int32 [N], number of objects in each image, without crowds.
    """

    def __init__(self, builder, split: str):
        """`builder` is prepared, and has the split, or the splits joined by +."""
        super().__init__(builder, split, ("image",))
        sizes, counts = [], []
        for name in split.split("+"):
            path = objects_file(builder, name)
            try:
                content = parse_json(read_bytes(path))
                sizes += content["sizes"]
                counts += content["objects"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} cannot be read; {self._remedy()}") from error
        self.sizes, self.counts = np.array(sizes, np.int32).reshape(-1, 2), np.array(counts, np.int32)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image."""
        height, width = self.sizes[index].tolist()
        return height, width

    def annotations(self, index: int) -> dict:
        """The annotations of an image, as stored: id, height, width and annotations, see `builders.records`; and its name."""
        return self._annotations(self._record(index))

    def __getitem__(self, index: int) -> dict:
        record = self._record(index)
        image, content = self._image(record), self._annotations(record)
        if image.shape[:2] != (content["height"], content["width"]):
            raise self._damaged(f"image {content['name']}")
        annotations = content["annotations"]
        left, top, width, height = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4).T
        return {
            "image": image,
            "name": content["name"],
            "id": content["id"],
            "boxes": np.stack([left, top, left + width, top + height], 1).astype(np.float32),
            "classes": np.array([a["category"] for a in annotations], np.int32),
            "crowd": np.array([a["iscrowd"] for a in annotations], bool),
            "areas": np.array([a["area"] for a in annotations], np.float32),
            "masks": _decoded([a["segmentation"] for a in annotations], image.shape[:2]),
        }

    def _annotations(self, record):
        return json.loads(record["objects"]) | {"name": record["name"].decode()}


def _decoded(segmentations, size):
    """uint8 [n, H, W] of compressed run lengths."""
    if not segmentations:
        return np.zeros((0, *size), np.uint8)
    return np.ascontiguousarray(run_lengths.decode(segmentations).transpose(2, 0, 1))


def flip(sample: dict, classes: Sequence[int] = ()) -> dict:
    """Mirrors the sample, left to right. `classes`: for each class, its class in the mirror image; (): the same class."""
    left, top, right, bottom = sample["boxes"].T
    width = np.float32(sample["image"].shape[1])
    masks = np.empty_like(sample["masks"])
    for mask, flipped_mask in zip(sample["masks"], masks, strict=True):
        cv2.flip(mask, 1, flipped_mask)
    flipped = {
        "image": cv2.flip(sample["image"], 1),
        "masks": masks,
        "boxes": np.stack([width - right, top, width - left, bottom], 1),
    }
    if classes:
        flipped["classes"] = np.array(classes, np.int32)[sample["classes"]]
    return sample | flipped


def resize(sample: dict, size: tuple[int, int]) -> dict:
    """Resizes to `size` (height, width) with half-pixel centres: the image bilinearly, masks from the nearest pixel, boxes exactly."""
    height, width = sample["image"].shape[:2]
    if (height, width) == tuple(size):
        return sample
    masks = np.zeros((len(sample["masks"]), *size), np.uint8)
    for mask, resized in zip(sample["masks"], masks, strict=True):
        cv2.resize(mask, size[::-1], resized, interpolation=cv2.INTER_NEAREST_EXACT)
    factors = np.array([size[1] / width, size[0] / height] * 2)
    return sample | {
        "image": cv2.resize(sample["image"], size[::-1], interpolation=cv2.INTER_LINEAR),
        "masks": masks,
        "boxes": (sample["boxes"] * factors).astype(np.float32),
    }


def crop(sample: dict, top: int, left: int, size: tuple[int, int]) -> dict:
    """Crops the window of `size` (height, width) whose upper left pixel is (top, left), or the part of it that is in the image.

    Objects without a pixel in the window are dropped. If the window cuts a box, the box becomes that of the mask's pixels in the window.
    """
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    image, masks = sample["image"][rows, columns], sample["masks"][:, rows, columns]
    boxes = sample["boxes"] - np.array([left, top, left, top], np.float32)
    whole = boxes.clip(0, np.tile(image.shape[1::-1], 2)).astype(np.float32)
    for i in np.flatnonzero(np.abs(boxes - whole).max(1, initial=0) > ROUNDING):
        x, y, w, h = cv2.boundingRect(np.ascontiguousarray(masks[i]))
        whole[i] = x, y, x + w, y + h
    return _selected(sample | {"image": image, "boxes": whole, "masks": masks}, masks.any((1, 2)))


@dataclasses.dataclass(frozen=True)
class InstanceAugmentation:
    """Random scaling, flip, crop and colour jitter: `augmentation(sample, rng)` → one image of a training batch, see `train_iterator`.

    All random numbers are drawn, even if they are not used: turning one transform off does not change the numbers of the others.

    Attributes:
        crop: (height, width) of the canvas: a window at a random position of the scaled image; a smaller image is in its upper left corner.
            (): a landscape canvas for images that are at least as wide as high, and a portrait one for the others. They have multiples of
            32 pixels, and hold every scaled image completely.
        base_size: the size that images are resized to first, see `sizes.base_size_of`.
        max_side: the longest side after that; 0: no limit.
        max_objects: number of objects of an image; if there are more, the largest boxes are kept.
        flip: whether to mirror half of the samples.
        mirrored_classes: for each class, its class in a mirror image; (): the same class.
        scale_range: (low, high) of the uniform factor of the resized image.
        brightness: the factor is uniform in 1 ± this value.
        contrast: the factor is uniform in 1 ± this value.
        saturation: the factor is uniform in 1 ± this value.
        hue: the shift is uniform in ± this value, a share of the colour circle.

    Raises:
        UserError: a value out of range.
    """

    crop: Annotated[tuple[int, int], bounds.OFF] = ()  # type: ignore[assignment]  # () is off
    base_size: tuple = ()
    max_side: bounds.Whole = 0
    max_objects: bounds.Count = 100
    flip: bool = False
    mirrored_classes: tuple = ()
    scale_range: tuple[float, float] = (1.0, 1.0)
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, bounds.Bound(minimum=0, maximum=0.5)] = 0.0

    def __post_init__(self):
        check_resizing(self.base_size, self.max_side, "data.base_size")
        transforms.check_scale_range(self.scale_range)
        if self.crop:
            transforms.check_crop(self.crop)
        elif not self.base_size or (len(self.base_size) == 1 and not self.max_side):
            raise UserError(
                "config.data.crop is (), so config.data.base_size and config.data.max_side give the size of the batches; expected "
                f"(shorter side,) and a max_side, or (height, width), got {self.base_size} and max_side {self.max_side}"
            )
        bounds.check_fields("data", vars(self), InstanceAugmentation)

    def canvas(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the arrays for an image of this height and width."""
        if self.crop:
            height, width = self.crop
            return height, width
        if len(self.base_size) == 1:
            shorter, longer = self.base_size[0], max(self.max_side, self.base_size[0])
            sides = (shorter, longer) if is_landscape(size) else (longer, shorter)
        else:
            sides = self.base_size
        height, width = (-(-max(1, round(n * self.scale_range[1])) // STRIDE) * STRIDE for n in sides)
        return height, width

    def __call__(self, sample: dict, rng: np.random.Generator) -> dict:
        mirrored = rng.random() < 0.5
        scale = rng.uniform(*self.scale_range)
        position = rng.random(2)
        jitter = rng.uniform(-1, 1, 4) * (self.brightness, self.contrast, self.saturation, self.hue)

        original = sample["image"].shape[:2]
        base = limited_size_of(original, self.base_size, self.max_side)
        size = max(1, round(base[0] * scale)), max(1, round(base[1] * scale))
        canvas = self.canvas(original)
        room = [max(n - m, 0) for n, m in zip(size, canvas, strict=True)]
        top, left = (int(share * (n + 1)) for share, n in zip(position, room, strict=True))
        mean = cv2.mean(sample["image"])[:3]

        sample = resize(without_crowds(sample), size)
        if jitter.any():
            brightness, contrast, saturation, hue = jitter + (1, 1, 1, 0)
            image = transforms.adjust_colour(sample["image"], brightness, contrast, saturation, hue, mean)
            sample = sample | {"image": image}
        if self.flip and mirrored:
            sample = flip(sample, self.mirrored_classes)
        return _row(crop(sample, top, left, canvas), canvas, self.max_objects)


def check_resizing(base_size: Sequence[int], max_side: int, field: str) -> None:
    """UserError, naming `config.{field}`, for a base size that is invalid, or that cannot have a longest side."""
    transforms.check_base_size(base_size, field)
    if max_side and len(base_size) == 2:
        raise UserError(
            f"config.data.max_side is {max_side}, but config.{field} is {tuple(base_size)}, which has both sides; expected "
            "(shorter side,) or no max_side"
        )


def is_landscape(size: tuple[int, int]) -> bool:
    """Whether an image of this height and width is at least as wide as it is high."""
    return size[1] >= size[0]


def without_crowds(sample: dict) -> dict:
    """The sample without its crowds, which are no single objects."""
    return _selected(sample, ~sample["crowd"])


def _selected(sample, kept):
    """The sample with the objects that are `kept`, bool [n]."""
    if kept.all():
        return sample
    return sample | {key: sample[key][kept] for key in ("boxes", "classes", "crowd", "areas", "masks")}


def _row(sample, canvas, count):
    """The sample on a canvas (height, width), as a row of a batch with `count` objects."""
    boxes, (height, width) = sample["boxes"], sample["image"].shape[:2]
    if len(boxes) > count:
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        largest = np.zeros(len(boxes), bool)
        largest[np.argsort(-areas, kind="stable")[:count]] = True
        sample = _selected(sample, largest)
    n = len(sample["boxes"])
    below, right = canvas[0] - height, canvas[1] - width
    row = {
        "image": cv2.copyMakeBorder(sample["image"], 0, below, 0, right, cv2.BORDER_CONSTANT, value=PADDING["image"]),
        "size": np.array([height, width], np.int32),
        "boxes": np.zeros((count, 4), np.float32),
        "classes": np.full(count, -1, np.int32),
        "masks": np.zeros((count, canvas[0], -(-canvas[1] // 8)), np.uint8),
    }
    row["boxes"][:n], row["classes"][:n] = sample["boxes"], sample["classes"]
    packed = np.packbits(sample["masks"], axis=-1, bitorder="little")
    row["masks"][:n, :height, : packed.shape[2]] = packed
    return row


def create_augmentation(config, class_names: Sequence[str] = ()) -> InstanceAugmentation:
    """The training augmentation of `config.data`, for these classes."""
    return InstanceAugmentation(
        crop=tuple(config.crop),
        base_size=tuple(config.base_size),
        max_side=config.max_side,
        max_objects=config.max_objects,
        flip=config.flip,
        mirrored_classes=transforms.mirrored_classes(class_names),
        scale_range=tuple(config.scale_range),
        brightness=config.brightness,
        contrast=config.contrast,
        saturation=config.saturation,
        hue=config.hue,
    )


def excess(source: InstanceSource, max_objects: int) -> str | None:
    """A line about the images that have more than `max_objects` objects, and how many objects are too many; None if there are none."""
    over = np.maximum(source.counts - max_objects, 0)
    if not over.any():
        return None
    return (
        f"{np.count_nonzero(over)} of {len(over)} training images have more than config.data.max_objects={max_objects} objects: "
        f"only the largest are used, and {over.sum()} of {source.counts.sum()} objects are not"
    )


def train_iterator(
    source: InstanceSource,
    augmentation: InstanceAugmentation,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> grain.DatasetIterator:
    """Endless shuffled, augmented batches. All images of a batch have one canvas, see `InstanceAugmentation.canvas`.

    The landscape and the portrait images are shuffled separately, again in every epoch. Batches of either are spread evenly, in the
    proportion of their images. Order and augmentation are functions of the seed and the position, as in `pipeline.train_iterator`: which
    images the n-th global batch has does not depend on `process_count`, and `get_state()` and `set_state()` resume at the next batch.

    The first process says on stderr what exceeds `max_objects`.

    Args:
        source: samples by index.
        augmentation: sample → row of a batch.
        batch_size: images per batch, over all processes.
        seed: random seed of the order and of the augmentation, 0 or more.
        process_index: the index of this process.
        process_count: the number of processes that share the batch.
        threads: the number of threads that read and transform; 0: the calling thread does.

    Returns:
        An iterator of dicts, with B = batch_size / process_count and N = `max_objects`: `image` uint8 [B, H, W, 3]; `size` int32 [B, 2],
        height and width of each image, which is in the upper left of its canvas; `boxes` float32 [B, N, 4]; `classes` int32 [B, N], -1
        where there is no object; `masks` uint8 [B, N, H, ⌈W/8⌉], packed along the width: bit i of byte j is pixel 8j + i.

    Raises:
        UserError: a negative seed, or `process_count` does not divide `batch_size`; when iterating, a damaged record.
    """
    if process_index == 0 and (line := excess(source, augmentation.max_objects)):
        print(f"warning: {line}", file=sys.stderr, flush=True)
    by_canvas: dict[tuple[int, int], list[int]] = {}
    for index in range(len(source)):
        by_canvas.setdefault(augmentation.canvas(source.size(index)), []).append(index)
    groups = [np.array(indices) for _, indices in sorted(by_canvas.items())]
    order = _Order(groups, batch_size, seed)

    def augment(index, rng):
        return augmentation(source[index], rng)

    return pipeline.iterate(pipeline.seeded(order, seed), augment, batch_size, process_index, process_count, threads)


class _Order:
    """The image at each position of training: every batch is from one of the groups, and each group is shuffled in every epoch of it."""

    def __init__(self, groups: Sequence[np.ndarray], batch_size: int, seed: int):
        self._groups, self._batch_size, self._seed = groups, batch_size, seed
        self._shuffled = functools.lru_cache(8)(self._shuffle)

    def __len__(self):
        return ENDLESS // self._batch_size * self._batch_size

    def __getitem__(self, position):
        batch, place = divmod(position, self._batch_size)
        group, number = self._of_batch(batch)
        epoch, i = divmod(number * self._batch_size + place, len(self._groups[group]))
        return int(self._shuffled(group, epoch)[i])

    def _of_batch(self, batch):
        """The group of a batch, and its number among the group's batches."""
        total, remaining = sum(map(len, self._groups)), batch
        for group in range(len(self._groups) - 1, 0, -1):
            size = len(self._groups[group])
            before, after = remaining * size // total, (remaining + 1) * size // total
            if after > before:
                return group, before
            total, remaining = total - size, remaining - before
        return 0, remaining

    def _shuffle(self, group, epoch):
        return np.random.default_rng([self._seed, group, epoch]).permutation(self._groups[group])


def resized(image: np.ndarray, base_size: Sequence[int], max_side: int) -> np.ndarray:
    """An image of the size that `limited_size_of` gives it."""
    height, width = limited_size_of((image.shape[0], image.shape[1]), base_size, max_side)
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


class EvalImages:
    """The images of a source for evaluation, resized: dicts of `image`, `name`, `id`, and `original_size`, (height, width)."""

    def __init__(self, source: InstanceSource, base_size: Sequence[int] = (), max_side: int = 0):
        """`base_size` and `max_side`: see `sizes.limited_size_of`."""
        check_resizing(base_size, max_side, "eval.size")
        self._source, self._base, self._max_side = source, tuple(base_size), max_side

    def __len__(self) -> int:
        return len(self._source)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of a resized image."""
        return limited_size_of(self._source.size(index), self._base, self._max_side)

    def __getitem__(self, index: int) -> dict:
        content = self._source.annotations(index)
        image = resized(self._source.image(index), self._base, self._max_side)
        original = content["height"], content["width"]
        return {"image": image, "name": content["name"], "id": content["id"], "original_size": original}


def eval_batches(
    source: InstanceSource,
    batch_size: int,
    base_size: Sequence[int] = (),
    max_side: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    shape_of: Callable[[tuple[int, int]], tuple[int, int]] | None = None,
) -> Iterator[dict]:
    """Every image once, in batches of a few shapes; see `pipeline.eval_batches`.

    Args:
        source: samples by index.
        batch_size: images per batch, over all processes.
        base_size: the size that images are resized to, see `sizes.base_size_of`.
        max_side: the longest side after that; 0: no limit.
        process_index: the index of this process.
        process_count: the number of processes that share each batch.
        threads: the number of threads that read and decode; 0: the calling thread does.
        shape_of: (height, width) of a resized image → (height, width) of its batch, multiples of 32. Default: `sizes.bucket` of each.

    Returns:
        An iterator of dicts `image` uint8 [B, H, W, 3]; `size` int32 [B, 2], height and width of each resized image, which is in the upper
        left; `count`, the number of real images, which come first; and lists with an entry for each of them: `original_size` (height,
        width), `name` and `id`.

    Raises:
        UserError: `process_count` does not divide `batch_size`; a wrong size; when iterating, a damaged record.
    """
    resized = EvalImages(source, base_size, max_side)
    shape_of = shape_of or (lambda size: (bucket(size[0]), bucket(size[1])))
    batches = pipeline.eval_batches(resized, batch_size, process_index, process_count, threads, shape_of)
    return ({key: batch[key] for key in batch if key != "canvas"} for batch in batches)
