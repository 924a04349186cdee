"""Pairs of images and labels: lists them, finds missing files, and computes a fingerprint of their contents."""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ctxseg.data import contents
from ctxseg.errors import UserError, printable

FAULTS_NAMED = 5  # maximum number of faults in an error message; with more, it names one, and stderr lists all


class Part(NamedTuple):
    """A part of a file. `key` tells the function that reads it which part; it is not shown to users."""

    file: Path
    key: Any


class Pair(NamedTuple):
    """An image and its label: files, or parts of files. `label` is None in a split whose labels are not published."""

    name: str
    image: Path | Part
    label: Path | Part | None

    @property
    def sources(self) -> tuple[Path | Part, ...]:
        """The image, and the label if there is one."""
        return (self.image,) if self.label is None else (self.image, self.label)


def file_of(image_or_label: Path | Part) -> Path:
    """The file that contains an image or a label of a `Pair`."""
    return image_or_label.file if isinstance(image_or_label, Part) else image_or_label


def by_name(
    images: Path, labels: Path, suffixes: tuple[str, str] = (".jpg", ".png"), names: Sequence[str] | None = None
) -> list[Pair]:
    """The pairs of two folders, by name.

    Args:
        images: the folder of images.
        labels: the folder of labels.
        suffixes: the end of the file name of an image, and of a label, after the name.
        names: None for all names in either folder, so that an image without a label, or a label without an image, is found.

    Raises:
        UserError: there are no names.
        OSError: a folder that cannot be read.
    """
    if names is None:
        names = sorted({*names_in(images, suffixes[0]), *names_in(labels, suffixes[1])})
    if not names:
        raise UserError(f"config.data.manual_dir: {images} has no images (*{suffixes[0]})")
    return [Pair(name, images / f"{name}{suffixes[0]}", labels / f"{name}{suffixes[1]}") for name in names]


def unlabelled(images: Path, suffix: str = ".jpg", names: Sequence[str] | None = None) -> list[Pair]:
    """The pairs of a folder whose labels are not published, by name; `names`: see `by_name`."""
    return [Pair(name, images / f"{name}{suffix}", None) for name in names or names_in(images, suffix)]


def names_in(folder: Path, suffix: str) -> list[str]:
    """The names, without `suffix`, of the files in `folder` with this suffix; none if it is missing. OSError if it cannot be read."""
    try:
        names = os.listdir(folder)  # Path.glob would hide a missing permission
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith("."))


def read_names(path: Path) -> list[str]:
    """The first word of every line that is not blank. UserError if all are."""
    names = [
        line.split()[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    if not names:
        raise UserError(f"{path} lists no images")
    return names


def require(builder_cls, manual_dir: Path, *paths: str) -> None:
    """Checks that `manual_dir` has these files and folders.

    Raises:
        UserError: the first one missing; suggests a folder in or above `manual_dir` that has all of them.
    """
    for path in paths:
        try:
            (manual_dir / path).stat()  # unlike exists(), raises PermissionError
        except (FileNotFoundError, NotADirectoryError):
            roots = [*sorted(manual_dir.glob("*/")), *sorted(manual_dir.glob("*/*/")), *manual_dir.parents[:3]]
            complete = [root for root in roots if all(os.path.exists(root / path) for path in paths)]
            expected = f"{builder_cls.name} expects {builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            hint = f"did you mean {complete[0]}?" if complete else expected
            raise UserError(f"config.data.manual_dir: {manual_dir / path} is missing; {hint}") from None


def fingerprint_pairs(
    root: Path, splits: Mapping[str, Sequence[Pair]], *others: Path, digests: Callable = contents.digests
) -> str:
    """A digest of the splits' file names, relative to `root`, and contents; and of the names of pairs that share a file.

    Args:
        root: the folder that contains all files.
        splits: {split: pairs}.
        *others: other files that labels depend on.
        digests: paths → {path: digest, or None if it is not a file}.

    Raises:
        UserError: missing files.
    """
    start = len(str(root / "x")) - 1  # cuts paths below root as text: `Path` takes seconds for 10⁵ files
    files = {split: [(pair, source) for pair in pairs for source in pair.sources] for split, pairs in splits.items()}
    paths = [str(file_of(source)) for sources in files.values() for _, source in sources]
    paths += [str(path) for path in others]
    file_digests, digest = digests(paths), hashlib.sha256()
    missing = [f"{path} is missing" for path, file_digest in file_digests.items() if file_digest is None]
    raise_faults("config.data.manual_dir", missing, len(file_digests))

    def update(path, rest=""):
        digest.update(f"{str(path)[start:]} {file_digests[str(path)]}{rest}\n".encode(errors="surrogateescape"))

    for split, sources in sorted(files.items()):
        digest.update(f"{split}\n".encode())
        for pair, source in sources:
            update(file_of(source), f" {pair.name}" if isinstance(source, Part) else "")
    for path in others:
        update(path)
    return digest.hexdigest()[:12]


def raise_faults(subject: str, faults: Sequence[str], total: int | None, remedy: str = "") -> None:
    """Raises one UserError with all faults, if there are any. If there are many, it has the first, and stderr lists all.

    Args:
        subject: how the error begins, if there are several faults.
        faults: a line each, in the form "file: fault". On stderr, a fault that several files have is listed once.
        total: the number of things that were checked, of which each has a fault at most; None if they may have several.
        remedy: how the error ends.
    """
    if len(faults) == 1:
        raise UserError(faults[0] + remedy)
    if len(faults) > FAULTS_NAMED:
        print(f"all {len(faults)} faults:", *map(printable, _grouped(faults)), sep="\n  ", file=sys.stderr, flush=True)
        details = f"{faults[0]}; and {len(faults) - 1} more, listed above"
    else:
        details = "; ".join(faults)
    if faults:
        count = f"{len(faults)} faults" if total is None else f"{len(faults)} of {total} are faulty"
        raise UserError(f"{subject}: {count}: {details}{remedy}")


def _grouped(faults):
    """Lines that list the faults; a fault that several files share is listed once."""
    files_by_fault = {}
    for line in faults:
        file, colon, fault = line.partition(": ")
        files_by_fault.setdefault(fault if colon else line, []).append(file)
    for fault, files in files_by_fault.items():
        if len(files) == 1:
            yield files[0] if fault == files[0] else f"{files[0]}: {fault}"
        else:
            yield f"{len(files)} times: {fault}"
            yield from (f"  {file}" for file in files)
