"""Super-pixels: SLIC of every image of a prepared split, computed once and kept beside it.

MSCI's regions (SPEC §4). Its paper takes them from structured edges; SLIC stands in for those here.
"""

import os
from pathlib import Path

import cv2
import grain
import numpy as np
import skimage
from array_record.python.array_record_module import ArrayRecordWriter
from skimage import segmentation

from ctxseg.data.builders import common
from ctxseg.errors import UserError

LARGEST = 65535  # regions, as 16-bit PNGs hold


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

    They are kept in the folder of the prepared data set, complete or not at all; of several processes, one computes them.

    Args:
        builder: prepared.
        split: of it.
        images: the split's images by index, uint8 [H, W, 3].
        segments: 1 to `LARGEST`, see `slic`.

    Raises:
        UserError: such a number cannot be, the folder cannot be written, or the file in it is damaged.
    """
    check(segments)
    folder = Path(builder.data_dir) / f"superpixels-{segments}-slic-{skimage.__version__}"
    path = folder / f"{split}.array_record"
    try:
        if not path.exists():
            folder.mkdir(exist_ok=True)
            with common.lock(folder):
                if not path.exists():  # which another process may have written meanwhile
                    _write(path, images, segments, f"super-pixels {builder.name} {split}")
    except OSError as error:
        raise UserError(f"cannot write super-pixels in config.data.data_dir: {error}") from error
    try:
        records = grain.sources.ArrayRecordDataSource(str(path))
        whole = len(records) == len(images)
    except Exception:  # ArrayRecord raises all sorts on damaged bytes
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged: delete it to compute the super-pixels again")
    return records


def _write(path, images, segments, label):
    def encoded(index):
        return cv2.imencode(".png", slic(images[index], segments))[1].tobytes()

    incomplete = path.with_suffix(".incomplete")
    records = common.threaded(grain.MapDataset.range(len(images)).map(encoded))
    writer = ArrayRecordWriter(str(incomplete), "group_size:1")
    for record in common.progress(records, len(images), label):
        writer.write(record)
    writer.close()
    os.replace(incomplete, path)
