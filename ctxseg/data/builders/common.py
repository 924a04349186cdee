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

Where the data set has files, a builder is a `PairsBuilder`: it lists `Pair`s by split and has a function that reads a label:
`read_label(pair.label)` → uint8 [H, W], class ids and 255. `label_image` makes one for 8-bit images of ids; other kinds of file
are each builder's own.
It raises ValueError, or what its decoder raises, with what is wrong, and the file's name is put in front here; or a
UserError, which names it already.
"""

import contextlib
import errno
import fcntl
import hashlib
import inspect
import io
import os
import re
import shutil
import stat
import sys
import tempfile
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordReader
from google.protobuf.json_format import ParseError
from PIL import Image, UnidentifiedImageError

from ctxseg.data import download
from ctxseg.errors import UserError
from ctxseg.logs import Progress

IGNORE = 255
SHARD = 1000  # records of a file
# Ids decode in a third of the time, and take less, if PNG does not predict them from their neighbours.
PNG_OF_IDS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 6),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
)
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
FAULTS_NAMED = 5  # in an error message; if there are more, stderr has all


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
    pixels, options = (array, PNG_OF_IDS) if array.ndim == 2 else (array[..., ::-1], ())
    return io.BytesIO(cv2.imencode(".png", pixels, options)[1].tobytes())


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
    """Decodes everything: images are whole, labels can be read and have the size of their image. All faults are told at once.

    A split with another number of images than published is reported on stderr: a subset of a data set is no error.

    Args:
        dataset: its name, for messages.
        splits: {split: pairs}; all of them, so that one run reports every fault.
        published: {split: number of images}.
        read_label: label of a pair → uint8 [H, W], class ids and 255.
        read_image: image of a pair → uint8 [H, W, 3] RGB, where images are no files of their own.

    Raises:
        UserError: what is wrong with which files, see `raise_faults`.
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
    """Raises one UserError that names the first few faults, if there are any; where these are more, stderr has all, a line each."""
    if len(faults) == 1:
        raise UserError(faults[0])
    if faults:
        rest = f"; and {len(faults) - FAULTS_NAMED} more" if len(faults) > FAULTS_NAMED else ""
        if rest:
            print(f"all {len(faults)} faults:", *faults, sep="\n  ", file=sys.stderr, flush=True)
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


class PairsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What all builders of data sets whose files are listed as `Pair`s do; each says with what.

    Attributes:
        name: as `config.data.name` has it.
        homepage: of the data set.
        MANUAL_DOWNLOAD_INSTRUCTIONS: as at the top.
        published: {split: number of images}, as for `check_splits`.
        class_names: by class id.
        palette: [r, g, b] of each class.
        groups: {group: class names}, over which IoU is averaged too.
        downloads: where the files are, if anybody can have them without a login.
        list_pairs: manual_dir → {split: pairs}. It raises UserError for files that are missing.
        read_label: as for `check_splits`.
        read_image: as for `check_splits`.
    """

    VERSION = tfds.core.Version("1.0.0")  # another one where the same files give other samples
    groups: Mapping[str, Sequence[str]] = {}
    downloads: download.Source | None = None
    read_image = None

    @classmethod
    def fingerprint(cls, manual_dir: Path) -> str:
        """A digest of the listed files' names and sizes. UserError: a folder, list or file is missing."""
        return fingerprint_pairs(manual_dir, cls.list_pairs(manual_dir))

    def _info(self):
        return dataset_info(
            self, inspect.getdoc(type(self)), self.class_names, self.palette, self.groups, homepage=self.homepage
        )

    def _split_generators(self, dl_manager):
        splits = self.list_pairs(Path(dl_manager.manual_dir))
        check_splits(self.name, splits, self.published, self.read_label, self.read_image)
        return {split: self._generate_examples(split, pairs) for split, pairs in splits.items()}

    def _generate_examples(self, split, pairs):
        yield from pair_examples(f"{self.name} {split}", pairs, self.read_label, self.read_image)


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
    start = len(str(root / "x")) - 1  # paths below root as text: for 10⁵ files, `Path`'s arithmetic takes seconds

    def update(path, rest=""):
        path = str(path)
        if path not in sizes:
            sizes[path] = _file_size(path)
            if sizes[path] is None:
                missing.append(f"{path} is missing")
        digest.update(f"{path[start:]} {sizes[path]}{rest}\n".encode())

    for split, pairs in sorted(splits.items()):
        digest.update(f"{split}\n".encode())
        for pair in pairs:
            for of in (pair.image, pair.label):
                update(file_of(of), f" {pair.name}" if isinstance(of, Part) else "")
    for path in others:
        update(path)
    raise_faults("config.data.manual_dir", missing, len(sizes))
    return digest.hexdigest()[:12]


