"""Augmentation: pure functions on samples, and `Augmentation`, which draws their arguments and composes them.

A sample is a dict of `image` uint8 [H, W, 3] (RGB), `label` uint8 [H, W] (255 = ignore) and, where super-pixels are
used, `regions` int32 [H, W]. Geometric functions move all of them alike; other entries pass through. Images are
interpolated, maps of ids take the id of the nearest pixel: none gains an id that it did not have, but for the padding.
"""

import dataclasses

import cv2
import numpy as np

from ctxseg.errors import UserError

# What lies outside of the image: ImageNet's mean colour, which the models' normalisation takes to 0; ignore; no region.
PADDING = {"image": (124, 116, 104), "label": 255, "regions": -1}

LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601
RGB_TO_YIQ = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def flip(sample: dict) -> dict:
    """Mirrors the sample, left to right."""
    return sample | {key: np.ascontiguousarray(sample[key][:, ::-1]) for key in _maps(sample)}


def resize(sample: dict, size: tuple[int, int]) -> dict:
    """Resizes to `size` (height, width) with half-pixel centres: images bilinearly, ids from the nearest pixel."""
    height, width = size
    resized = {}
    for key in _maps(sample):
        # INTER_NEAREST takes corners, not centres: it would shift the ids against the image by up to half a pixel.
        method = cv2.INTER_LINEAR if key == "image" else cv2.INTER_NEAREST_EXACT
        resized[key] = cv2.resize(sample[key], (width, height), interpolation=method)
    return sample | resized


def rotate(sample: dict, degrees: float) -> dict:
    """Rotates about the centre, counter-clockwise, keeping the size; what comes into view is `PADDING`."""
    height, width = sample["image"].shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    rotated = {}
    for key in _maps(sample):
        array = sample[key]
        method = cv2.INTER_LINEAR if key == "image" else cv2.INTER_NEAREST
        # OpenCV rounds int32 maps otherwise than uint8 and float32 ones; the latter hold ids exactly up to 2^24.
        source = array.astype(np.float32) if key == "regions" else array
        rotated[key] = cv2.warpAffine(
            source, matrix, (width, height), flags=method, borderMode=cv2.BORDER_CONSTANT, borderValue=PADDING[key]
        ).astype(array.dtype, copy=False)
    return sample | rotated


def crop(sample: dict, top: int, left: int, size: tuple[int, int], padding: str = "ignore") -> dict:
    """The window of `size` (height, width) whose upper left pixel is (top, left); outside of the image it is `PADDING`, or a reflection.

    Args:
        sample: any size.
        top: row; may be negative.
        left: column; may be negative.
        size: of the window, which may exceed the image.
        padding: `ignore`, or `reflect`: what lies outside of the image is its mirror image, label and all.
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
    image: np.ndarray, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue, in that order, by one matrix product per pixel:

        x ← brightness · x
        x ← contrast · x + (1 - contrast) · mean luma of the image
        x ← saturation · x + (1 - saturation) · luma of the pixel
        x ← x with its chroma (I, Q of YIQ) turned by `hue` of a full circle

    The first three are torchvision's `ColorJitter`, but values are rounded and clipped to 0..255 once, at the end.

    Args:
        image: uint8 [H, W, 3], RGB.
        brightness: factor; 1 leaves it as it is. So for the next two.
        contrast: factor.
        saturation: factor.
        hue: fraction of the colour circle; 0 leaves it as it is.

    Returns:
        uint8 [H, W, 3].
    """
    turn = 2 * np.pi * hue
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.linalg.inv(RGB_TO_YIQ) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ RGB_TO_YIQ
    saturate = saturation * np.eye(3) + (1 - saturation) * LUMA  # every row of the second term: the pixel's luma
    matrix = brightness * contrast * rotation @ saturate
    offset = (1 - contrast) * brightness * (LUMA @ cv2.mean(image)[:3])  # a grey: saturation and hue leave it alone
    return cv2.transform(image, np.column_stack([matrix, np.full(3, offset)]))


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random colour jitter, flip, scaling, rotation and crop: `augmentation(sample, rng)` → a sample of size `crop`.

    Every draw is made whether it is used or not: switching one transform off leaves the others' draws as they were.

    Attributes:
        crop: (height, width) of the result, anywhere in the scaled image; a smaller image lies anywhere in the crop.
        padding: what surrounds a smaller image, see `crop`.
        flip: mirror one sample in two.
        scale_range: (low, high) of the uniform factor of size.
        rotate: at most so many degrees either way, uniform.
        brightness: factor uniform in 1 ± this; so for the next two.
        contrast: likewise.
        saturation: likewise.
        hue: shift uniform in ± this fraction of the colour circle.

    Raises:
        UserError: a value outside of its range.
    """

    crop: tuple[int, int]
    flip: bool = False
    scale_range: tuple[float, float] = (1.0, 1.0)
    rotate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    padding: str = "ignore"

    def __post_init__(self):
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise UserError(f"config.data.crop is {self.crop}, but must be (height, width), at least 1")
        if len(self.scale_range) != 2 or not 0 < self.scale_range[0] <= self.scale_range[1]:
            raise UserError(f"config.data.scale_range is {self.scale_range}, but must be (low, high), 0 < low <= high")
        if self.padding not in ("ignore", "reflect"):
            raise UserError(f"config.data.padding is {self.padding!r}, but it can be ignore, reflect")
        limits = {"rotate": 180, "brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5}
        for field, limit in limits.items():
            if not 0 <= getattr(self, field) <= limit:
                raise UserError(f"config.data.{field} is {getattr(self, field)}, but must lie in 0..{limit}")

    def __call__(self, sample: dict, rng: np.random.Generator) -> dict:
        mirrored = rng.random() < 0.5
        scale = rng.uniform(*self.scale_range)
        degrees = self.rotate * rng.uniform(-1, 1)
        place = rng.random(2)
        jitter = rng.uniform(-1, 1, 4) * (self.brightness, self.contrast, self.saturation, self.hue)

        if jitter.any():
            sample = sample | {"image": adjust_colour(sample["image"], *(jitter + (1, 1, 1, 0)))}
        if self.flip and mirrored:
            sample = flip(sample)
        if scale != 1:
            sample = resize(sample, [max(1, round(n * scale)) for n in sample["image"].shape[:2]])
        if degrees:
            sample = rotate(sample, degrees)
        slack = np.array(sample["image"].shape[:2]) - self.crop
        first, last = np.minimum(slack, 0), np.maximum(slack, 0)
        top, left = (first + place * (last - first + 1)).astype(int)
        return crop(sample, int(top), int(left), self.crop, self.padding)


def _maps(sample):
    return [key for key in PADDING if key in sample]
