"""`--mode=predict`: anybody's images in, label maps and overlays out."""

import collections
import contextlib
import glob
import io
import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ctxseg import checkpoints, evaluate, figures, inference, logs, provenance, workdir
from ctxseg.data import superpixels, transforms
from ctxseg.errors import UserError
from ctxseg.logs import write_bytes

SUFFIXES = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)  # of what a folder is searched for
# What turns an image upright, by its EXIF orientation.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = [UPRIGHT[number] for number in (5, 6, 7, 8)]
LARGEST = 250_000_000  # pixels of an image that is read at all


def predict(
    config, folder: str, where: str, output: str | None = None, overwrite=False, probabilities=False, checkpoint=None
) -> int:
    """Labels images by the run in `folder`, and writes for each, with its folders below `where`:

    - NAME.png: class ids at the image's size, with the data set's palette;
    - NAME_overlay.jpg: the labels' colours over the image, at its size, or at `eval.max_pixels` if it is larger;
    - NAME_probabilities.npz, if asked: `probabilities`, float16 `[h,w,K]`, at that size.

    Each is labelled as `config.eval` tests images, at their base size `eval.size` too. What cannot be read is named on stderr, and the
    rest is done. An image is never replaced by its own label map.

    Args:
        config: of the run.
        folder: of the run.
        where: a file, a folder (all images below it) or a glob.
        output: folder of the results; default `folder`/predictions.
        overwrite: whether results that are there are made anew; else the files that are there stay, whatever they are.
        probabilities: whether these are written.
        checkpoint: see `checkpoints.restore_run`.

    Returns:
        How many images could not be read.

    Raises:
        UserError: no images, no such checkpoint, `config` is not the run's, or `output` cannot be written.
    """
    workdir.check_same(os.path.join(folder, "config.json"), config)
    if config.eval.max_pixels < 1:
        raise UserError(f"config.eval.max_pixels is {config.eval.max_pixels}, but must be at least 1")
    output = Path(output or os.path.join(folder, "predictions"))
    jobs = _jobs(find(where, output), output)
    endings = [".png", "_overlay.jpg", *["_probabilities.npz"] * probabilities]
    todo = [(path, stem) for path, stem in jobs if overwrite or not all(_at(stem, e).exists() for e in endings)]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} are in {output} already: --overwrite makes them anew", file=sys.stderr)
    if not todo:
        return 0
    model, state = checkpoints.restore_run(config, folder, checkpoint)
    metadata = provenance.metadata(config, folder)
    predictor = inference.create_predictor(model, config.eval, metadata["class_names"])

    def label(path, stem):
        """Writes what there is of an image. Returns what is wrong with it, or None."""
        if any(_same(path, _at(stem, ending)) for ending in endings):
            return "its results would replace it: choose another --output"
        try:
            image, size = read_image(path, config.eval.max_pixels)
        except Exception as e:  # Pillow raises all sorts on damaged files
            return _reason(e)
        height, width = transforms.base_size_of(image.shape[:2], config.eval.size)
        if len(config.eval.size) == 1 and height * width > config.eval.max_pixels:
            return (
                f"at config.eval.size={config.eval.size[0]} it has {height}×{width} pixels, more than config.eval.max_pixels: "
                "cut it up, or change one of them"
            )
        regions = None
        if config.data.superpixels:
            regions = superpixels.stack([superpixels.compute(image, view) for view in evaluate.views(config)])[None]
        p = predictor(state.variables, image[None], regions)[0]
        wanted = {e for e in endings if overwrite or not _at(stem, e).exists()}
        try:
            _write(stem, image, p, size, metadata["palette"], wanted)
        except OSError as e:
            raise UserError(f"--output={output} cannot be written: {e.strerror}") from e
        return None

    failed = []
    try:
        with logs.Progress(len(todo), 0, "predict", compiles=True) as progress:
            for done, (path, stem) in enumerate(todo, 1):
                if wrong := label(path, stem):
                    failed.append(f"{path}: {wrong}")
                progress.update(done)
    finally:  # also when interrupted
        for line in failed:
            print(f"skipped {line}", file=sys.stderr)
    print(f"{len(todo) - len(failed)} of {len(todo)} images labelled in {output}")
    return len(failed)


def find(where: str, output: Path) -> list[tuple[Path, Path]]:
    """The images that `where` means, in order, and what their results are named after: paths below `where` without their suffix.

    A folder is searched for images by their suffix, all the way down, but for `output`. UserError if there are none.
    """
    path = Path(where)
    if path.is_dir():
        if _same(path, output):
            raise UserError(
                f"--output={output} is the folder of --input: results would be taken for images; choose another"
            )
        root, results = path, Path(os.path.realpath(output))
        images = (p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file())
        paths = [p for p in images if results not in Path(os.path.realpath(p)).parents]
        what = f"no image ({', '.join(SUFFIXES)}) in the folder"
    elif path.is_file():
        root, paths, what = path.parent, [path], ""
    else:
        paths = [Path(p) for p in sorted(glob.glob(where, recursive=True)) if os.path.isfile(p)]
        root = Path(where[: re.search(r"[*?[]|$", where).start()] + "x").parent  # what comes before the first wildcard
        what = "no file, folder or glob that matches anything"
    if not paths:
        raise UserError(f"--input={where}: {what}")
    return [(p, p.relative_to(root)) for p in paths]


