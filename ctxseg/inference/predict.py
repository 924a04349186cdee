"""`--mode=predict`: anybody's images in, label maps and overlays out."""

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
    """Labels images by the run in `folder`, and writes for each, with its folders below `where`:

    - NAME.png: class ids at the image's size, with the data set's palette;
    - NAME_overlay.jpg: the labels' colours over the image, at its size, or at `eval.max_pixels` if it is larger;
    - NAME_probabilities.npz, if asked: `probabilities`, float16 `[h,w,K]`, at that size.

    Images are read as `data.images` says. Each is labelled as `config.eval` tests images, at their base size `eval.size` too. What cannot
    be read or labelled is named on stderr, and the rest is done. An image is never replaced by its own label map.

    Args:
        config: of the run.
        folder: of the run.
        where: a file, a folder (all images below it) or a glob.
        output: folder of the results; default `folder`/predictions.
        overwrite: whether results that are there are made anew; else the files that are there stay, whatever they are.
        probabilities: whether these are written.
        checkpoint: see `checkpoints.restore_run`.

    Returns:
        How many images could not be labelled.

    Raises:
        UserError: no images, no such checkpoint, `config` is not the run's, or `output` cannot be written.
    """
    workdir.check_same(os.path.join(folder, "config.json"), config)
    if isinstance(checkpoint, int) and not epath.Path(folder, "checkpoints", str(checkpoint)).is_dir():
        raise UserError(f"{os.path.join(folder, 'checkpoints')} has no checkpoint of step {checkpoint}")
    results = epath.Path(output or os.path.join(folder, "predictions"))
    jobs = _jobs(find(where, results), results)
    endings = [".png", "_overlay.jpg", *["_probabilities.npz"] * probabilities]
    todo = [(path, stem) for path, stem in jobs if overwrite or not all(_at(stem, e).exists() for e in endings)]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} are in {results} already: --overwrite makes them anew", file=sys.stderr)
    if not todo:
        return 0
    model, state = checkpoints.restore_run(config, folder, checkpoint)
    metadata = provenance.metadata(config, folder)
    predictor = create_predictor(model, config.eval, metadata["class_names"])

    def label(path, stem):
        """Writes what there is of an image. Returns what is wrong with it, or None."""
        if any(_same(path, _at(stem, ending)) for ending in endings):
            return "its results would replace it: choose another --output"
        try:
            image, size = images.read(path, config.eval.max_pixels)
        except Exception as e:  # Pillow raises all sorts on damaged files
            return images.reason(e)
        if wrong := too_large(image.shape[:2], config.eval.size, config.eval.max_pixels):
            return wrong
        wanted = {e for e in endings if overwrite or not _at(stem, e).exists()}
        try:
            regions = None
            if config.data.superpixels:
                regions = superpixels.stack([superpixels.compute(image, view) for view in superpixel_views(config)])[
                    None
                ]
            p = predictor(state.variables, image[None], regions)[0]
            _write(stem, image, p, size, metadata["palette"], wanted)
        except UserError:
            raise
        except OSError as e:
            raise UserError(f"--output={results} cannot be written: {e.strerror}") from e
        except Exception as e:  # too little memory for this one, say
            return f"{type(e).__name__}: {images.reason(e)}"
        return None

    failed = []
    try:
        with Progress(len(todo), 0, "predict", compiles=True) as progress:
            for done, (path, stem) in enumerate(todo, 1):
                if wrong := label(path, stem):
                    failed.append(f"{path}: {wrong}")
                progress.update(done)
    finally:  # also when interrupted
        for line in failed:
            print(f"skipped {line}", file=sys.stderr)
    print(f"{len(todo) - len(failed)} of {len(todo)} images labelled in {results}")
    return len(failed)


def find(where: str, output) -> list[tuple[Path, Path]]:
    """The images that `where` means, in order, and what their results are named after: paths below `where` without their suffix.

    A folder is searched for images by their suffix, all the way down, as `files.below` does, but for `output`. UserError if there are
    none, or a folder cannot be read.
    """
    path = Path(where)
    if path.is_dir():
        if _same(path, output):
            raise UserError(
                f"--output={output} is the folder of --input: results would be taken for images; choose another"
            )
        root, results = path, Path(os.path.realpath(output))
        below = [p for p in _below(path, where) if results not in Path(os.path.realpath(p)).parents]
        paths = [p for p in below if p.suffix.lower() in images.SUFFIXES and p.is_file()]
        if others := sorted(set(below) - set(paths)):
            more = f" and {len(others) - 1} more are" if len(others) > 1 else " is"
            print(f"{others[0]}{more} no image by name: passed over", file=sys.stderr)
        what = f"no image ({', '.join(images.SUFFIXES)}) in the folder"
    elif path.is_file():
        root, paths, what = path.parent, [path], ""
    else:
        root = Path(re.split(r"[*?[]", where, maxsplit=1)[0] + "x").parent  # what comes before the first wildcard
        pattern = path.relative_to(root).parts
        if "**" in pattern:  # of which Python's glob goes around cycles of links
            below = _below(root, where) if root.is_dir() else []
            paths = [p for p in below if _matches(p.relative_to(root).parts, pattern) and p.is_file()]
        else:
            paths = [Path(p) for p in sorted(glob.glob(where)) if os.path.isfile(p)]
        what = "no file, folder or glob that matches anything"
    if not paths:
        raise UserError(f"--input={where}: {what}")
    return [(p, p.relative_to(root)) for p in paths]


def _below(folder, where):
    try:
        return list(files.below(folder))
    except OSError as e:
        raise UserError(f"--input={where}: {e.filename} cannot be read: {e.strerror}") from e


def _matches(parts, pattern):
    """Whether the parts of a path are those of a glob, ** in it being any number of folders."""
    if not pattern or not parts:
        return not parts and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _jobs(found, output):
    """(image, output path without ending); where two would have the same, names keep their suffix."""
    stems = [name.with_suffix("") for _, name in found]
    names = [name for _, name in found]
    while shared := {stem for stem, count in collections.Counter(stems).items() if count > 1}:
        # Again, as x.jpg keeping its suffix is what x.jpg.tif is without.
        stems = [name if stem in shared else stem for stem, name in zip(stems, names, strict=True)]
    return [(path, output / stem) for (path, _), stem in zip(found, stems, strict=True)]


def _at(stem, ending):
    return stem.with_name(stem.name + ending)


def _same(path, other):
    return os.path.realpath(path) == os.path.realpath(other)


def _write(stem, image, p, size, palette, wanted):
    """Writes the files of these endings."""
    make_folder(stem.parent)
    picture = Image.fromarray(labels_at(p, size))
    picture.putpalette([channel for colour in palette for channel in colour])
    colours = colourise(p.argmax(-1).astype(np.uint8), palette)
    blended = Image.fromarray(((image.astype(np.uint16) + colours) // 2).astype(np.uint8))
    files = {"_overlay.jpg": _encoded(blended, "JPEG", quality=90)}
    if "_probabilities.npz" in wanted:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, probabilities=p.astype(np.float16))
        files["_probabilities.npz"] = buffer.getvalue()
    files[".png"] = _encoded(picture, "PNG")  # last: what is complete has it
    for ending, content in files.items():
        if ending in wanted:
            write_bytes(_at(stem, ending), content)


def _encoded(picture, form, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
