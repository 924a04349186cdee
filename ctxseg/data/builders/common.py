"""What the builders of data sets share: the features, checks of the files, and preparing exactly once.

A builder is a `tfds.core.GeneratorBasedBuilder` whose samples have the features

    image  an encoded PNG or JPEG, decoding to uint8 [H, W, 3]
    label  an encoded PNG, uint8 [H, W, 1]: class ids, 255 = ignore
    name   text: the file's stem

and whose `info.metadata` has `class_names`, `palette`, `groups` and `fingerprint`. It yields encoded bytes
(`io.BytesIO`) or paths: TFDS then needs no TensorFlow. Beside TFDS's own members it has

    MANUAL_DOWNLOAD_INSTRUCTIONS   what `manual_dir` must hold, to follow "wants"; None if the data set is generated
    fingerprint(manual_dir)        classmethod: a short string that changes whenever the prepared data would

A build is kept under `data_dir/name/fingerprint/version`, so another `manual_dir` is never taken for a cached one.

Where the data set has files, a builder lists `Pair`s by split and has a function that reads a label: `read_label(pair.label)`
→ uint8 [H, W], class ids and 255. `label_image` makes one for 8-bit images of ids; other kinds of file are each builder's own.
It raises ValueError, or what its decoder raises, with what is wrong, and the file's name is put in front here; or a
UserError, which names it already.
"""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image, UnidentifiedImageError

from ctxseg.errors import UserError
from ctxseg.logs import Progress

IGNORE = 255
FAULTS_NAMED = 5  # in an error message; the others are counted


class Part(NamedTuple):
    """Something in a file that holds more: `key` says what to the function that reads it; it is not shown to users."""

    file: Path
    key: object


class Pair(NamedTuple):
    """An image and its labels: a file each, or a part of one."""

    name: str
    image: Path | Part
    label: Path | Part


def dataset_info(
    builder,
    description: str,
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    groups: Mapping[str, Sequence[str]] | None = None,
    **kwargs,
) -> tfds.core.DatasetInfo:
    """The `DatasetInfo` of a segmentation data set; what a builder's `_info` returns.

    Args:
        builder: the builder, i.e. `self`.
        description: a sentence or two.
        class_names: by class id.
        palette: [r, g, b] of each class, 0..255.
        groups: {group: class names}, over which IoU is averaged too.
        **kwargs: of `tfds.core.DatasetInfo`: homepage, citation, license.
    """
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                "name": tfds.features.Text(),
            }
        ),
        metadata=tfds.core.MetadataDict(
            class_names=list(class_names),
            palette=[list(map(int, colour)) for colour in palette],
            groups={group: list(names) for group, names in (groups or {}).items()},
            fingerprint=builder.builder_config.name if builder.builder_config else "",
        ),
        disable_shuffling=True,  # records in the order of the official lists; the pipeline shuffles
        **kwargs,
    )


def encode_png(array: np.ndarray) -> io.BytesIO:
    """uint8 [H, W] labels or [H, W, 3] RGB as a PNG, which is what TFDS's `Image` feature takes."""
    encoded = cv2.imencode(".png", array if array.ndim == 2 else array[..., ::-1])[1]
    return io.BytesIO(encoded.tobytes())


def progress(items: Iterable, total: int, label: str) -> Iterator:
    """Yields `items`, saying on stderr how far it is."""
    with Progress(total, 0, label) as shown:
        for done, item in enumerate(items, 1):
            yield item
            shown.update(done)


def label_image(dataset: str, ids: Mapping[int, int]) -> Callable[[Path], np.ndarray]:
    """The reader of labels that are 8-bit images of ids.

    Args:
        dataset: its name, for messages.
        ids: {id in a label file: class id, or 255 for void}.

    Returns:
        path → uint8 [H, W]. It raises ValueError for an image of another kind, or with an id that is not in `ids`.
    """

    def read(path):
        with Image.open(path) as file:
            if file.mode not in ("L", "P"):  # P: ids with a palette to show them in colour
                raise ValueError(f"label has pixels of kind {file.mode}, but must have one channel of 8 bits")
            return map_ids(dataset, np.asarray(file), ids)

    return read


