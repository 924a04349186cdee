"""Augmentation: pure functions on samples, and `Augmentation`, which draws their arguments and composes them.

A sample is a dict of `image` uint8 [H, W, 3] (RGB), `label` uint8 [H, W] (255 = ignore) and, where super-pixels are
used, `regions` int32 [H, W]. Geometric functions transform all of them in the same way; other entries pass through.
Images are interpolated; labels and regions take the nearest pixel's id, so that they gain no new id except the padding's.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import cv2
import numpy as np

from ctxseg import bounds
from ctxseg.data import images
from ctxseg.data.sizes import base_size_of
from ctxseg.errors import UserError

# Values outside of the image: ImageNet's mean colour, which the models' normalisation maps to 0; ignore; no region.
PADDING = {"image": (124, 116, 104), "label": 255, "regions": -1}

Share = Annotated[float, bounds.Bound(minimum=0, maximum=1)]

LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601
RGB_TO_YIQ = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def check_base_size(size: Sequence[int], field: str) -> None:
    """UserError, naming `config.{field}`, for a base size that `base_size_of` does not take."""
    if len(size) > 2 or any(type(n) is not int or n < 1 for n in size):
        raise UserError(
            f"config.{field} is {tuple(size)}; expected (), (shorter side,) or (height, width), in whole numbers above 0"
        )


def check_crop(crop: Sequence[int]) -> None:
    """UserError for a `config.data.crop` that is not a height and a width, or is too large."""
    if len(crop) != 2 or min(crop) < 1:
        raise UserError(f"config.data.crop is {crop}; expected (height, width), each at least 1")
    if crop[0] * crop[1] > images.MAX_PIXELS:
        raise UserError(f"config.data.crop is {crop}; expected at most {images.MAX_PIXELS // 1_000_000} megapixels")


def check_scale_range(scale_range: Sequence[float]) -> None:
    """UserError for a `config.data.scale_range` that is not a lowest and a highest factor."""
    if len(scale_range) != 2 or not 0 < scale_range[0] <= scale_range[1]:
        raise UserError(f"config.data.scale_range is {scale_range}; expected (low, high), 0 < low <= high")


def mirrored_classes(names: Sequence[str]) -> tuple[int, ...]:
    """For each class, its class in a mirror image: `left-arm` becomes `right-arm`, by the words in the names; most stay the same.

    Args:
        names: by class id, as `info.metadata["class_names"]`.

    Returns:
        A class id for each class; a class without a counterpart keeps its own.
    """
    names = [name.lower() for name in names]
    ids = {name: i for i, name in enumerate(names)}
    other = {"left": "right", "right": "left"}
    opposite = [re.sub(r"(?<![a-z])(left|right)(?![a-z])", lambda side: other[side[0]], name) for name in names]
    counterparts = [ids.get(name, i) for i, name in enumerate(opposite)]
    return tuple(j if counterparts[j] == i else i for i, j in enumerate(counterparts))  # only mutual pairs


def flip(sample: dict, classes: Sequence[int] = ()) -> dict:
    """Mirrors the sample, left to right.

    Args:
        sample: of any size.
        classes: for each class, its class in the mirror image, see `mirrored_classes`; (): the same class.
    """
    flipped = {key: cv2.flip(sample[key], 1) for key in _maps(sample)}
    if tuple(classes) != tuple(range(len(classes))):
        table = np.arange(256, dtype=np.uint8)
        table[: len(classes)] = classes
        flipped["label"] = cv2.LUT(flipped["label"], table)
    return sample | flipped


def resize(sample: dict, size: tuple[int, int]) -> dict:
    """Resizes to `size` (height, width) with half-pixel centres: images bilinearly, ids from the nearest pixel."""
    height, width = size
    resized = {}
    for key in _maps(sample):
        # INTER_NEAREST aligns corners, not centres: it would shift the ids against the image by up to half a pixel.
        method = cv2.INTER_LINEAR if key == "image" else cv2.INTER_NEAREST_EXACT
        resized[key] = cv2.resize(sample[key], (width, height), interpolation=method)
    return sample | resized


def rotate(sample: dict, degrees: float) -> dict:
    """Rotates about the centre, counter-clockwise, keeping the size; uncovered pixels become `PADDING`."""
    size = sample["image"].shape[:2]
    return _warp(sample, _to_source(size, size, degrees, 0, 0), size, cv2.BORDER_CONSTANT)


def _to_source(source, size, degrees, top, left):
    """The affine map [3, 3] from (x, y, 1) in a window at (top, left) of the resized and rotated image to the original image.

    `source` and `size` are (height, width) of the original and the resized image.
    """
    (height, width), (y, x) = size, (source[0] / size[0], source[1] / size[1])
    window = np.array([[1, 0, left], [0, 1, top], [0, 0, 1]], float)
    rotation = np.vstack([cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -degrees, 1.0), (0, 0, 1)])
    scaling = np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])  # half-pixel centres, as `resize`
    return scaling @ rotation @ window


def _warp(sample, to_source, size, border):
    """A sample of `size` whose pixels come from where `to_source` maps them; `border` is OpenCV's border mode."""
    warped = {}
    for key in _maps(sample):
        array = sample[key]
        method = cv2.INTER_LINEAR if key == "image" else cv2.INTER_NEAREST
        # OpenCV rounds coordinates differently for int32 than for uint8 and float32. float32 holds ids up to 2^24 exactly.
        warped[key] = cv2.warpAffine(
            array.astype(np.float32) if key == "regions" else array,
            to_source[:2],
            (size[1], size[0]),
            flags=method | cv2.WARP_INVERSE_MAP,
            borderMode=border,
            borderValue=PADDING[key],
        ).astype(array.dtype, copy=False)
    return sample | warped