def _file_size(path):
    """In bytes; None if it is no file."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def file_of(image_or_label: Path | Part) -> Path:
    """The file that an image or a label of a `Pair` is in."""
    return image_or_label.file if isinstance(image_or_label, Part) else image_or_label


def require(builder_cls, manual_dir: Path, *paths: str) -> None:
    """Checks that `manual_dir` has files and folders, by their paths in it.

    Raises:
        UserError: the first that is missing; a folder in or above `manual_dir` that has it is suggested instead.
    """
    for path in paths:
        try:
            (manual_dir / path).stat()  # not exists(): what may not be looked at is not missing
        except (FileNotFoundError, NotADirectoryError):
            found = [*sorted(manual_dir.glob(f"*/{path}")), *sorted(manual_dir.glob(f"*/*/{path}"))]
            found += [folder / path for folder in manual_dir.parents[:3] if os.path.exists(folder / path)]
            root = found and Path(*found[0].parts[: -len(Path(path).parts)])
            wanted = f"{builder_cls.name} wants {builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            hint = f"did you mean {root}?" if found else wanted
            raise UserError(f"config.data.manual_dir: {manual_dir / path} is missing; {hint}") from None


def read_names(path: Path) -> list[str]:
    """The first word of every line that has one. UserError if none has."""
    names = [
        line.split()[0] for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    if not names:
        raise UserError(f"{path} lists no images")
    return names


def prepare(builder_cls, data_dir, manual_dir=None, download: bool = False):
    """A builder whose data is prepared: read from `data_dir` if it is there, else built.

    Of several processes that want the same build, one makes it and the others wait. A build appears under its name when
    it is complete, or not at all; what an interrupted one left behind is removed, and the build starts over.

    Args:
        builder_cls: a builder class, as described at the top of this file.
        data_dir: where prepared data sets are kept.
        manual_dir: the data set as its makers ship it; None if it is generated, or to use the one build there is.
        download: where there is neither, download it to data_dir/downloads.

    Raises:
        UserError: no or a faulty `manual_dir`, or a `data_dir` that cannot be written or is full.
    """
    data_dir = Path(data_dir).expanduser()
    if builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
        manual_dir = None
    elif not manual_dir:
        try:
            only = _only_build(builder_cls, data_dir)
            if only:
                builder = _builder(builder_cls, data_dir, only)
                if not _prepared(builder):
                    raise UserError(
                        f"config.data.data_dir: {builder.data_dir} has lost records: delete it to prepare it again"
                    )
                return builder
        except OSError as error:
            raise UserError(f"config.data.data_dir: cannot read {reason(error)}") from error
        manual_dir = _download(builder_cls, data_dir, download)
    try:
        if manual_dir:
            manual_dir = Path(manual_dir).expanduser()
            _check_manual_dir(builder_cls, manual_dir)
        fingerprint = builder_cls.fingerprint(manual_dir)
    except OSError as error:
        raise UserError(f"config.data.manual_dir: cannot read {reason(error)}") from error
    try:
        builder = _builder(builder_cls, data_dir, fingerprint)
        if _prepared(builder):
            return builder
        folder = Path(builder.data_dir).parent
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder):
            if not _prepared(builder):  # which another process may have done meanwhile
                _build(builder_cls, folder, Path(builder.data_dir), manual_dir)
    except OSError as error:
        raise UserError(
            f"cannot prepare {builder_cls.name} in config.data.data_dir={data_dir}: {reason(error)}"
        ) from error
    return _builder(builder_cls, data_dir, fingerprint)


def _build(builder_cls, folder, target, manual_dir):
    """Builds in a folder of its own within `folder`, which becomes `target` when everything in it is on the disk."""
    for leftover in [*folder.glob("incomplete.*"), target]:  # target: somebody deleted its dataset_info.json
        if leftover.exists():
            shutil.rmtree(leftover)
    print(f"preparing {builder_cls.name} in {target}", file=sys.stderr, flush=True)
    incomplete = tempfile.mkdtemp(prefix="incomplete.", dir=folder)
    try:
        builder = _builder(builder_cls, incomplete, folder.name)
        Path(builder.data_dir).mkdir(parents=True)
        with _quiet(), writing():
            # Not download_and_prepare: it holds a split in memory, and beyond 1 GB asks for TensorFlow.
            writer = tfds.core.SequentialWriter(builder.info, SHARD, file_format="array_record")
            for split, examples in builder._split_generators(types.SimpleNamespace(manual_dir=manual_dir)).items():
                writer.initialize_splits([split])
                writer.add_examples({split: (example for _, example in examples)})
            writer.close_all()
        for split in builder.info.splits.values():
            for path, records in zip(split.filepaths, split.shard_lengths, strict=True):
                check_written(path, records)
        os.replace(builder.data_dir, target)
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)


@contextlib.contextmanager
def writing():
    """Turns the errors of ArrayRecord's writer, which come as RuntimeErrors when it is closed, into the system's OSErrors."""
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"\w+\(\) failed: ([^;]+); \w+ ([^;]+)", str(error))
        if not found:
            raise
        code = next((code for code in errno.errorcode if os.strerror(code) == found[1]), errno.EIO)
        raise OSError(code, found[1], found[2]) from error


def check_written(path, records: int) -> None:
    """Waits until the ArrayRecord file at `path` is on the disk. OSError if it cannot be, or does not have so many records."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    reader = ArrayRecordReader(str(path))
    if not reader.ok() or reader.num_records() != records:
        raise OSError(errno.EIO, "not written whole: is the disk full, or failing?", str(path))