def map_ids(dataset: str, values: np.ndarray, ids: Mapping[int, int]) -> np.ndarray:
    """Class ids of the ids in a file.

    Args:
        dataset: its name, for messages.
        values: [H, W], whole numbers of any type: MATLAB's may be floating.
        ids: {id in a label file: class id, or 255 for void}.

    Returns:
        uint8 [H, W].

    Raises:
        ValueError: no two axes, or a number that is not in `ids`.
    """
    if values.ndim != 2 or values.dtype.kind not in "uif":
        raise ValueError(f"label is an array {values.shape} of {values.dtype}, but must be numbers in rows and columns")
    first = min(ids)
    table = np.full(max(ids) - first + 2, -1, np.int16)  # the last is for numbers out of range
    table[np.array(list(ids)) - first] = list(ids.values())
    known = (values >= first) & (values <= max(ids))
    if values.dtype.kind == "f":
        known &= values == np.floor(values)
    classes = table[np.where(known, values, np.int64(max(ids) + 1)).astype(np.int64) - first]
    unknown = np.unique(values[classes < 0])
    if unknown.size:
        raise ValueError(f"label id {', '.join(map(str, unknown[:5]))}, but {dataset} has {_describe(ids)}")
    return classes.astype(np.uint8)


def bit_palette(count: int, first: int = 0) -> list[tuple[int, int, int]]:
    """The colours of PASCAL VOC's label images: bits 0, 3, 6 of an id are red's highest three, 1, 4, 7 green's and 2, 5 blue's.

    Args:
        count: of colours.
        first: id of the first; 1 leaves out black, for data sets without background.

    Returns:
        [(r, g, b)], all different for ids below 256.
    """
    ids = np.arange(first, first + count)
    colours = np.zeros((count, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (ids >> (3 * bit + channel) & 1) << (7 - bit)
    return [tuple(map(int, colour)) for colour in colours]


def check_splits(
    dataset: str,
    splits: Mapping[str, Sequence[Pair]],
    published: Mapping[str, int],
    read_label: Callable[[Path | Part], np.ndarray],
    read_image: Callable[[Part], np.ndarray] | None = None,
) -> None:
    """Decodes everything: images are whole, labels can be read and have the size of their image.

    A split with another number of images than published is reported on stderr: a subset of a data set is no error.

    Args:
        dataset: its name, for messages.
        splits: {split: pairs}; all of them, so that one run reports every fault.
        published: {split: number of images}.
        read_label: label of a pair → uint8 [H, W], class ids and 255.
        read_image: image of a pair → uint8 [H, W, 3] RGB, where images are no files of their own.

    Raises:
        UserError: what is wrong with which files, the first few of them.
    """
    for split, pairs in splits.items():
        difference = len(pairs) - published[split]
        if difference:
            count = f"{abs(difference)} {'fewer' if difference < 0 else 'more'} than the {published[split]} published"
            print(f"warning: {dataset} {split} has {len(pairs)} images, {count}", file=sys.stderr)
    # Splits may share pairs.
    pairs = list({(p.name, file_of(p.image), file_of(p.label)): p for pairs in splits.values() for p in pairs}.values())
    checks = grain.MapDataset.source(pairs).map(lambda pair: _fault(pair, read_label, read_image) or "")
    faults = [fault for fault in progress(threaded(checks), len(pairs), f"check {dataset}") if fault]
    raise_faults(dataset, faults, len(pairs))


def raise_faults(dataset: str, faults: Sequence[str], total: int) -> None:
    """Raises one UserError that names the first few faults and counts the rest; does nothing if there are none."""
    if len(faults) == 1:
        raise UserError(faults[0])
    if faults:
        rest = f"; and {len(faults) - FAULTS_NAMED} more" if len(faults) > FAULTS_NAMED else ""
        raise UserError(f"{dataset}: {len(faults)} of {total} faulty: {'; '.join(faults[:FAULTS_NAMED])}{rest}")


def pair_examples(
    label: str,
    pairs: Sequence[Pair],
    read_label: Callable[[Path | Part], np.ndarray],
    read_image: Callable[[Part], np.ndarray] | None = None,
) -> Iterator[tuple[int, dict]]:
    """What `_generate_examples` yields of pairs that `check_splits` found good: images as they are, labels as PNGs of class ids.

    Args:
        label: for the progress bar, as 'camvid train'.
        pairs: of one split.
        read_label: as for `check_splits`.
        read_image: as for `check_splits`; the image becomes a PNG.
    """

    def example(pair):
        image = encode_png(read_image(pair.image)) if read_image else io.BytesIO(pair.image.read_bytes())
        return {"image": image, "label": encode_png(read_label(pair.label)), "name": pair.name}

    return enumerate(progress(threaded(grain.MapDataset.source(pairs).map(example)), len(pairs), f"write {label}"))


def fingerprint_pairs(root: Path, splits: Mapping[str, Sequence[Pair]], *others: Path) -> str:
    """A digest of the splits' file names, relative to `root`, and sizes; and of the names of pairs that share a file.

    Args:
        root: the folder that all files are in.
        splits: {split: pairs}.
        *others: files that labels depend on too.

    Raises:
        UserError: files that are not there.
    """
    digest, missing, sizes = hashlib.sha256(), [], {}

    def update(path, rest=""):
        if path not in sizes:
            sizes[path] = path.stat().st_size if path.is_file() else None
            if sizes[path] is None:
                missing.append(f"{path} is missing")
        digest.update(f"{path.relative_to(root)} {sizes[path]}{rest}\n".encode())

    for split, pairs in sorted(splits.items()):
        digest.update(f"{split}\n".encode())
        for pair in pairs:
            for of in (pair.image, pair.label):
                update(file_of(of), f" {pair.name}" if isinstance(of, Part) else "")
    for path in others:
        update(path)
    raise_faults("config.data.manual_dir", missing, len(sizes))
    return digest.hexdigest()[:12]


def file_of(image_or_label: Path | Part) -> Path:
    """The file that an image or a label of a `Pair` is in."""
    return image_or_label.file if isinstance(image_or_label, Part) else image_or_label


def require(builder_cls, manual_dir: Path, *paths: str) -> None:
    """Checks that `manual_dir` has files and folders, by their paths in it.

    Raises:
        UserError: the first that is missing; a folder in or above `manual_dir` that has it is suggested instead.
    """
    for path in paths:
        if not (manual_dir / path).exists():
            found = [*sorted(manual_dir.glob(f"*/{path}")), *sorted(manual_dir.glob(f"*/*/{path}"))]
            found += [folder / path for folder in manual_dir.parents[:3] if (folder / path).exists()]
            root = found and Path(*found[0].parts[: -len(Path(path).parts)])
            wanted = f"{builder_cls.name} wants {builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            hint = f"did you mean {root}?" if found else wanted
            raise UserError(f"config.data.manual_dir: {manual_dir / path} is missing; {hint}")


def read_names(path: Path) -> list[str]:
    """The first word of every line that has one. UserError if none has."""
    names = [
        line.split()[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    if not names:
        raise UserError(f"{path} lists no images")
    return names


def prepare(builder_cls, data_dir, manual_dir=None):
    """A builder whose data is prepared: read from `data_dir` if it is there, else built.

    Of several processes that want the same build, one makes it and the others wait. A build appears under its name when
    it is complete, or not at all; what an interrupted one left behind is removed.

    Args:
        builder_cls: a builder class, as described at the top of this file.
        data_dir: where prepared data sets are kept.
        manual_dir: the data set as its makers ship it; None if it is generated, or to use the one build there is.

    Raises:
        UserError: no or a faulty `manual_dir`, or a `data_dir` that cannot be written.
    """
    data_dir = Path(data_dir).expanduser()
    if builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
        manual_dir = None
    elif manual_dir:
        manual_dir = Path(manual_dir).expanduser()
        _check_manual_dir(builder_cls, manual_dir)
    else:
        return _builder(builder_cls, data_dir, _only_build(builder_cls, data_dir))

    try:
        fingerprint = builder_cls.fingerprint(manual_dir)
        builder = _builder(builder_cls, data_dir, fingerprint)
        if _prepared(builder):
            return builder
        folder = Path(builder.data_dir).parent
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder):
            if not _prepared(builder):  # which another process may have done meanwhile
                _build(builder, manual_dir)
    except OSError as error:
        raise UserError(f"cannot prepare {builder_cls.name} in config.data.data_dir={data_dir}: {error}") from error
    return _builder(builder_cls, data_dir, fingerprint)


def _build(builder, manual_dir):
    folder = Path(builder.data_dir).parent
    for leftover in folder.glob("incomplete.*"):
        shutil.rmtree(leftover)
    if Path(builder.data_dir).exists():  # somebody deleted its dataset_info.json
        shutil.rmtree(builder.data_dir)
    print(f"preparing {builder.name} in {builder.data_dir}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as downloads, _quiet():
        builder.download_and_prepare(
            download_dir=downloads,  # nothing is downloaded, but TFDS makes the folder
            download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False),
            file_format="array_record",
        )


def _builder(builder_cls, data_dir, fingerprint):
    with _quiet():
        return builder_cls(data_dir=data_dir, config=tfds.core.BuilderConfig(name=fingerprint))


def unprepared(builder_cls):
    """A builder to ask for its metadata: it has no data and writes none."""
    return _builder(builder_cls, tempfile.gettempdir(), "unprepared")


def _prepared(builder):
    return (Path(builder.data_dir) / "dataset_info.json").exists()  # TFDS's is_prepared warns where it does not


def _only_build(builder_cls, data_dir):
    """The fingerprint of the one build of a data set that is there."""
    name = builder_cls.name
    builds = sorted((data_dir / name).glob(f"*/{builder_cls.VERSION}/dataset_info.json"))
    if len(builds) == 1:
        return builds[0].parent.parent.name
    if builds:
        places = ", ".join(str(build.parent) for build in builds)
        raise UserError(f"config.data.manual_dir must say which {name}: several are prepared: {places}")
    wanted = builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS
    raise UserError(f"config.data.manual_dir is not given, and no {name} is prepared in {data_dir}: it wants {wanted}")


def _check_manual_dir(builder_cls, manual_dir):
    wanted = f"{builder_cls.name} wants {builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS}"
    if not manual_dir.exists():
        raise UserError(f"config.data.manual_dir: {manual_dir} does not exist; {wanted}")
    if not manual_dir.is_dir():
        raise UserError(f"config.data.manual_dir: {manual_dir} is not a folder; {wanted}")
    if not any(manual_dir.iterdir()):
        raise UserError(f"config.data.manual_dir: {manual_dir} is empty; {wanted}")


@contextlib.contextmanager
def lock(folder):
    """Holds `folder` against other processes; the system lets go of it if this one dies."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that prepares {folder}", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet():
    """Keeps TFDS from announcing downloads on stdout, drawing bars and warning of configs that are not listed."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def threaded(dataset: grain.MapDataset) -> Iterator:
    """The elements in order, a few computed ahead: decoders let go of Python's lock."""
    threads = min(os.cpu_count() or 1, 16)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)))