def _jobs(found, output):
    """(image, output path without ending); of images that differ in their suffix alone, the name keeps it."""
    stems = [name.with_suffix("") for _, name in found]
    counts = collections.Counter(stems)
    return [
        (path, output / (stem if counts[stem] == 1 else name)) for (path, name), stem in zip(found, stems, strict=True)
    ]


def _at(stem, ending):
    return stem.with_name(stem.name + ending)


def _same(path, other):
    return os.path.realpath(path) == os.path.realpath(other)


def read_image(path, max_pixels: int):
    """An image file as RGB, upright.

    EXIF orientation is applied; of several frames the first counts; of 16 bits, the upper 8; what is transparent is laid over white.
    More than `max_pixels` are averaged down to that.

    Returns:
        uint8 `[h,w,3]`, and the file's height and width, upright.

    Raises:
        OSError, ValueError, …: not an image, damaged, or of more than `LARGEST` pixels.
    """
    with _any_size(), Image.open(path) as file:
        width, height = file.size
        if width * height > LARGEST:
            raise ValueError(f"{width}×{height} is more than {LARGEST // 1_000_000} megapixels: make it smaller")
        factor = max((width * height / max_pixels) ** 0.5, 1.0)
        target = (max(round(width / factor), 1), max(round(height / factor), 1))
        if file.format in ("JPEG", "MPO") and factor > 1:
            file.draft("RGB", target)  # decodes no more than it has to
        orientation = file.getexif().get(0x0112)
        # Smaller before anything else, so that there is one large copy at the most.
        if file.size != target and file.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
            image = _rgb(file.resize(target, Image.Resampling.BOX))
        else:
            image = _rgb(file)
            image = image if image.size == target else image.resize(target, Image.Resampling.BOX)
        turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
        if turn is not None:
            image = image.transpose(turn)
    return np.asarray(image), (width, height) if turn in SIDEWAYS else (height, width)


def _rgb(file):
    if file.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(file) >> 8).astype(np.uint8)).convert("RGB")
    if file.mode in ("I", "F"):  # no range of its own: 8 or 16 bits by its largest value, or all that there is
        values = np.nan_to_num(np.asarray(file, np.float32), posinf=0, neginf=0)
        if file.mode == "F":
            values = (values - values.min()) * (255 / max(np.ptp(values), 1e-12))
        elif values.max(initial=0) > 255:
            values = values / 257
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if file.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in file.info:
        rgba = file.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return file.convert("RGB")


@contextlib.contextmanager
def _any_size():
    """Pillow refuses, or warns of, images that are much smaller than what is possible here; `LARGEST` is what counts."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _reason(e) -> str:
    if isinstance(e, Image.UnidentifiedImageError):
        return "not an image, or damaged"
    return " ".join(str(getattr(e, "strerror", None) or e or type(e).__name__).split())


def labels_at(probabilities, size: tuple[int, int], at_once: int = 16_000_000) -> np.ndarray:
    """The most probable class at another size: float32 `[h,w,K]` → uint8 `[*size]`, probabilities interpolated bilinearly.

    Some rows at a time, so that no more than `at_once` values are in memory however large the result is.
    """
    h, w, classes = probabilities.shape
    if (h, w) == tuple(size):
        return probabilities.argmax(-1).astype(np.uint8)
    labels = np.empty(size, np.uint8)
    position = np.clip((np.arange(size[0]) + 0.5) * h / size[0] - 0.5, 0, h - 1)
    rows = max(at_once // (size[1] * classes), 1)
    for start in range(0, size[0], rows):
        at = position[start : start + rows]
        low = np.floor(at).astype(int)
        share = (at - low)[:, None, None].astype(np.float32)
        strip = probabilities[low] * (1 - share) + probabilities[np.minimum(low + 1, h - 1)] * share
        # OpenCV's bilinear interpolation has its centres at +½ too; the strip's rows are in place already.
        wide = cv2.resize(strip, (size[1], len(at)), interpolation=cv2.INTER_LINEAR).reshape(len(at), size[1], classes)
        labels[start : start + rows] = wide.argmax(-1)
    return labels


def _write(stem, image, p, size, palette, wanted):
    """Writes the files of these endings."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels_at(p, size))
    picture.putpalette([channel for colour in palette for channel in colour])
    colours = figures.colourise(p.argmax(-1).astype(np.uint8), palette)
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
