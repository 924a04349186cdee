"""Pairs of images and labels that lie in two folders under the same names."""

import os
from collections.abc import Sequence
from pathlib import Path

from ctxseg.data.builders.common import Pair
from ctxseg.errors import UserError


def by_name(
    images: Path, labels: Path, suffixes: tuple[str, str] = (".jpg", ".png"), names: Sequence[str] | None = None
) -> list[Pair]:
    """The pairs of two folders, by name.

    Args:
        images: a folder.
        labels: another.
        suffixes: what follows the name in the file of an image, and in that of its labels.
        names: None for all that either folder has, so that a file without its partner is found missing.

    Raises:
        UserError: there are none.
        OSError: a folder that cannot be read.
    """
    if names is None:
        names = sorted({*names_in(images, suffixes[0]), *names_in(labels, suffixes[1])})
    if not names:
        raise UserError(f"config.data.manual_dir: {images} has no images (*{suffixes[0]})")
    return [Pair(name, images / f"{name}{suffixes[0]}", labels / f"{name}{suffixes[1]}") for name in names]


def names_in(folder: Path, suffix: str) -> list[str]:
    """The names, without `suffix`, of the files of `folder` that end so; none if it is missing. OSError if it cannot be read."""
    try:
        found = os.listdir(folder)  # Path.glob finds nothing where it may not look
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name.removesuffix(suffix) for name in found if name.endswith(suffix) and not name.startswith("."))