def crop(sample: dict, top: int, left: int, size: tuple[int, int], padding: str = "ignore") -> dict:
    """Crops the window of `size` (height, width) whose upper left pixel is (top, left).

    Args:
        sample: of any size.
        top: row; may be negative.
        left: column; may be negative.
        size: of the window, which may exceed the image.
        padding: outside of the image, `ignore`: `PADDING`; `reflect`: the mirror image, also of the label.
    """
    height, width = sample["image"].shape[:2]
    rows = slice(max(top, 0), min(top + size[0], height))
    columns = slice(max(left, 0), min(left + size[1], width))
    cropped = {}
    for key in _maps(sample):
        window = sample[key][rows, columns]
        if window.shape[:2] != tuple(size):
            inner, window = window, np.empty((*size, *window.shape[2:]), window.dtype)
            window[...] = PADDING[key]
            y, x = rows.start - top, columns.start - left
            window[y : y + inner.shape[0], x : x + inner.shape[1]] = inner
            if padding == "reflect":
                missing = [(y, size[0] - y - inner.shape[0]), (x, size[1] - x - inner.shape[1])]
                window = np.pad(inner, missing + [(0, 0)] * (inner.ndim - 2), mode="reflect")
        cropped[key] = window
    return sample | cropped


def adjust_colour(
    image: np.ndarray,
    brightness: float = 1.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
    mean: Sequence[float] | None = None,
) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue, in that order, by one matrix product per pixel:

        x ← brightness · x
        x ← contrast · x + (1 - contrast) · mean luma of the image
        x ← saturation · x + (1 - saturation) · luma of the pixel
        x ← x with its chroma (I, Q of YIQ) rotated by `hue` of a full circle

    The first three are torchvision's `ColorJitter`, but values are rounded and clipped to 0..255 once, at the end.

    Args:
        image: uint8 [H, W, 3], RGB.
        brightness: factor; 1 changes nothing.
        contrast: factor; 1 changes nothing.
        saturation: factor; 1 changes nothing.
        hue: fraction of the colour circle; 0 changes nothing.
        mean: mean colour for the contrast; default: the mean of `image`. For a crop, pass the mean of the whole image.

    Returns:
        uint8 [H, W, 3].
    """
    angle = 2 * np.pi * hue
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.linalg.inv(RGB_TO_YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ RGB_TO_YIQ
    saturate = saturation * np.eye(3) + (1 - saturation) * LUMA  # each row of the second term gives the pixel's luma
    matrix = brightness * contrast * rotation @ saturate
    mean = cv2.mean(image)[:3] if mean is None else mean
    offset = (1 - contrast) * brightness * (LUMA @ mean)  # grey, so saturation and hue do not change it
    return cv2.transform(image, np.column_stack([matrix, np.full(3, offset)]))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random colour jitter, flip, scaling, rotation and crop: `augmentation(sample, rng)` → a sample of size `crop`.

    All random numbers are drawn, even if they are not used: turning one transform off does not change the numbers of the others. The
    result is the same as from the functions above, one after the other, but only the pixels in the crop are computed, and interpolated
    only once.

    Attributes:
        crop: (height, width) of the result, at a random position of the scaled image; a smaller image has a random position in the crop.
        base_size: the size that images are resized to first, see `base_size_of`.
        padding: what surrounds a smaller image, see `crop`.
        flip: whether to mirror half of the samples.
        mirrored_classes: for each class, its class in a mirror image; (): the same class.
        scale_range: (low, high) of the uniform factor of the base size.
        rotate: maximum rotation in degrees, uniform in both directions.
        rotate_share: share of the samples that are rotated.
        brightness: the factor is uniform in 1 ± this value.
        contrast: the factor is uniform in 1 ± this value.
        saturation: the factor is uniform in 1 ± this value.
        hue: the shift is uniform in ± this value, a share of the colour circle.

    Raises:
        UserError: a value out of range.
    """

    crop: tuple[int, int]
    flip: bool = False
    mirrored_classes: tuple = ()
    scale_range: tuple[float, float] = (1.0, 1.0)
    rotate: Annotated[float, bounds.Bound(minimum=0, maximum=180)] = 0.0
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0
    hue: Annotated[float, bounds.Bound(minimum=0, maximum=0.5)] = 0.0
    padding: Literal["ignore", "reflect"] = "ignore"
    base_size: tuple = ()
    rotate_share: Share = 1.0

    def __post_init__(self):
        check_crop(self.crop)
        check_base_size(self.base_size, "data.base_size")
        check_scale_range(self.scale_range)
        bounds.check_fields("data", vars(self), Augmentation)

    def __call__(self, sample: dict, rng: np.random.Generator) -> dict:
        mirrored = rng.random() < 0.5
        scale = rng.uniform(*self.scale_range)
        degrees = self.rotate * rng.uniform(-1, 1)
        position = rng.random(2)
        jitter = rng.uniform(-1, 1, 4) * (self.brightness, self.contrast, self.saturation, self.hue)
        degrees *= rng.random() < self.rotate_share

        image, mirrored = sample["image"], self.flip and mirrored
        height, width = image.shape[:2]
        size = [max(1, round(n * scale)) for n in base_size_of((height, width), self.base_size)]
        slack = np.array(size) - self.crop
        first, last = np.minimum(slack, 0), np.maximum(slack, 0)
        top, left = (first + position * (last - first + 1)).astype(int).tolist()

        # The part of the crop that is inside the scaled image, and the part of the original image that it needs.
        inner = [min(n, start + c) - max(start, 0) for n, start, c in zip(size, (top, left), self.crop, strict=True)]
        to_source = _to_source((height, width), size, degrees, max(top, 0), max(left, 0))
        warped = degrees or size != [height, width]
        x, y = _source_window(to_source, inner, (height, width), 1 if warped else 0)
        columns = slice(width - x.stop, width - x.start) if mirrored else x
        sample = sample | {key: sample[key][y, columns] for key in _maps(sample)}

        if jitter.any():
            brightness, contrast, saturation, hue = jitter + (1, 1, 1, 0)
            mean = cv2.mean(image)[:3]
            sample["image"] = adjust_colour(sample["image"], brightness, contrast, saturation, hue, mean)
        if mirrored:
            sample = flip(sample, self.mirrored_classes)
        if warped:
            to_source[:2, 2] -= x.start, y.start
            sample = _warp(sample, to_source, inner, cv2.BORDER_CONSTANT if degrees else cv2.BORDER_REPLICATE)
        return crop(sample, min(top, 0), min(left, 0), self.crop, self.padding)


def _source_window(to_source, size, limits, margin):
    """The columns and rows (slices) of an image of `limits` (height, width) that a window of `size` needs, plus a `margin`."""
    corners = to_source[:2] @ np.array([[x, y, 1] for x in (0, size[1] - 1) for y in (0, size[0] - 1)]).T
    slices = []
    for low, high, n in zip(corners.min(1), corners.max(1), limits[::-1], strict=True):
        start = min(max(math.floor(low + 1e-6) - margin, 0), n - 1)
        slices.append(slice(start, max(min(math.ceil(high - 1e-6) + 1 + margin, n), start + 1)))
    return slices


def _maps(sample):
    return [key for key in PADDING if key in sample]


def create_augmentation(config, class_names: Sequence[str] = ()) -> Augmentation:
    """The training augmentation of `config.data`, for these classes."""
    return Augmentation(
        crop=tuple(config.crop),
        flip=config.flip,
        mirrored_classes=mirrored_classes(class_names),
        scale_range=tuple(config.scale_range),
        rotate=config.rotate,
        brightness=config.brightness,
        contrast=config.contrast,
        saturation=config.saturation,
        hue=config.hue,
        padding=config.padding,
        base_size=tuple(config.base_size),
        rotate_share=config.rotate_share,
    )
