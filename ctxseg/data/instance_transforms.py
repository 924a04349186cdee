"""Augmentation for instance segmentation: functions on samples (see `instances`), and `InstanceAugmentation`, which composes them.

Boxes and masks move with the image. Masks take the nearest pixel, so that they stay binary. A box is scaled and shifted exactly. Only if a
crop cuts it, the box of the remaining mask replaces it, as the mask often fills less of the clipped box (Detectron2 does the same). Objects
without a pixel are dropped: they would be boxes with an empty mask.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import cv2
import numpy as np

from ctxseg import bounds
from ctxseg.data import transforms
from ctxseg.data.sizes import limited_size_of
from ctxseg.data.transforms import PADDING, Share
from ctxseg.errors import UserError

STRIDE = 32  # the sides of canvases are multiples of the coarsest map's stride in most networks
ROUNDING = 0.01  # pixels; a box that reaches less far out of a window is not cut


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


def resized(image: np.ndarray, base_size: Sequence[int], max_side: int) -> np.ndarray:
    """An image of the size that `limited_size_of` gives it."""
    height, width = limited_size_of((image.shape[0], image.shape[1]), base_size, max_side)
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
