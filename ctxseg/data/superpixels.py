"""Super-pixels: SLIC of every image of a prepared split, computed once and kept beside it.

MSCI's regions (SPEC §4). Its paper takes them from structured edges; SLIC stands in for those here.
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


class View(NamedTuple):
    """How the super-pixels of an image are computed.

    Attributes:
        segments: regions, at most.
        scale: of the image that SLIC is given, a factor of its base size.
        base: see `sizes.base_size_of`.
    """

    segments: int
    scale: float = 1.0
    base: tuple[int, ...] = ()


def views(segments: int, kind: str, scales: Sequence[float], base: Sequence[int] = ()) -> tuple[View, ...]:
    """The super-pixels that testing at several scales takes.

    Args:
        segments: of an image; 0: none.
        kind: `image`: of the image itself, resized with it. `scale`: of the image at each scale, as many. `scale_by_area`: likewise, but
            s² times as many at scale s, so that regions are as large as at scale 1; never more than `segments`, which the network was
            made for.
        scales: factors of the base size.
        base: see `sizes.base_size_of`.

    Returns:
        One for all scales, or one a scale.
    """
    if not segments:
        return ()
    if kind == "image" or tuple(scales) == (1.0,):
        return (View(segments),)
    share = {"scale": lambda s: 1, "scale_by_area": lambda s: min(s * s, 1)}[kind]
    return tuple(View(max(round(segments * share(s)), 1), float(s), tuple(base)) for s in scales)


def compute(image: np.ndarray, view: Sequence) -> np.ndarray:
    """`slic` of an image at a `View`'s size, brought back to its own by nearest neighbour: uint8 [H, W, 3] → uint16 [H, W].

    To a smaller size and back, nearest neighbours lose nothing: at the scale, a network is given what SLIC found there.
    """
    segments, scale, base = view
    own = image.shape[:2]
    size = tuple(max(round(n * scale), 1) for n in base_size_of(own, base))
    if size == own:
        return slic(image, segments)
    resized = transform.resize(image, size, order=1, anti_aliasing=False, preserve_range=True)
    regions = slic(resized.round().astype(np.uint8), segments)
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(own, size, strict=True))
    return regions[rows][:, columns]


def stack(regions: Sequence[np.ndarray]) -> np.ndarray:
    """What networks are given of the regions of an image's views: int32 [H, W] of one, [H, W, S] of several."""
    arrays = [np.asarray(r, np.int32) for r in regions]
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)


def check(segments: int) -> None:
    """UserError if `config.data.superpixels` cannot be `segments`."""
    bounds.check("data.superpixels", segments, Annotated[int, bounds.Bound(least=0, most=LARGEST)])


def source(builder, split: str, images, view: View) -> grain.sources.ArrayRecordDataSource:
    """Encoded super-pixels of a split by index, computed first if need be: 16-bit PNGs of `compute`, in the order of `images`.

    They are kept in the folder of the prepared data set, in files of `SHARD` images, or of more where these were too many, each
    complete or not at all: what was interrupted continues at the first that is missing. Of several processes, one computes them,
    by all cores.

    Args:
        builder: prepared.
        split: of it.
        images: the split's images by index, uint8 [H, W, 3].
        view: of 1 to `LARGEST` segments.

    Raises:
        UserError: such a number cannot be, the folder cannot be written or is full, or a file in it is damaged.
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
                    "config.data.data_dir of this machine (--mode=prepare), and copy them there"
                )
            folder.mkdir(exist_ok=True)
            with lock(folder):
                shards = _shards(folder, split, len(images))  # another process may have written them meanwhile
                missing = {path: indices for path, indices in shards.items() if not path.exists()}
                if missing:
                    _write(missing, images, view, f"super-pixels{resized} {builder.name} {split}")
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
    for path in folder.iterdir() if folder.is_dir() else ():
        found = re.fullmatch(rf"{re.escape(split)}-(\d{{6,}})-(\d{{6,}})\.array_record", path.name)
        if found and int(found[1]) < int(found[2]) <= count:
            start, stop = map(int, found.groups())
            there[start] = max(stop, there.get(start, 0))
    shards, start, size = {}, 0, max(SHARD, -(-count // FILES))
    while start < count:
        stop = there.get(start) or min([start + size, count, *(other for other in there if other > start)])
        shards[folder / f"{split}-{start:06d}-{stop:06d}.array_record"] = range(start, stop)
        start = stop
    return shards


def _write(shards, images, view, label):
    """Computes `shards`, {path: indices of images}."""

    def encoded(index):
        return cv2.imencode(".png", compute(images[index], view), PNG_OF_IDS)[1].tobytes()

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
