"""Pairs of images and labels that lie in two folders under the same names."""

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
    """
    if names is None:
        found = [
            (path.name, suffix)
            for folder, suffix in zip((images, labels), suffixes, strict=True)
            for path in folder.glob(f"*{suffix}")
        ]
        names = sorted({name.removesuffix(suffix) for name, suffix in found if not name.startswith(".")})
    if not names:
        raise UserError(f"config.data.manual_dir: {images} has no images (*{suffixes[0]})")
    return [Pair(name, images / f"{name}{suffixes[0]}", labels / f"{name}{suffixes[1]}") for name in names]
