"""`--mode=predict`: writes label maps and overlays of the user's images."""

import collections
import fnmatch
import glob
import io
import os
import re
import sys
from pathlib import Path

import numpy as np
from etils import epath
from PIL import Image

from ctxseg.data import files, images, superpixels
from ctxseg.data.colours import colourise
from ctxseg.data.sizes import labels_at, too_large
from ctxseg.errors import UserError
from ctxseg.files import make_folder, write_bytes
from ctxseg.inference.probabilities import create_predictor
from ctxseg.inference.protocol import superpixel_views
from ctxseg.progress import Progress
from ctxseg.runs import checkpoints, provenance, workdir


def predict(
    config, folder: str, where: str, output: str | None = None, overwrite=False, probabilities=False, checkpoint=None
) -> int:
    """Labels images with the run in `folder`, and writes for each, in the same subfolders as below `where`:

    - NAME.png: class ids at the image's size, with the data set's palette;
    - NAME_overlay.jpg: the label colours over the image, at its size, or at `eval.max_pixels` if it is larger;
    - NAME_probabilities.npz, if requested: `probabilities`, float16 `[h,w,K]`, at the size of the overlay.

    Images are read by `data.images`, and labelled by the protocol of `config.eval`, which includes the base size `eval.size`. Images that
    cannot be read or labelled are named on stderr and skipped. An image is never replaced by its own results.

    Args:
        config: config of the run.
        folder: folder of the run.
        where: a file, a folder (all images below it) or a glob.
        output: folder of the results; default `folder`/predictions.
        overwrite: whether to replace existing results; otherwise existing files are kept, whatever their contents.
        probabilities: whether to write the probabilities.
        checkpoint: see `checkpoints.restore_run`.

    Returns:
        The number of images that could not be labelled.

    Raises:
        UserError: no images, no such checkpoint, another config than the run's, or `output` cannot be written.
    """
    workdir.check_same(os.path.join(folder, "config.json"), config)
    if isinstance(checkpoint, int) and not epath.Path(folder, "checkpoints", str(checkpoint)).is_dir():
        raise UserError(f"{os.path.join(folder, 'checkpoints')} has no checkpoint of step {checkpoint}")
    results = epath.Path(output or os.path.join(folder, "predictions"))
    jobs = _jobs(find(where, results), results)
    suffixes = [".png", "_overlay.jpg", *["_probabilities.npz"] * probabilities]
    todo = [
        (path, stem) for path, stem in jobs if overwrite or not all(_at(stem, suffix).exists() for suffix in suffixes)
    ]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} are already in {results}: --overwrite replaces them", file=sys.stderr)
    if not todo:
        return 0
    model, state = checkpoints.restore_run(config, folder, checkpoint)
    metadata = provenance.metadata(config, folder)
    predictor = create_predictor(model, config.eval, metadata["class_names"])

    def label(path, stem):
        """Labels an image and writes its results. Returns the reason if it cannot be labelled, or None."""
        if any(_same(path, _at(stem, suffix)) for suffix in suffixes):
            return "the results would replace the image: choose another --output"
        try:
            image, size = images.read(path, config.eval.max_pixels)
        except Exception as e:  # Pillow raises many types on damaged files
            return images.reason(e)
        if reason := too_large(image.shape[:2], config.eval.size, config.eval.max_pixels):
            return reason
        to_write = {suffix for suffix in suffixes if overwrite or not _at(stem, suffix).exists()}
        try:
            regions = None
            if config.data.superpixels:
                regions = superpixels.stack([superpixels.compute(image, view) for view in superpixel_views(config)])[
                    None
                ]
            p = predictor(state.variables, image[None], regions)[0]
            _write(stem, image, p, size, metadata["palette"], to_write)
        except UserError:
            raise
        except OSError as e:
            raise UserError(f"--output={results} cannot be written: {e.strerror}") from e
        except Exception as e:  # for instance, too little memory for this image
            return f"{type(e).__name__}: {images.reason(e)}"
        return None

    failed = []
    try:
        with Progress(len(todo), 0, "predict", compiles=True) as progress:
            for done, (path, stem) in enumerate(todo, 1):
                if reason := label(path, stem):
                    failed.append(f"{path}: {reason}")
                progress.update(done)
    finally:  # also when interrupted
        for line in failed:
            print(f"skipped {line}", file=sys.stderr)
    print(f"{len(todo) - len(failed)} of {len(todo)} images labelled in {results}")
    return len(failed)


