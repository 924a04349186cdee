"""Sizes of images before and after the network. Exported archives contain this file; it needs only numpy."""

from collections.abc import Sequence

import numpy as np


def base_size_of(size: tuple[int, int], base: Sequence[int]) -> tuple[int, int]:
    """The size that an image is resized to before it is scaled.

    Args:
        size: height and width of the image.
        base: () for the image's own size; (shorter side,), keeping the aspect; or (height, width) for all images.

    Returns:
        Height and width.
    """
    if len(base) == 1:
        height, width = (rounded_ratio(n * base[0], min(size)) for n in size)
    else:
        height, width = tuple(base) or tuple(size)
    return height, width


def limited_size_of(size: tuple[int, int], base: Sequence[int], max_side: int) -> tuple[int, int]:
    """As `base_size_of`, but the longer side has at most `max_side` pixels, if that is not 0; the aspect stays the same."""
    height, width = base_size_of(size, base)
    if max_side and max(height, width) > max_side:
        height, width = (max(rounded_ratio(n * max_side, max(size)), 1) for n in size)
    return height, width


def rounded_ratio(a, b):
    """a / b rounded to the nearest integer, halves up; for integers or arrays of them, without floating point."""
    return (2 * a + b) // (2 * b)


def bucket(length: int) -> int:
    """The padded length of an image's side: four per octave, multiples of 32. From 128 pixels on, at most a quarter is padding."""
    step = max(32, 2 ** (length - 1).bit_length() // 8)
    return -(-length // step) * step


def too_large(size: tuple[int, int], base: Sequence[int], max_pixels: int, max_side: int = 0) -> str | None:
    """A message if an image of `size` would have more than `max_pixels` after its shorter side is resized to `base`; else None.

    `max_side`: see `limited_size_of`.
    """
    height, width = limited_size_of(size, base, max_side)
    if len(base) != 1 or height * width <= max_pixels:
        return None
    resized = f"at config.eval.size={base[0]} it has {height}×{width} pixels"
    return f"{resized}, more than config.eval.max_pixels: split the image, or change one of these fields"


def labels_at(probabilities, size: tuple[int, int]) -> np.ndarray:
    """The most probable class at another size: float32 `[h,w,K]` → uint8 `[*size]`, interpolated bilinearly with half-pixel centres.

    Works on one row at a time, so that large results need little memory.
    """
    if probabilities.shape[:2] == tuple(size):
        return probabilities.argmax(-1).astype(np.uint8)

    def neighbours(length, count):
        position = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
        low = np.floor(position).astype(int)
        return low, np.minimum(low + 1, length - 1), (position - low).astype(np.float32)[:, None]

    left, right, weight_right = neighbours(probabilities.shape[1], size[1])
    labels = np.empty(size, np.uint8)
    rows = zip(*neighbours(probabilities.shape[0], size[0]), strict=True)
    for y, (top, bottom, weight_bottom) in enumerate(rows):
        row = probabilities[top] * (1 - weight_bottom) + probabilities[bottom] * weight_bottom
        labels[y] = (row[left] * (1 - weight_right) + row[right] * weight_right).argmax(-1)
    return labels
