"""How any image file becomes RGB: one rule for data sets, predictions and exported archives, whose script carries this file.

    in the file                    as uint8 RGB
    8 bits, grey or colour         as it is, grey in all three channels
    1 bit, palette                 the colours that it shows
    16 bits                        the upper 8
    32 bits, whole numbers         0 to 255 as they are; 0 to 65535: the upper 8 of 16 bits; else least to greatest as 0 to 255
    floating point                 0 to 1 as 0 to 255; 0 to 255 rounded; else least to greatest as 0 to 255; what is not finite: the least
    CMYK, YCbCr, LAB               Pillow's conversion; of LAB, LittleCMS's to sRGB
    alpha, transparent colours     laid over white, as viewers show them: colours below what is transparent are arbitrary
    EXIF orientation               applied; damaged, or no number from 1 to 8: 1
    several frames                 the first
    colour profiles                not applied

It needs pillow and numpy.
"""

import threading

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

LARGEST = 250_000_000  # pixels of an image that is read at all
ORIENTATION = 0x0112  # its EXIF tag
# Of the files that a folder is searched for.
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tga", ".tif", ".tiff", ".webp"),
)
INVERSE = {6: 8, 8: 6}  # what undoes an orientation; the others undo themselves
_opening = threading.Lock()


def open_image(file) -> ImageFile.ImageFile:
    """`Image.open` of a path or a binary file, for what has up to `LARGEST` pixels, whatever Pillow's own limit is.

    OSError, ValueError, …: not an image, damaged, or larger.
    """
    with _opening:  # the limit is all threads'
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    if image.format == "TIFF":
        # Of a named file Pillow maps the pixels of an uncompressed TIFF, by the size that it has when it is turned, and mixes them up.
        image.filename = ""
    width, height = image.size
    if width * height > LARGEST:
        image.close()
        raise ValueError(f"{width}×{height} is more than {LARGEST // 1_000_000} megapixels: make it smaller")
    return image


def read(file, max_pixels: int | None = None, turn: bool = True) -> tuple[np.ndarray, tuple[int, int]]:
    """An image file by the table above.

    Args:
        file: a path or a binary file.
        max_pixels: more are averaged down to that; None: never.
        turn: whether EXIF orientation is applied.

    Returns:
        uint8 `[h,w,3]`, and the file's own height and width, turned likewise.

    Raises:
        OSError, ValueError, …: as `open_image`, or what Pillow cannot decode.
    """
    with open_image(file) as image:
        return as_rgb(image, max_pixels, turn)


def as_rgb(image: Image.Image, max_pixels: int | None = None, turn: bool = True) -> tuple[np.ndarray, tuple[int, int]]:
    """`read` of an image that is open."""
    width, height = image.size
    factor = max((width * height / (max_pixels or LARGEST)) ** 0.5, 1.0)
    target = (max(round(width / factor), 1), max(round(height / factor), 1))
    if image.format in ("JPEG", "MPO") and factor > 1:
        image.draft("RGB", target)  # type: ignore[attr-defined]  # decodes no more than it has to
    number = orientation(image)
    # Smaller before anything else, so that there is one large copy at the most.
    if image.size != target and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        rgb = _rgb(image.resize(target, Image.Resampling.BOX))
    else:
        rgb = _rgb(image)
        rgb = rgb if rgb.size == target else rgb.resize(target, Image.Resampling.BOX)
    turned = image.format == "TIFF"  # by Pillow, its size too
    size = (height, width)
    array = np.asarray(rgb)
    if turn != turned:
        array = upright(array, number if turn else INVERSE.get(number, number))
        size = (width, height) if number > 4 else size
    return np.ascontiguousarray(array), size


def reason(error: Exception) -> str:
    """Why an image could not be read, in a line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged"
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def orientation(image: Image.Image) -> int:
    """How what is stored is to be turned to be upright, 1 to 8 as EXIF has it. A TIFF is asked before it is loaded, for that turns it."""
    try:
        if image.format == "PNG":
            image.load()  # its EXIF may be behind its pixels
        found = Image.Image.getexif(image).get(ORIENTATION)  # a PNG's own method decodes it all
    except Exception:  # damaged EXIF makes Pillow raise all sorts
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def as_stored(image: Image.Image) -> np.ndarray:
    """The pixels of an image that is not loaded yet, as the file stores them, whatever its orientation."""
    if image.format != "TIFF":
        return np.asarray(image)
    number = orientation(image)
    return np.ascontiguousarray(upright(np.asarray(image), INVERSE.get(number, number)))


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """`[h,w,…]` of a file with that EXIF orientation, 1 to 8, as it is to be seen."""
    if orientation > 4:
        array = array.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return array[::rows, ::columns]


def plain(image: Image.Image) -> bool:
    """Whether other decoders do as the table says: 8-bit grey or RGB without transparency, as PNG or, within 2 levels, JPEG."""
    return image.format in ("JPEG", "MPO", "PNG") and image.mode in ("L", "RGB") and not image.has_transparency_data


def _rgb(image):
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.mode == "LAB":
        spaces = (ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"))
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(*spaces, "LAB", "RGB"))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(values):
    """int32 or float32 → uint8."""
    finite = np.isfinite(values)
    shown = values[finite]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 0.0)
    whole = values.dtype.kind == "i"
    if whole and 0 <= low and 255 < high <= 65535:
        return (values >> 8).astype(np.uint8)
    if low < 0 or high > 255:
        start, factor = low, 255 / max(high - low, 1e-12)
    else:
        start, factor = 0.0, 1 if whole or high > 1 else 255
    values = np.where(finite, values, low).astype(np.float32)
    return ((values - np.float32(start)) * np.float32(factor)).round().clip(0, 255).astype(np.uint8)