def find(where: str, output) -> list[tuple[Path, Path]]:
    """The images that match `where`, in order, each with its path below the searched folder, which names its results.

    A folder is searched for image suffixes, with all subfolders (see `files.below`) except `output`. UserError: there are no images, or
    a folder cannot be read.
    """
    path = Path(where)
    if path.is_dir():
        if _same(path, output):
            raise UserError(
                f"--output={output} is also --input, so results would be read as images: choose another --output"
            )
        root, results = path, Path(os.path.realpath(output))
        candidates = [p for p in _below(path, where) if results not in Path(os.path.realpath(p)).parents]
        paths = [p for p in candidates if p.suffix.lower() in images.SUFFIXES and p.is_file()]
        if others := sorted(set(candidates) - set(paths)):
            more = f" and {len(others) - 1} more are" if len(others) > 1 else " is"
            print(f"{others[0]}{more} not an image by name: skipped", file=sys.stderr)
        problem = f"no image ({', '.join(images.SUFFIXES)}) in the folder"
    elif path.is_file():
        root, paths, problem = path.parent, [path], ""
    else:
        root = Path(re.split(r"[*?[]", where, maxsplit=1)[0] + "x").parent  # the part before the first wildcard
        pattern = path.relative_to(root).parts
        if "**" in pattern:  # for which Python's glob follows cycles of links
            candidates = _below(root, where) if root.is_dir() else []
            paths = [p for p in candidates if _matches(p.relative_to(root).parts, pattern) and p.is_file()]
        else:
            paths = [Path(p) for p in sorted(glob.glob(where)) if os.path.isfile(p)]
        problem = "expected an existing file or folder, or a glob that matches files"
    if not paths:
        raise UserError(f"--input={where}: {problem}")
    return [(p, p.relative_to(root)) for p in paths]


def _below(folder, where):
    try:
        return list(files.below(folder))
    except OSError as e:
        raise UserError(f"--input={where}: {e.filename} cannot be read: {e.strerror}") from e


def _matches(parts, pattern):
    """Whether the parts of a path match the parts of a glob; ** matches any number of folders."""
    if not pattern or not parts:
        return not parts and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _jobs(inputs, output):
    """(image, output path without suffix) of each; where two would be the same, names keep their suffix."""
    stems = [name.with_suffix("") for _, name in inputs]
    names = [name for _, name in inputs]
    while shared := {stem for stem, count in collections.Counter(stems).items() if count > 1}:
        # Repeated, because x.jpg with its suffix equals x.jpg.tif without.
        stems = [name if stem in shared else stem for stem, name in zip(stems, names, strict=True)]
    return [(path, output / stem) for (path, _), stem in zip(inputs, stems, strict=True)]


def _at(stem, suffix):
    return stem.with_name(stem.name + suffix)


def _same(path, other):
    return os.path.realpath(path) == os.path.realpath(other)


def _write(stem, image, p, size, palette, suffixes):
    """Writes the results with these suffixes."""
    make_folder(stem.parent)
    picture = Image.fromarray(labels_at(p, size))
    picture.putpalette([channel for colour in palette for channel in colour])
    colours = colourise(p.argmax(-1).astype(np.uint8), palette)
    blended = Image.fromarray(((image.astype(np.uint16) + colours) // 2).astype(np.uint8))
    files = {"_overlay.jpg": _encoded(blended, "JPEG", quality=90)}
    if "_probabilities.npz" in suffixes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, probabilities=p.astype(np.float16))
        files["_probabilities.npz"] = buffer.getvalue()
    files[".png"] = _encoded(picture, "PNG")  # last: marks complete results
    for suffix, content in files.items():
        if suffix in suffixes:
            write_bytes(_at(stem, suffix), content)


def _encoded(picture, form, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
