"""The sizes that an image has on its way to its labels. Exported archives carry this file: it needs numpy."""

from collections.abc import Sequence

import numpy as np


def base_size_of(size: tuple[int, int], base: Sequence[int]) -> tuple[int, int]:
    """The size that an image has before it is scaled.

    Args:
        size: height and width of the image.
        base: () for the image's own size; (shorter side,), the aspect kept; or (height, width) of all images.

    Returns:
        Height and width.
    """
    if len(base) == 1:
        height, width = (rounded_ratio(n * base[0], min(size)) for n in size)
    else:
        height, width = tuple(base) or tuple(size)
    return height, width


def rounded_ratio(a, b):
    """a / b to the nearest whole number, halves up: of whole numbers, or arrays of them, without a rounding in between."""
    return (2 * a + b) // (2 * b)


def bucket(length: int) -> int:
    """The padded length of an image's side: four to an octave, multiples of 32. At most a quarter is padding from 128 pixels on."""
    step = max(32, 2 ** (length - 1).bit_length() // 8)
    return -(-length // step) * step


def too_large(size: tuple[int, int], base: Sequence[int], max_pixels: int) -> str | None:
    """What is wrong with an image of `size` whose shorter side becomes `base`, if that makes more than `max_pixels` of it; or None."""
    height, width = base_size_of(size, base)
    if len(base) != 1 or height * width <= max_pixels:
        return None
    which = f"at config.eval.size={base[0]} it has {height}×{width} pixels"
    return f"{which}, more than config.eval.max_pixels: cut it up, or change one of them"


def labels_at(probabilities, size: tuple[int, int]) -> np.ndarray:
    """The most probable class at another size: float32 `[h,w,K]` → uint8 `[*size]`, probabilities interpolated bilinearly, centres at +½.

    A row at a time, so that little is in memory however large the result is.
    """
    if probabilities.shape[:2] == tuple(size):
        return probabilities.argmax(-1).astype(np.uint8)

    def between(length, count):
        position = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
        low = np.floor(position).astype(int)
        return low, np.minimum(low + 1, length - 1), (position - low).astype(np.float32)[:, None]

    left, right, across = between(probabilities.shape[1], size[1])
    labels = np.empty(size, np.uint8)
    for y, (top, bottom, down) in enumerate(zip(*between(probabilities.shape[0], size[0]), strict=True)):
        row = probabilities[top] * (1 - down) + probabilities[bottom] * down
        labels[y] = (row[left] * (1 - across) + row[right] * across).argmax(-1)
    return labels
