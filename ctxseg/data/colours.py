"""Label maps in the colours of their classes."""

import numpy as np


def colourise(label: np.ndarray, palette) -> np.ndarray:
    """A label map in its data set's colours.

    Args:
        label: integer `[H,W]`; ids outside [0, K), such as 255, are drawn as grey and black stripes.
        palette: `[K,3]`, RGB in 0..255.

    Returns:
        uint8 `[H,W,3]`.
    """
    label, palette = np.asarray(label).astype(np.int64), np.asarray(palette, np.uint8)
    y, x = np.ogrid[: label.shape[0], : label.shape[1]]
    stripes = np.where((x + y) // 4 % 2, 128, 0).astype(np.uint8)[..., None]
    is_class = (label >= 0) & (label < len(palette))
    return np.where(is_class[..., None], palette[np.where(is_class, label, 0)], stripes)
