"""Checks images and labels before they are prepared: decodes everything, and reports all faults at once."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError

from ctxseg.data import images
from ctxseg.data.builders.pairs import Pair, Part, file_of, raise_faults
from ctxseg.data.parallel import each
from ctxseg.errors import UserError


def check_splits(
    dataset: str,
    splits: Mapping[str, Sequence[Pair]],
    published: Mapping[str, int],
    read_label: Callable[[Path | Part], np.ndarray],
    read_image: Callable[[Part], np.ndarray] | None = None,
) -> None:
    """Checks that images can be decoded, and labels read, and that they have the same size. Reports all faults at once.

    A split with another number of images than published gives a warning on stderr: it may be a subset.

    Args:
        dataset: its name, for messages.
        splits: {split: pairs}; all of them, so that one run reports every fault.
        published: {split: number of images}.
        read_label: label of a pair → uint8 [H, W], class ids and 255.
        read_image: image of a pair → uint8 [H, W, 3] RGB, if images are not separate files.

    Raises:
        UserError: which files have which faults, see `raise_faults`.
    """
    warn_of_counts(dataset, splits, published)
    faults, total = find_faults(dataset, splits, read_label, read_image)
    raise_faults(dataset, faults, total)


def warn_of_counts(dataset: str, splits: Mapping[str, Sequence], published: Mapping[str, int]) -> None:
    """A warning on stderr for each split with another number of images than published: {split: number}."""
    for split, images_of_split in splits.items():
        difference = len(images_of_split) - published[split]
        if difference:
            count = f"{abs(difference)} {'fewer' if difference < 0 else 'more'} than the {published[split]} published"
            print(f"warning: {dataset} {split} has {len(images_of_split)} images, {count}", file=sys.stderr)


def find_faults(
    dataset: str,
    splits: Mapping[str, Sequence[Pair]],
    read_label: Callable[[Path | Part], np.ndarray],
    read_image: Callable[[Part], np.ndarray] | None = None,
) -> tuple[list[str], int]:
    """The faults that `check_splits` raises, a line each, and the number of pairs."""
    # Splits may share pairs.
    pairs = list({(p.name, *map(file_of, p.sources)): p for pairs in splits.values() for p in pairs}.values())
    faults = each(lambda pair: _fault(pair, read_label, read_image) or "", pairs, f"check {dataset}")
    return [fault for fault in faults if fault], len(pairs)


def _fault(pair, read_label, read_image):
    """The faults of a pair's image, label or both, each starting with the file's name; None if there are none."""
    sizes, faults = [], []
    readers = (_array_size(read_image) if read_image else _image_size, _array_size(read_label))
    for source, size_of in zip(pair.sources, readers, strict=False):
        path = file_of(source)
        place = f"{path}: {pair.name}" if isinstance(source, Part) else path
        try:
            if path.stat().st_size == 0:  # decoders would only say that they do not know the format
                raise ValueError("the file is empty")
            sizes.append(size_of(source))
        except UserError as error:
            faults.append(str(error))
        except Exception as error:  # decoders raise many kinds of errors on damaged files
            faults.append(f"{place}: {_reason(error)}")
    if not faults and sizes[0] != sizes[-1]:
        (width, height), (label_width, label_height) = sizes
        fault = f"{place}: label is {label_width}x{label_height}, but its image is {width}x{height}"
        turn = 1 if read_image else orientation(pair.image)[0]
        if turn > 4 and (label_width, label_height) == (height, width):
            fault += f" with EXIF orientation {turn}: the label is of the upright image; save the image upright too"
        faults.append(fault)
    return "; ".join(faults) or None


def image_fault(path: Path) -> str | None:
    """Why an image file cannot be decoded, if so."""
    try:
        if path.stat().st_size == 0:
            return "the file is empty"
        _image_size(path)
    except Exception as error:  # decoders raise many kinds of errors on damaged files
        return _reason(error)
    return None


def _reason(error):
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def _image_size(path):
    with images.open_image(path) as file:
        if images.plain(file):
            file.load()  # OpenCV may fill in the missing part of a damaged JPEG or PNG
            return file.size
    return images.read(path, turn=False)[0].shape[1::-1]


def orientation(path: Path) -> tuple[int, tuple[int, int]]:
    """The EXIF orientation of an image file (1: upright), and its (width, height) as stored."""
    with images.open_image(path) as file:
        turn, (width, height) = images.orientation(file), file.size
        # For a TIFF, Pillow gives the size after turning.
        return turn, (height, width) if file.format == "TIFF" and turn > 4 else (width, height)


def _array_size(read):
    """A function that reads an array with `read` and returns its width and height."""
    return lambda source: read(source).shape[1::-1]