def reason(error: OSError) -> str:
    """What the system says against a file, and what to do."""
    text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{text}; make room there, or choose another config.data.data_dir, and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{text}; give yourself access to it, or choose another folder"
    return text


def _builder(builder_cls, data_dir, fingerprint):
    place = Path(data_dir, builder_cls.name, fingerprint, str(builder_cls.VERSION))
    try:
        with _quiet():
            return builder_cls(
                data_dir=data_dir, config=tfds.core.BuilderConfig(name=fingerprint), file_format="array_record"
            )
    except (ParseError, ValueError, KeyError, TypeError) as error:
        if not (place / "dataset_info.json").exists():
            raise
        raise UserError(f"config.data.data_dir: {place} is damaged: delete it to prepare it again") from error


def unprepared(builder_cls):
    """A builder to ask for its metadata: it has no data and writes none."""
    return _builder(builder_cls, tempfile.gettempdir(), "unprepared")


def _prepared(builder):
    files = [path for split in builder.info.splits.values() for path in split.filepaths]
    files.append(Path(builder.data_dir) / "dataset_info.json")
    return all(os.path.exists(path) for path in files)  # TFDS's is_prepared warns where one does not


def _only_build(builder_cls, data_dir):
    """The fingerprint of the one build of a data set that is there; None if there is none."""
    name = builder_cls.name
    builds = sorted((data_dir / name).glob(f"*/{builder_cls.VERSION}/dataset_info.json"))
    if len(builds) == 1:
        return builds[0].parent.parent.name
    if builds:
        places = ", ".join(str(build.parent) for build in builds)
        raise UserError(f"config.data.manual_dir must say which {name}: several are prepared: {places}")
    return None


