"""Super-pixels: SLIC of every image of a prepared split, computed once and stored beside it.

They are MSCI's regions (SPEC §4). Its paper computes them from structured edges; here SLIC replaces these.
"""

import os
import re
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import cv2
import grain
import numpy as np
import skimage
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from skimage import segmentation, transform

from ctxseg import bounds
from ctxseg.data.builders.records import PNG_OF_IDS
from ctxseg.data.parallel import each
from ctxseg.data.sizes import base_size_of
from ctxseg.data.store import check_written, lock, reason, writing
from ctxseg.errors import UserError
from ctxseg.files import is_remote

MAX_SEGMENTS = 65535  # limit of 16-bit PNGs
SHARD = 100  # images per file: at most this many are computed again after an interruption
MAX_FILES = 250  # files per split; larger splits have more images per file. Readers keep all files open, and systems allow 1,024


def slic(image: np.ndarray, segments: int) -> np.ndarray:
    """Simple linear iterative clustering (Achanta et al., PAMI 2012): connected regions of similar colour.

    Args:
        image: uint8 [H, W, 3], RGB.
        segments: maximum number of regions. If scikit-image returns more than requested, fewer are requested.

    Returns:
        uint16 [H, W], ids 0 … n−1 with n ≤ `segments`; every id occurs.
    """
    requested = segments
    while True:
        regions = segmentation.slic(image, n_segments=requested, compactness=10, start_label=0)
        ids, regions = np.unique(regions, return_inverse=True)
        if len(ids) <= segments or requested == 1:
            break
        requested = max(min(requested * segments // len(ids), requested - 1), 1)
    # If there are still too many when 1 is requested, the last ones become one region, which may not be connected.
    return np.minimum(regions.reshape(image.shape[:2]), segments - 1).astype(np.uint16)


class View(NamedTuple):
    """How the super-pixels of an image are computed.

    Attributes:
        segments: maximum number of regions.
        scale: SLIC runs on the image resized to its base size times this.
        base: see `sizes.base_size_of`.
    """

    segments: int
    scale: float = 1.0
    base: tuple[int, ...] = ()


def views(segments: int, kind: str, scales: Sequence[float], base: Sequence[int] = ()) -> tuple[View, ...]:
    """The super-pixels used in testing at several scales.

    Args:
        segments: maximum number of regions per image; 0: none.
        kind: `image`: computed on the image itself and resized with it. `scale`: computed on the image at each scale, with the same
            number of segments. `scale_by_area`: computed at each scale s with s² times the number, so that regions have the same area as
            at scale 1, but never more than `segments`, for which the network is built.
        scales: factors of the base size.
        base: see `sizes.base_size_of`.

    Returns:
        One view for all scales, or one per scale.
    """
    if not segments:
        return ()
    if kind == "image" or tuple(scales) == (1.0,):
        return (View(segments),)
    factor = {"scale": lambda s: 1, "scale_by_area": lambda s: min(s * s, 1)}[kind]
    return tuple(View(max(round(segments * factor(s)), 1), float(s), tuple(base)) for s in scales)


def compute(image: np.ndarray, view: Sequence) -> np.ndarray:
    """`slic` of an image at a `View`'s size, resized back by nearest neighbour: uint8 [H, W, 3] → uint16 [H, W].

    If the view is smaller, resizing to it again by nearest neighbour restores it: at that scale, a network gets exactly SLIC's regions.
    """
    segments, scale, base = view
    image_size = image.shape[:2]
    size = tuple(max(round(n * scale), 1) for n in base_size_of(image_size, base))
    if size == image_size:
        return slic(image, segments)
    resized = transform.resize(image, size, order=1, anti_aliasing=False, preserve_range=True)
    regions = slic(resized.round().astype(np.uint8), segments)
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(image_size, size, strict=True))
    return regions[rows][:, columns]


def stack(regions: Sequence[np.ndarray]) -> np.ndarray:
    """The regions of an image's views as a network's input: int32 [H, W] for one view, [H, W, S] for several."""
    arrays = [np.asarray(r, np.int32) for r in regions]
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)


