"""How any image file becomes RGB: the same rules for data sets, predictions and exported archives, which contain this file.

    in the file                    as uint8 RGB
    8 bits, grey or colour         unchanged; grey in all three channels
    1 bit, palette                 the colours that are shown
    16 bits                        the upper 8 bits
    32-bit integers                if within 0…255, unchanged; if within 0…65535, the upper 8 of 16 bits;
                                   else minimum…maximum scaled to 0…255
    floating point                 if within 0…1, multiplied by 255; if within 0…255, rounded; else minimum…maximum scaled to 0…255;
                                   values that are not finite become the minimum
    CMYK, YCbCr, LAB               Pillow's conversion; for LAB, LittleCMS's to sRGB
    alpha, transparent colours     laid over white, as viewers show them: the colours of transparent pixels are arbitrary
    EXIF orientation               applied; if damaged, or not 1 to 8, it is 1
    several frames                 the first
    colour profiles                not applied

This file needs pillow and numpy.
"""

import threading

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

MAX_PIXELS = 250_000_000  # larger images are refused
ORIENTATION = 0x0112  # the EXIF tag
# Suffixes of the files that are read as images when a folder is searched.
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"),
    *(".tga", ".tif", ".tiff", ".webp"),
)
INVERSE = {6: 8, 8: 6}  # the orientation that undoes another; all others undo themselves
_opening = threading.Lock()


def open_image(file) -> ImageFile.ImageFile:
    """`Image.open` of a path or a binary file with up to `MAX_PIXELS` pixels, whatever Pillow's own limit is.

    OSError, ValueError, …: not an image, damaged, or too large.
    """
    with _opening:  # Pillow's limit is shared by all threads
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.format == "TIFF":
        # Given a file name, Pillow memory-maps the pixels of an uncompressed TIFF with the rotated size, which scrambles them.
        image.filename = ""
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise ValueError(f"{width}×{height} is more than {MAX_PIXELS // 1_000_000} megapixels: make the image smaller")
    return image


def read(file, max_pixels: int | None = None, turn: bool = True) -> tuple[np.ndarray, tuple[int, int]]:
    """Reads an image file by the table above.

    Args:
        file: a path or a binary file.
        max_pixels: larger images are averaged down to this size; None: never.
        turn: whether to apply the EXIF orientation.

    Returns:
        uint8 `[h,w,3]`, and the file's own height and width, turned in the same way.

    Raises:
        OSError, ValueError, …: as `open_image`, or Pillow cannot decode it.
    """
    with open_image(file) as image:
        return as_rgb(image, max_pixels, turn)


def as_rgb(image: Image.Image, max_pixels: int | None = None, turn: bool = True) -> tuple[np.ndarray, tuple[int, int]]:
    """`read` for an open image."""
    width, height = image.size
    factor = max((width * height / (max_pixels or MAX_PIXELS)) ** 0.5, 1.0)
    target = (max(round(width / factor), 1), max(round(height / factor), 1))
    if image.format in ("JPEG", "MPO") and factor > 1:
        image.draft("RGB", target)  # type: ignore[attr-defined]  # decodes at a lower resolution
    number = orientation(image)
    # Resize before anything else, so that there is at most one large copy.
    if image.size != target and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        rgb = _rgb(image.resize(target, Image.Resampling.BOX))
    else:
        rgb = _rgb(image)
        rgb = rgb if rgb.size == target else rgb.resize(target, Image.Resampling.BOX)
    already_turned = image.format == "TIFF"  # Pillow turns TIFFs, and their size
    size = (height, width)
    array = np.asarray(rgb)
    if turn != already_turned:
        array = upright(array, number if turn else INVERSE.get(number, number))
        size = (width, height) if number > 4 else size
    return np.ascontiguousarray(array), size


def reason(error: Exception) -> str:
    """Why an image could not be read, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, or damaged"
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of the stored pixels, 1 to 8. Call this before a TIFF is loaded: loading it applies the orientation."""
    try:
        if image.format == "PNG":
            image.load()  # its EXIF may come after the pixels
        value = Image.Image.getexif(image).get(ORIENTATION)  # a PNG's own method decodes the whole image
    except Exception:  # Pillow raises many kinds of errors on damaged EXIF
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def as_stored(image: Image.Image) -> np.ndarray:
    """The pixels of an image that is not loaded yet, as the file stores them, without applying its orientation."""
    if image.format != "TIFF":
        return np.asarray(image)
    number = orientation(image)
    return np.ascontiguousarray(upright(np.asarray(image), INVERSE.get(number, number)))


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Turns an array `[h,w,…]` of a file with this EXIF orientation, 1 to 8, upright."""
    if orientation > 4:
        array = array.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return array[::rows, ::columns]


def plain(image: Image.Image) -> bool:
    """Whether other decoders follow the table too: 8-bit grey or RGB without transparency, as PNG or (within 2 levels) JPEG."""
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
    """int32 or float32 → uint8, by the table above."""
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 0.0)
    integers = values.dtype.kind == "i"
    if integers and 0 <= low and 255 < high <= 65535:
        return (values >> 8).astype(np.uint8)
    if low < 0 or high > 255:
        start, factor = low, 255 / max(high - low, 1e-12)
    else:
        start, factor = 0.0, 1 if integers or high > 1 else 255
    values = np.where(finite, values, low).astype(np.float32)
    return ((values - np.float32(start)) * np.float32(factor)).round().clip(0, 255).astype(np.uint8)
