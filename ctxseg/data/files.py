"""The files below a folder."""

import os
from collections.abc import Iterator
from pathlib import Path


def below(root: Path | str) -> Iterator[Path]:
    """All files below a folder, sorted, except hidden files and folders, whose names begin with a dot.

    Linked folders are searched too, except links to a folder that contains them, which would never end. OSError: a folder that cannot be
    read.
    """
    return _below(str(root), ())


def _below(folder, above):
    real = os.path.realpath(folder)
    if real in above:
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry.path):  # entry.is_dir() raises for a link to itself
            yield from _below(entry.path, (*above, real))
        else:
            yield Path(entry.path)
