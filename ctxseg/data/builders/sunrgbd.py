"""SUN RGB-D (Song, Lichtenberg, Xiao 2015), without its depth, in 37 classes: NYUDv2's without its last three, which collect the rest.

`manual_dir` has SUNRGBD.zip and SUNRGBDtoolbox.zip, unpacked side by side.
The 10,335 labels are in the toolbox's SUNRGBD2Dseg.mat, a MATLAB 7.3 file, in the order of SUNRGBDMeta.mat, which is slow to read:
once the data set is prepared, leave out `config.data.manual_dir`.
"""

import functools
from pathlib import Path, PurePosixPath

import numpy as np

from ctxseg.data.builders import mat, nyudv2
from ctxseg.data.builders.labels import IGNORE, bit_palette, map_ids
from ctxseg.data.builders.pairs import Pair, Part, require
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.data.download import Archive, Download
from ctxseg.errors import UserError

CLASSES = nyudv2.CLASSES[:37]
IDS = {0: IGNORE} | {i + 1: i for i in range(37)}
SPLITS = {"train": 5_285, "test": 5_050}
SENSORS = ("kv1", "kv2", "realsense", "xtion")  # the names of their folders
META, LABELS = "SUNRGBDtoolbox/Metadata/SUNRGBDMeta.mat", "SUNRGBDtoolbox/Metadata/SUNRGBD2Dseg.mat"
LISTS = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs, in the order of SUNRGBDMeta.mat}. Their names are the frames' folders, their keys the indices of the labels.

    Raises:
        UserError: a file is missing or damaged, or lists a frame that SUNRGBDMeta.mat does not have.
    """
    require(SUNRGBD, manual_dir, "SUNRGBD", LISTS, META, LABELS)
    images = _images(manual_dir / META, (manual_dir / META).stat().st_mtime_ns)
    with mat.hdf5(manual_dir / LABELS) as file:
        count = mat.item(file, "SUNRGBD2Dseg/seglabel").size
    if count != len(images):
        raise UserError(f"{manual_dir / LABELS} has {count} labels, but SUNRGBDMeta.mat has {len(images)} images")
    splits = {}
    for split in SPLITS:
        frames = {
            _frame(manual_dir / LISTS, path) for path in np.ravel(mat.variable(manual_dir / LISTS, f"all{split}"))
        }
        unknown = sorted(map(str, frames - {image.parent.parent for image in images}))
        if unknown:
            raise UserError(f"{manual_dir / LISTS}: all{split} has {unknown[0]}, which SUNRGBDMeta.mat does not have")
        splits[split] = [
            Pair(
                "_".join(image.parent.parent.parts),
                manual_dir / "SUNRGBD" / image,
                Part(manual_dir / LABELS, index),
            )
            for index, image in enumerate(images)
            if image.parent.parent in frames
        ]
    return splits


@functools.lru_cache(maxsize=1)
def _images(path, _modified):
    """The images of SUNRGBDMeta.mat, such as kv1/NYUdata/NYU0001/image/NYU0001.jpg. Cached for an unchanged file, as it is slow."""
    frames = np.ravel(mat.variable(path, "SUNRGBDMeta"))
    return [_frame(path, mat.field(path, frame, "rgbpath")) for frame in frames]


def _frame(path, authors_path):
    """The part of a path on the authors' machine that starts with the sensor."""
    parts = PurePosixPath(str(authors_path)).parts
    for i, part in enumerate(parts):
        if part in SENSORS:
            return PurePosixPath(*parts[i:])
    raise UserError(f"{path} has a path without a folder {', '.join(SENSORS)}: {authors_path}")


def read_label(part: Part) -> np.ndarray:
    """uint8 [H, W]. Raises ValueError and UserError."""
    with mat.hdf5(part.file) as file:
        references = mat.item(file, "SUNRGBD2Dseg/seglabel")
        return map_ids("sunrgbd", file[references[np.unravel_index(part.key, references.shape)]][()].T, IDS)


class SUNRGBD(PairsBuilder):
    """Indoor frames of four depth cameras: 5,285 train and 5,050 test images, 37 classes.

    SUN RGB-D in 37 classes, without depth; unlabelled pixels are ignored.
    """

    name = "sunrgbd"
    homepage = "https://rgbd.cs.princeton.edu/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the folder in which SUNRGBD.zip and SUNRGBDtoolbox.zip are unpacked to SUNRGBD/ and SUNRGBDtoolbox/"
    )
    downloads = Download(
        "sunrgbd",
        [
            Archive("http://rgbd.cs.princeton.edu/data/SUNRGBD.zip"),
            Archive(
                "http://rgbd.cs.princeton.edu/data/SUNRGBDtoolbox.zip",
                "md5:18d22e1761d36352f37232cba102f91f",  # from MMDetection3D
            ),
        ],
    )
    published = SPLITS
    class_names = CLASSES
    palette = bit_palette(len(CLASSES), first=1)  # the data set has no palette of its own
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
