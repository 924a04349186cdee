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
"""

import contextlib
import fcntl
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Pair(NamedTuple):
    """An image file and the file of its labels."""

    name: str
    image: Path
    label: Path


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


def check_pairs(dataset: str, pairs: Sequence[Pair], ids: Mapping[int, int]) -> None:
    """Decodes every file: images are whole, labels have 8 bits, one channel, known ids and the size of their image.

    Args:
        dataset: its name, for messages.
        pairs: of all splits, so that one run reports every fault.
        ids: {id in a label file: class id, or 255 for void}.

    Raises:
        UserError: what is wrong with which files, the first few of them.
    """
    checks = grain.MapDataset.source(pairs).map(lambda pair: _fault(dataset, pair, ids) or "")
    faults = [fault for fault in progress(threaded(checks), len(pairs), f"check {dataset}") if fault]
    raise_faults(dataset, faults, len(pairs))


def raise_faults(dataset: str, faults: Sequence[str], total: int) -> None:
    """Raises one UserError that names the first few faults and counts the rest; does nothing if there are none."""
    if len(faults) == 1:
        raise UserError(faults[0])
    if faults:
        rest = f"; and {len(faults) - FAULTS_NAMED} more" if len(faults) > FAULTS_NAMED else ""
        raise UserError(f"{dataset}: {len(faults)} of {total} faulty: {'; '.join(faults[:FAULTS_NAMED])}{rest}")


def pair_examples(label: str, pairs: Sequence[Pair], ids: Mapping[int, int]) -> Iterator[tuple[int, dict]]:
    """What `_generate_examples` yields of pairs that `check_pairs` found good: images as they are, labels as class ids.

    Args:
        label: for the progress bar, as 'camvid train'.
        pairs: of one split.
        ids: {id in a label file: class id, or 255 for void}.
    """
    table = _id_table(ids).astype(np.uint8)

    def example(pair):
        with Image.open(pair.label) as file:
            classes = table[np.asarray(file)]
        return {"image": io.BytesIO(pair.image.read_bytes()), "label": encode_png(classes), "name": pair.name}

    return enumerate(progress(threaded(grain.MapDataset.source(pairs).map(example)), len(pairs), f"write {label}"))


def fingerprint_pairs(root: Path, splits: Mapping[str, Sequence[Pair]]) -> str:
    """A digest of the splits' file names, relative to `root`, and sizes.

    Raises:
        UserError: files that are not there.
    """
    digest, missing = hashlib.sha256(), []
    for split, pairs in sorted(splits.items()):
        digest.update(f"{split}\n".encode())
        for path in (path for pair in pairs for path in (pair.image, pair.label)):
            if path.is_file():
                digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
            else:
                missing.append(f"{path} is missing")
    raise_faults("config.data.manual_dir", missing, 2 * sum(map(len, splits.values())))
    return digest.hexdigest()[:12]


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


def _fault(dataset, pair, ids):
    """What is wrong with a pair, starting with the file's name; None if nothing is."""
    sizes = []
    for path in (pair.image, pair.label):
        try:
            with Image.open(path) as file:
                file.load()
                sizes.append(file.size)
                mode, values = file.mode, np.asarray(file) if path == pair.label else None
        except UnidentifiedImageError:
            return f"{path}: not an image"
        except Exception as error:  # damaged files make decoders raise all sorts
            return f"{path}: {getattr(error, 'strerror', None) or error}"
    if mode not in ("L", "P"):  # P: ids with a palette to show them in colour
        return f"{pair.label}: label has pixels of kind {mode}, but must have one channel of 8 bits"
    if sizes[0] != sizes[1]:
        (width, height), (label_width, label_height) = sizes
        return f"{pair.label}: label is {label_width}x{label_height}, but its image is {width}x{height}"
    unknown = np.unique(values[_id_table(ids)[values] < 0])
    if unknown.size:
        return f"{pair.label}: label id {', '.join(map(str, unknown[:5]))}, but {dataset} has {_describe(ids)}"
    return None


def _id_table(ids):
    """int16 [256]: class id of each id of a file, -1 where there is none."""
    table = np.full(256, -1, np.int16)
    table[list(ids)] = list(ids.values())
    return table


def _describe(ids):
    """{0: 0, 1: 1, 2: 2, 11: 255} → '0..2 and 11 (void)'."""
    known, void = [sorted(i for i, c in ids.items() if (c == IGNORE) == is_void) for is_void in (False, True)]
    text = f"{known[0]}..{known[-1]}" if known == list(range(known[0], known[-1] + 1)) else ", ".join(map(str, known))
    return f"{text} and {', '.join(map(str, void))} (void)" if void else text
