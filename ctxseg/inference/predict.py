"""`--mode=predict`: writes what a network predicts for the user's images."""

import collections
import fnmatch
import glob
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from etils import epath

from ctxseg.data import files, images
from ctxseg.errors import UserError
from ctxseg.files import make_folder, write_bytes
from ctxseg.progress import Progress
from ctxseg.runs import workdir


class Input(NamedTuple):
    """An image to predict.

    Attributes:
        title: what it is called in messages.
        name: path of its results relative to the output folder, with a suffix, which they do not have.
        read: → uint8 image `[h,w,3]`, and height and width of its file. Raises any exception.
        path: its file, which results must not replace; None if it has no file of its own.
    """

    title: str
    name: Path
    read: Callable[[], tuple[np.ndarray, tuple[int, int]]]
    path: Path | None = None


# (name, uint8 image `[h,w,3]`, height and width of its file) → {suffix: content of the file}, or the reason why there is no result. An
# image of more than `eval.max_pixels` is reduced to that number.
Prediction = Callable[[str, np.ndarray, tuple[int, int]], "dict[str, bytes] | str"]


def predict(
    config,
    folder: str,
    create_prediction: Callable[[], Prediction],
    suffixes: Sequence[str],
    inputs: Sequence[Input],
    results: epath.Path,
    overwrite=False,
    checkpoint=None,
) -> int:
    """Writes the results of each image, NAME + suffix.

    Images that cannot be read or labelled are named on stderr and skipped. An image is never replaced by its own results.

    Args:
        config: config of the run.
        folder: folder of the run.
        create_prediction: loads the network; called if there is anything to predict.
        suffixes: ends of the names of the results. The last one is written last: its presence marks complete results.
        inputs: the images, such as those of `find`.
        results: folder of the results.
        overwrite: whether to replace existing results; otherwise existing files are kept, whatever their contents.
        checkpoint: see `checkpoints.restore_run`.

    Returns:
        The number of images that could not be labelled.

    Raises:
        UserError: there are no images or there is no such checkpoint; the config differs from the run's; `output` cannot be written.
    """
    workdir.check_same(os.path.join(folder, "config.json"), config)
    if isinstance(checkpoint, int) and not epath.Path(folder, "checkpoints", str(checkpoint)).is_dir():
        raise UserError(f"{os.path.join(folder, 'checkpoints')} has no checkpoint of step {checkpoint}")
    jobs = [(job, results / stem) for job, stem in stems(inputs)]
    todo = [
        (job, stem) for job, stem in jobs if overwrite or not all(_at(stem, suffix).exists() for suffix in suffixes)
    ]
    if len(todo) < len(jobs):
        count = f"{len(jobs) - len(todo)} of {len(jobs)} images"
        print(f"note: {count} already have results in {results}: --overwrite replaces them", file=sys.stderr)
    if not todo:
        return 0
    prediction = create_prediction()

    def label(job, stem):
        """Labels an image and writes its results. Returns the reason if it cannot be labelled, or None."""
        if job.path and any(_same(job.path, _at(stem, suffix)) for suffix in suffixes):
            return "its results would replace the image: choose another --output"
        try:
            image, size = job.read()
        except Exception as e:  # Pillow raises many types on damaged files
            return images.reason(e)
        try:
            contents = prediction(job.name.name, image, size)
            if isinstance(contents, str):
                return contents
            make_folder(stem.parent)
            for suffix in suffixes:
                if overwrite or not _at(stem, suffix).exists():
                    write_bytes(_at(stem, suffix), contents[suffix])
        except UserError:
            raise
        except OSError as e:
            raise UserError(f"--output={results} cannot be written: {e.strerror}") from e
        except Exception as e:  # for example, too little memory for this image
            return f"{type(e).__name__}: {images.reason(e)}"
        return None

    failed = []
    try:
        with Progress(len(todo), 0, "predict", compiles=True) as progress:
            for done, (job, stem) in enumerate(todo, 1):
                if reason := label(job, stem):
                    failed.append(f"{job.title}: {reason}")
                progress.update(done)
    finally:  # also after an interruption
        for line in failed:
            print(f"skipped {line}", file=sys.stderr)
    print(f"{len(todo) - len(failed)} of {len(todo)} images done, in {results}")
    return len(failed)


def find(source: str, output, max_pixels: int) -> list[Input]:
    """The images that `source` names, sorted: a file, a folder (all images below it), or a glob.

    A folder is searched for files with image suffixes, in all subfolders (see `files.below`) except `output`. Subfolders are kept in the
    names of the results.

    Args:
        source: path or glob.
        output: folder of the results.
        max_pixels: see `images.read`.

    Raises:
        UserError: there are no images, or a folder cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        if _same(path, output):
            raise UserError(
                f"--output={output} is also --input, so results would be read as images: choose another --output"
            )
        root, results = path, Path(os.path.realpath(output))
        candidates = [p for p in _below(path, source) if results not in Path(os.path.realpath(p)).parents]
        paths = [p for p in candidates if p.suffix.lower() in images.SUFFIXES and p.is_file()]
        if others := sorted(set(candidates) - set(paths)):
            more = f" and {len(others) - 1} more files do" if len(others) > 1 else " does"
            print(f"note: {others[0]}{more} not have the suffix of an image", file=sys.stderr)
        problem = f"the folder has no image ({', '.join(images.SUFFIXES)})"
    elif path.is_file():
        root, paths, problem = path.parent, [path], ""
    else:
        root = Path(re.split(r"[*?[]", source, maxsplit=1)[0] + "x").parent  # the folder before the first wildcard
        pattern = path.relative_to(root).parts
        if "**" in pattern:  # not by `glob.glob`, which follows cyclic links
            candidates = _below(root, source) if root.is_dir() else []
            paths = [p for p in candidates if _matches(p.relative_to(root).parts, pattern) and p.is_file()]
        else:
            paths = [Path(p) for p in sorted(glob.glob(source)) if os.path.isfile(p)]
        problem = "expected an existing file or folder, or a glob that matches files"
    if not paths:
        raise UserError(f"--input={source}: {problem}")
    return [Input(str(p), p.relative_to(root), partial(images.read, p, max_pixels), p) for p in paths]


def _below(folder, source):
    try:
        return list(files.below(folder))
    except OSError as e:
        raise UserError(f"--input={source}: {e.filename} cannot be read: {e.strerror}") from e


def _matches(parts, pattern):
    """Whether the parts of a path match the parts of a glob; ** matches any number of folders."""
    if not pattern or not parts:
        return not parts and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def stems(inputs: Sequence[Input]) -> list[tuple[Input, Path]]:
    """Each input with the path of its results, without suffix. Images that would share a path keep their own suffix in it."""
    names = [job.name for job in inputs]
    chosen = [name.with_suffix("") for name in names]
    while shared := {stem for stem, count in collections.Counter(chosen).items() if count > 1}:
        # Repeated, because x.jpg with its suffix has the same name as x.jpg.tif without.
        chosen = [name if stem in shared else stem for stem, name in zip(chosen, names, strict=True)]
    return list(zip(inputs, chosen, strict=True))


def _at(stem, suffix):
    return stem.with_name(stem.name + suffix)


def _same(path, other):
    return os.path.realpath(path) == os.path.realpath(other)
