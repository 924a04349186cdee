"""Super-pixels: SLIC of every image of a prepared split, computed once and kept beside it.

MSCI's regions (SPEC §4). Its paper takes them from structured edges; SLIC stands in for those here.
"""

import os
import re
from pathlib import Path

import cv2
import grain
import numpy as np
import skimage
from array_record.python.array_record_module import ArrayRecordWriter
from skimage import segmentation

from ctxseg.data.builders.records import PNG_OF_IDS
from ctxseg.data.parallel import each
from ctxseg.data.store import check_written, lock, reason, writing
from ctxseg.errors import UserError

LARGEST = 65535  # regions, as 16-bit PNGs hold
SHARD = 100  # images of a file: at most so many are computed again after an interruption
FILES = 250  # of a split, from which on they have more images: readers keep files open, of which systems allow 1,024


def slic(image: np.ndarray, segments: int) -> np.ndarray:
    """Simple linear iterative clustering (Achanta et al., PAMI 2012): connected regions of similar colour.

    Args:
        image: uint8 [H, W, 3], RGB.
        segments: regions, at most. scikit-image takes it for a wish; fewer are asked for until there are not more.

    Returns:
        uint16 [H, W], ids 0 … n−1 with n ≤ `segments`, each of which occurs.
    """
    wish = segments
    while True:
        regions = segmentation.slic(image, n_segments=wish, compactness=10, start_label=0)
        ids, regions = np.unique(regions, return_inverse=True)
        if len(ids) <= segments or wish == 1:
            break
        wish = max(min(wish * segments // len(ids), wish - 1), 1)
    # Should even a single one asked for give too many, the last are one region, connected or not.
    return np.minimum(regions.reshape(image.shape[:2]), segments - 1).astype(np.uint16)


def check(segments: int) -> None:
    """UserError if `config.data.superpixels` cannot be `segments`."""
    if not 0 <= segments <= LARGEST:
        raise UserError(f"config.data.superpixels is {segments}, but must be 0 (none) to {LARGEST}")


def source(builder, split: str, images, segments: int) -> grain.sources.ArrayRecordDataSource:
    """Encoded super-pixels of a split by index, computed first if need be: 16-bit PNGs of `slic`, in the order of `images`.

    They are kept in the folder of the prepared data set, in files of `SHARD` images, or of more where these were too many, each
    complete or not at all: what was interrupted continues at the first that is missing. Of several processes, one computes them,
    by all cores.

    Args:
        builder: prepared.
        split: of it.
        images: the split's images by index, uint8 [H, W, 3].
        segments: 1 to `LARGEST`, see `slic`.

    Raises:
        UserError: such a number cannot be, the folder cannot be written or is full, or a file in it is damaged.
    """
    check(segments)
    folder = Path(builder.data_dir) / f"superpixels-{segments}-slic-{skimage.__version__}"
    shards = _shards(folder, split, len(images))
    try:
        if not all(path.exists() for path in shards):
            folder.mkdir(exist_ok=True)
            with lock(folder):
                shards = _shards(folder, split, len(images))  # another process may have written them meanwhile
                missing = {path: indices for path, indices in shards.items() if not path.exists()}
                if missing:
                    _write(missing, images, segments, f"super-pixels {builder.name} {split}")
    except OSError as error:
        raise UserError(f"cannot write super-pixels in config.data.data_dir: {reason(error)}") from error
    try:
        records = grain.sources.ArrayRecordDataSource([str(path) for path in shards])
        whole = len(records) == len(images)
    except Exception:  # ArrayRecord raises all sorts on damaged bytes
        whole = False
    if not whole:
        damaged = next(path for path, indices in shards.items() if not _has(path, len(indices)))
        raise UserError(f"{damaged} is damaged: delete it to compute the super-pixels again")
    return records


def _shards(folder, split, count):
    """{path: indices of images} of the files of a split, in order: those that are there, of whatever size, and others between."""
    there = {}
    for path in folder.glob(f"{split}-*.array_record"):
        found = re.fullmatch(r"(\d{6,})-(\d{6,})", path.stem.removeprefix(f"{split}-"))
        if found and int(found[1]) < int(found[2]) <= count:
            start, stop = map(int, found.groups())
            there[start] = max(stop, there.get(start, 0))
    shards, start, size = {}, 0, max(SHARD, -(-count // FILES))
    while start < count:
        stop = there.get(start) or min([start + size, count, *(other for other in there if other > start)])
        shards[folder / f"{split}-{start:06d}-{stop:06d}.array_record"] = range(start, stop)
        start = stop
    return shards


def _write(shards, images, segments, label):
    """Computes `shards`, {path: indices of images}."""

    def encoded(index):
        return cv2.imencode(".png", slic(images[index], segments), PNG_OF_IDS)[1].tobytes()

    indices = [index for shard in shards.values() for index in shard]
    # Threads, not processes: scikit-image's SLIC lets go of Python's lock.
    records = each(encoded, indices, label)
    for path, shard in shards.items():
        incomplete = path.with_suffix(".incomplete")
        try:
            with writing():
                writer = ArrayRecordWriter(str(incomplete), "group_size:1")
                for _ in shard:
                    writer.write(next(records))
                writer.close()
            check_written(incomplete, len(shard))
            os.replace(incomplete, path)
        finally:
            incomplete.unlink(missing_ok=True)  # a full disk has better uses
    next(records, None)  # so that the progress ends


def _has(path, records):
    try:
        return len(grain.sources.ArrayRecordDataSource(str(path))) == records
    except Exception:
        return False
