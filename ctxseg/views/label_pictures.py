"""Label maps and errors as pictures of HTML pages."""

import numpy as np
from PIL import Image

from ctxseg.views import page


def labels(label: np.ndarray, palette, alt: str) -> dict:
    """A label map, integer `[h,w]`, in the colours of `palette` `[K,3]`; 255 is grey. Returns a `page.picture`."""
    picture = Image.fromarray(np.asarray(label, np.uint8))
    colours = np.full((256, 3), 128, np.uint8)
    colours[: len(palette)] = palette
    picture.putpalette(colours.tobytes())
    return page.picture(picture, alt, "PNG")


def errors(label: np.ndarray, prediction: np.ndarray, alt: str) -> dict:
    """Red where the prediction is wrong, grey where pixels are ignored, and transparent elsewhere, to lie over the image.

    Args:
        label: integer `[h,w]`; 255 is ignored.
        prediction: integer `[h,w]`.
        alt: text for readers who do not see the picture.

    Returns:
        A `page.picture`.
    """
    wrong = np.where(label == 255, 2, label != prediction).astype(np.uint8)
    picture = Image.fromarray(wrong)
    picture.putpalette([0, 0, 0, 214, 39, 40, 128, 128, 128])
    picture.info["transparency"] = bytes([0, 230, 150])
    return page.picture(picture, alt, "PNG")
