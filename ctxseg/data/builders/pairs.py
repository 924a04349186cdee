"""Images and their labels as files: listed, found missing, and told apart from those of another data set."""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ctxseg.data import contents
from ctxseg.errors import UserError, printable

FAULTS_NAMED = 5  # in an error message; if there are more, one, and stderr has all


class Part(NamedTuple):
    """Something in a file that holds more: `key` says what to the function that reads it; it is not shown to users."""

    file: Path
    key: Any


class Pair(NamedTuple):
    """An image and its labels: a file each, or a part of one."""

    name: str
    image: Path | Part
    label: Path | Part


def file_of(image_or_label: Path | Part) -> Path:
    """The file that an image or a label of a `Pair` is in."""
    return image_or_label.file if isinstance(image_or_label, Part) else image_or_label


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


def read_names(path: Path) -> list[str]:
    """The first word of every line that has one. UserError if none has."""
    names = [
        line.split()[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    if not names:
        raise UserError(f"{path} lists no images")
    return names


def require(builder_cls, manual_dir: Path, *paths: str) -> None:
    """Checks that `manual_dir` has files and folders, by their paths in it.

    Raises:
        UserError: the first that is missing; a folder in or above `manual_dir` that has it is suggested instead.
    """
    for path in paths:
        try:
            (manual_dir / path).stat()  # not exists(): what may not be looked at is not missing
        except (FileNotFoundError, NotADirectoryError):
            roots = [*sorted(manual_dir.glob("*/")), *sorted(manual_dir.glob("*/*/")), *manual_dir.parents[:3]]
            found = [root for root in roots if all(os.path.exists(root / wanted) for wanted in paths)]
            wanted = f"{builder_cls.name} wants {builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            hint = f"did you mean {found[0]}?" if found else wanted
            raise UserError(f"config.data.manual_dir: {manual_dir / path} is missing; {hint}") from None


def fingerprint_pairs(
    root: Path, splits: Mapping[str, Sequence[Pair]], *others: Path, digests: Callable = contents.digests
) -> str:
    """A digest of the splits' file names, relative to `root`, and contents; and of the names of pairs that share a file.

    Args:
        root: the folder that all files are in.
        splits: {split: pairs}.
        *others: files that labels depend on too.
        digests: paths → {path: digest, or None if it is no file}.

    Raises:
        UserError: files that are not there.
    """
    start = len(str(root / "x")) - 1  # paths below root as text: for 10⁵ files, `Path`'s arithmetic takes seconds
    files = {
        split: [(pair, of) for pair in pairs for of in (pair.image, pair.label)] for split, pairs in splits.items()
    }
    paths = [str(file_of(of)) for listed in files.values() for _, of in listed] + [str(path) for path in others]
    found, digest = digests(paths), hashlib.sha256()
    raise_faults("config.data.manual_dir", [f"{p} is missing" for p, d in found.items() if d is None], len(found))

    def update(path, rest=""):
        digest.update(f"{str(path)[start:]} {found[str(path)]}{rest}\n".encode(errors="surrogateescape"))

    for split, listed in sorted(files.items()):
        digest.update(f"{split}\n".encode())
        for pair, of in listed:
            update(file_of(of), f" {pair.name}" if isinstance(of, Part) else "")
    for path in others:
        update(path)
    return digest.hexdigest()[:12]


def raise_faults(dataset: str, faults: Sequence[str], total: int, remedy: str = "") -> None:
    """Raises one UserError that names the faults, if there are any; of many it names the first, and stderr has all.

    Args:
        dataset: what the error begins with.
        faults: a line each; those of the form "file: what is wrong" that are alike but for the file are told together.
        total: of how many they are.
        remedy: what the error ends with.
    """
    if len(faults) == 1:
        raise UserError(faults[0] + remedy)
    if len(faults) > FAULTS_NAMED:
        print(f"all {len(faults)} faults:", *map(printable, _alike(faults)), sep="\n  ", file=sys.stderr, flush=True)
        named = f"{faults[0]}; and {len(faults) - 1} more, above"
    else:
        named = "; ".join(faults)
    if faults:
        raise UserError(f"{dataset}: {len(faults)} of {total} faulty: {named}{remedy}")


def _alike(faults):
    """The lines that tell faults, what is wrong with several files once."""
    files = {}
    for fault in faults:
        file, colon, wrong = fault.partition(": ")
        files.setdefault(wrong if colon else fault, []).append(file)
    for wrong, found in files.items():
        if len(found) == 1:
            yield found[0] if wrong == found[0] else f"{found[0]}: {wrong}"
        else:
            yield f"{len(found)} files: {wrong}"
            yield from (f"  {file}" for file in found)