def _download(builder_cls, data_dir, wished):
    """`manual_dir` of a data set that is not given: downloaded, if it can be and is wished; gigabytes are not begun unasked."""
    missing = f"config.data.manual_dir is not given, and no {builder_cls.name} is prepared in {data_dir}"
    wanted = builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS
    source = getattr(builder_cls, "downloads", None)
    if source is None:
        raise UserError(f"{missing}: it wants {wanted}")
    if not wished:
        raise UserError(f"{missing}: --mode=prepare downloads it; by hand, it wants {wanted}")
    folder = data_dir / "downloads" / source.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder):
            return download.fetch(source, folder)
    except OSError as error:
        raise UserError(f"{missing}; downloading failed: {reason(error)}") from error
    except UserError as error:
        raise UserError(f"{missing}; downloading failed: {error}; by hand, it wants {wanted}") from error


def _check_manual_dir(builder_cls, manual_dir):
    wanted = f"{builder_cls.name} wants {builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS}"
    if not manual_dir.exists():
        raise UserError(f"config.data.manual_dir: {manual_dir} does not exist; {wanted}")
    if not manual_dir.is_dir():
        raise UserError(f"config.data.manual_dir: {manual_dir} is not a folder; {wanted}")
    names = sorted(path.name for path in manual_dir.iterdir())
    if not names:
        raise UserError(f"config.data.manual_dir: {manual_dir} is empty; {wanted}")
    if all(name.endswith(ARCHIVES) for name in names):
        raise UserError(
            f"config.data.manual_dir: {manual_dir} has {', '.join(names[:3])} still packed: unpack it; {wanted}"
        )


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
    """What is wrong with a pair's image, label or both, each starting with the file's name; None if nothing is."""
    sizes, faults = [], []
    for of, size in ((pair.image, read_image and _array_size(read_image)), (pair.label, _array_size(read_label))):
        path = file_of(of)
        place = f"{path}: {pair.name}" if isinstance(of, Part) else path
        try:
            if path.stat().st_size == 0:  # decoders only say that this is none of theirs
                raise ValueError("the file is empty")
            sizes.append((size or _image_size)(of))
        except UserError as error:
            faults.append(str(error))
        except UnidentifiedImageError:
            faults.append(f"{place}: not an image")
        except Exception as error:  # damaged files make decoders raise all sorts
            faults.append(f"{place}: {getattr(error, 'strerror', None) or ' '.join(str(error).split())}")
    if not faults and sizes[0] != sizes[1]:
        (width, height), (label_width, label_height) = sizes
        fault = f"{place}: label is {label_width}x{label_height}, but its image is {width}x{height}"
        turn = 1 if read_image else orientation(pair.image)[0]
        if turn > 4 and (label_width, label_height) == (height, width):
            fault += f" with EXIF orientation {turn}: the label is of the upright image: save the image upright"
        faults.append(fault)
    return "; ".join(faults) or None


def _image_size(path):
    with Image.open(path) as file:
        file.load()  # of a damaged JPEG or PNG, OpenCV may make up the rest
        if file.format in ("JPEG", "MPO", "PNG"):
            return file.size
    try:
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # as training decodes it
        image = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError("OpenCV cannot decode it: save it as PNG or JPEG")
    return image.shape[1::-1]


def orientation(path: Path) -> tuple[int, tuple[int, int]]:
    """How an image file is to be turned to be upright, as EXIF has it (1: not at all), and its (width, height) as it is stored."""
    with Image.open(path) as file:
        return Image.Image.getexif(file).get(0x0112, 1), file.size  # a PNG's own method decodes it all


def _array_size(read):
    """The function that reads an array and returns its width and height."""
    return lambda of: read(of).shape[1::-1]


def _describe(ids):
    """{0: 0, 1: 1, 2: 2, 5: 3, 11: 255} → '0..2, 5 and 11 (void)'."""
    known, void = [_runs(i for i, c in ids.items() if (c == IGNORE) == is_void) for is_void in (False, True)]
    return f"{known} and {void} (void)" if void else known


def _runs(numbers):
    """[3, 0, 1, 2, 8, 9] → '0..3, 8, 9'; of more than ten runs, the ones in the middle are left out."""
    runs = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [
        text
        for first, last in runs
        for text in ([f"{first}..{last}"] if last > first + 1 else map(str, range(first, last + 1)))
    ]
    return ", ".join(texts if len(texts) <= 10 else [*texts[:5], "…", *texts[-2:]])