def _fault(pair, read_label, read_image):
    """What is wrong with a pair, starting with the file's name; None if nothing is."""
    sizes = []
    for of, size in ((pair.image, read_image and _array_size(read_image)), (pair.label, _array_size(read_label))):
        path = file_of(of)
        place = f"{path}: {pair.name}" if isinstance(of, Part) else path
        try:
            sizes.append((size or _image_size)(of))
        except UserError as error:
            return str(error)
        except UnidentifiedImageError:
            return f"{place}: not an image"
        except Exception as error:  # damaged files make decoders raise all sorts
            return f"{place}: {getattr(error, 'strerror', None) or ' '.join(str(error).split())}"
    if sizes[0] != sizes[1]:
        (width, height), (label_width, label_height) = sizes
        return f"{place}: label is {label_width}x{label_height}, but its image is {width}x{height}"
    return None


def _image_size(path):
    with Image.open(path) as file:
        file.load()
        return file.size


def _array_size(read):
    """The function that reads an array and returns its width and height."""
    return lambda of: read(of).shape[1::-1]


def _describe(ids):
    """{0: 0, 1: 1, 2: 2, 11: 255} → '0..2 and 11 (void)'."""
    known, void = [sorted(i for i, c in ids.items() if (c == IGNORE) == is_void) for is_void in (False, True)]
    text = f"{known[0]}..{known[-1]}" if known == list(range(known[0], known[-1] + 1)) else ", ".join(map(str, known))
    return f"{text} and {', '.join(map(str, void))} (void)" if void else text
