"""Label images: maps the ids in data sets' files to class ids, and gives colours to class ids."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ctxseg.data import images

IGNORE = 255
LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # formats that change values, at least in most files


def open_label(path: Path) -> Image.Image:
    """`images.open_image` for a label. ValueError: a lossy format, or more bits than Pillow reads."""
    file = images.open_image(path)
    stored = file.format
    if stored == "TIFF" and "jpeg" in str(file.info.get("compression")):
        stored = "JPEG"
    form = str(file.tile[0].args) if file.tile else ""
    if stored in LOSSY:
        fault = f"label is stored as {stored}, which changes values: save it as PNG"
    elif ";16" in form and not file.mode.startswith("I"):  # Pillow would read the upper 8 bits
        fault = "label has 16 bits in each of several channels: save it with 8 bits, or as ids in one channel"
    else:
        return file
    file.close()
    raise ValueError(fault)


def label_image(dataset: str, ids: Mapping[int, int]) -> Callable[[Path], np.ndarray]:
    """A reader of labels that are 8-bit images of ids.

    Args:
        dataset: its name, for messages.
        ids: {id in a label file: class id, or 255 for void}.

    Returns:
        path → uint8 [H, W]. Raises ValueError for an image of another kind, or with an id that is not in `ids`.
    """

    def read(path):
        with open_label(path) as file:
            if file.mode not in ("L", "P"):  # P: ids with a palette to show them in colour
                raise ValueError(f"label has pixels of kind {file.mode}; expected one channel of 8 bits")
            return map_ids(dataset, images.as_stored(file), ids)

    return read


def map_ids(dataset: str, values: np.ndarray, ids: Mapping[int, int]) -> np.ndarray:
    """Maps the ids in a file to class ids.

    Args:
        dataset: its name, for messages.
        values: [H, W], whole numbers of any type: MATLAB's may be floating-point.
        ids: {id in a label file: class id, or 255 for void}.

    Returns:
        uint8 [H, W].

    Raises:
        ValueError: not two-dimensional, or a number that is not in `ids`.
    """
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise ValueError(f"label is an array {values.shape} of {values.dtype}; expected numbers in two dimensions")
    first = min(ids)
    table = np.full(max(ids) - first + 2, -1, np.int16)  # the last entry is for numbers out of range
    table[np.array(list(ids)) - first] = list(ids.values())
    in_range = (values >= first) & (values <= max(ids))
    if values.dtype.kind == "f":
        in_range &= values == np.floor(values)
    classes = table[np.where(in_range, values, np.int64(max(ids) + 1)).astype(np.int64) - first]
    unknown = np.unique(values[classes < 0])
    if unknown.size:
        raise ValueError(f"label id {', '.join(map(str, unknown[:5]))}, but {dataset} has {_describe(ids)}")
    return classes.astype(np.uint8)


def bit_palette(count: int, first: int = 0) -> list[tuple[int, int, int]]:
    """The colours of PASCAL VOC's label images: bits 0, 3, 6 of an id are red's highest bits, 1, 4, 7 green's and 2, 5 blue's.

    Args:
        count: number of colours.
        first: id of the first colour; 1 leaves out black, for data sets without background.

    Returns:
        [(r, g, b)], all different for ids below 256.
    """
    ids = np.arange(first, first + count)
    colours = np.zeros((count, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (ids >> (3 * bit + channel) & 1) << (7 - bit)
    return [(r, g, b) for r, g, b in colours.tolist()]


def _describe(ids):
    """{0: 0, 1: 1, 2: 2, 5: 3, 11: 255} → '0..2, 5 and 11 (void)'."""
    classes, void = [_runs(i for i, c in ids.items() if (c == IGNORE) == is_void) for is_void in (False, True)]
    return f"{classes} and {void} (void)" if void else classes


def _runs(numbers):
    """[3, 0, 1, 2, 8, 9] → '0..3, 8, 9'; of more than ten runs, those in the middle are left out."""
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [
        text
        for first, last in runs
        for text in ([f"{first}..{last}"] if last > first + 1 else map(str, range(first, last + 1)))
    ]
    return ", ".join(texts if len(texts) <= 10 else [*texts[:5], "…", *texts[-2:]])