def check(segments: int) -> None:
    """UserError if `segments` is out of range for `config.data.superpixels`."""
    bounds.check("data.superpixels", segments, Annotated[int, bounds.Bound(minimum=0, maximum=MAX_SEGMENTS)])


def source(builder, split: str, images, view: View) -> grain.sources.ArrayRecordDataSource:
    """Encoded super-pixels of a split by index, computed first if necessary: 16-bit PNGs of `compute`, in the order of `images`.

    They are stored in the folder of the prepared data set, in files of `SHARD` images (or more, so that there are at most `MAX_FILES`
    files). A file is complete or missing: an interrupted computation continues with the first missing file. If several processes need
    them, one computes them with all cores and the others wait.

    Args:
        builder: a prepared builder.
        split: one of its splits.
        images: the split's images by index, uint8 [H, W, 3].
        view: with 1 to `MAX_SEGMENTS` segments.

    Raises:
        UserError: segments out of range, a folder that cannot be written or is full, or a damaged file in it.
    """
    check(view.segments)
    resized = "" if view.scale == 1 and not view.base else f"-at-{view.scale:g}"
    resized += f"-of-{'x'.join(map(str, view.base))}" if view.base else ""
    version = skimage.__version__  # type: ignore[attr-defined]  # missing in its stub
    folder = epath.Path(builder.data_dir) / f"superpixels-{view.segments}{resized}-slic-{version}"
    shards = _shards(folder, split, len(images))
    try:
        if not all(path.exists() for path in shards):
            if is_remote(folder):
                raise UserError(
                    f"{folder} lacks super-pixels of {split}, and ArrayRecord writes local files only: compute them in a "
                    "config.data.data_dir on this machine (--mode=prepare), and copy them there"
                )
            folder.mkdir(exist_ok=True)
            with lock(folder):
                shards = _shards(folder, split, len(images))  # another process may have written them in the meantime
                missing = {path: indices for path, indices in shards.items() if not path.exists()}
                if missing:
                    _write(missing, images, view, f"super-pixels{resized} {builder.name} {split}")
    except OSError as error:
        raise UserError(f"cannot write super-pixels in config.data.data_dir: {reason(error)}") from error
    try:
        records = grain.sources.ArrayRecordDataSource([str(path) for path in shards])
        complete = len(records) == len(images)
    except Exception:  # ArrayRecord raises many kinds of errors on damaged bytes
        complete = False
    if not complete:
        damaged = next(path for path, indices in shards.items() if not _has_records(path, len(indices)))
        raise UserError(f"{damaged} is damaged: delete it to compute the super-pixels again")
    return records


def _shards(folder, split, count):
    """{path: indices of images} for the files of a split, in order: existing files, whatever their size, and new ones between them."""
    existing: dict[int, int] = {}  # {first image: end}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = re.fullmatch(rf"{re.escape(split)}-(\d{{6,}})-(\d{{6,}})\.array_record", path.name)
        if match and int(match[1]) < int(match[2]) <= count:
            start, stop = map(int, match.groups())
            existing[start] = max(stop, existing.get(start, 0))
    shards, start, size = {}, 0, max(SHARD, -(-count // MAX_FILES))
    while start < count:
        stop = existing.get(start) or min([start + size, count, *(other for other in existing if other > start)])
        shards[folder / f"{split}-{start:06d}-{stop:06d}.array_record"] = range(start, stop)
        start = stop
    return shards


def _write(shards, images, view, label):
    """Computes and writes `shards`, {path: indices of images}."""

    def encoded(index):
        return cv2.imencode(".png", compute(images[index], view), PNG_OF_IDS)[1].tobytes()

    indices = [index for shard in shards.values() for index in shard]
    # Threads, not processes: scikit-image's SLIC releases Python's global lock.
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
            incomplete.unlink(missing_ok=True)  # after an error: a full disk needs the space
    next(records, None)  # ends the progress display


def _has_records(path, records):
    try:
        return len(grain.sources.ArrayRecordDataSource(str(path))) == records
    except Exception:
        return False
