"""NYU Depth v2 (Silberman et al. 2012), its labelled images without their depth, in the 40 classes of Gupta et al. (2013).

`manual_dir` has nyu_depth_v2_labeled.mat, splits.mat and classMapping40.mat, which maps the 894 names to the 40 classes.

Images are 640×480 as published, including the white frame.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ctxseg.data import contents
from ctxseg.data.builders import mat
from ctxseg.data.builders.labels import IGNORE, bit_palette, map_ids
from ctxseg.data.builders.pairs import Pair, Part, fingerprint_pairs, require
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.data.download import Archive, Download
from ctxseg.errors import UserError

CLASSES = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf",
    "picture", "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat",
    "clothes", "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard",
    "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "other structure", "other furniture", "other prop",
)  # fmt: skip
SPLITS = {"train": 795, "test": 654}
LABELED, LISTS, MAPPING = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs, in the order of `splits.mat`}. Their names are the images' numbers, from 0001.

    A pair's key is the image's index and the ids of `read_mapping`.

    Raises:
        UserError: a file is missing or damaged, or a split has an image that does not exist.
    """
    require(NYUDv2, manual_dir, LABELED, LISTS, MAPPING)
    path = manual_dir / LABELED
    with mat.hdf5(path) as file:
        counts = [len(mat.item(file, name)) for name in ("images", "labels")]
    ids, splits = read_mapping(manual_dir), {}
    for split in SPLITS:
        numbers = np.ravel(mat.variable(manual_dir / LISTS, f"{split}Ndxs")).astype(int)  # from 1, as in MATLAB
        invalid = numbers[(numbers < 1) | (numbers > min(counts))]
        if invalid.size:
            raise UserError(f"{manual_dir / LISTS}: {split}Ndxs has image {invalid[0]}, but {path} has {min(counts)}")
        parts = {f"{number:04d}": Part(path, (int(number) - 1, ids)) for number in numbers}
        splits[split] = [Pair(name, part, part) for name, part in parts.items()]
    return splits


def read_mapping(manual_dir: Path) -> dict[int, int]:
    """{id of the 894 names, 0 for none: class id, 255 for none}. UserError: the file is damaged or has other classes."""
    path = manual_dir / MAPPING
    classes = np.ravel(mat.variable(path, "mapClass")).astype(int)
    if not classes.size or classes.min() < 1 or classes.max() > len(CLASSES):
        raise UserError(f"{path}: mapClass: expected numbers from 1 to {len(CLASSES)}")
    return {0: IGNORE} | {name: int(number) - 1 for name, number in enumerate(classes, 1)}


def read_label(part: Part) -> np.ndarray:
    """uint8 [H, W]. Raises ValueError and UserError."""
    index, ids = part.key
    with mat.hdf5(part.file) as file:
        return map_ids("nyudv2", mat.item(file, "labels")[index].T, ids)


def read_image(part: Part) -> np.ndarray:
    """uint8 [H, W, 3] RGB. Raises ValueError and UserError."""
    index, _ = part.key
    with mat.hdf5(part.file) as file:
        image = mat.item(file, "images")[index].T
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image is an array {image.shape} of {image.dtype}; expected RGB of 8 bits")
    return np.ascontiguousarray(image)


class NYUDv2(PairsBuilder):
    """Indoor frames of a Kinect: 795 train and 654 test images, 40 classes.

    NYU Depth v2 in 40 classes, without depth; unlabelled pixels are ignored.
    """

    name = "nyudv2"
    homepage = "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"a folder with {LABELED}, {LISTS} and {MAPPING}"
    downloads = Download(
        "nyudv2",
        [
            Archive(
                "http://horatio.cs.nyu.edu/mit/silberman/nyu_depth_v2/nyu_depth_v2_labeled.mat",
                "md5:520609c519fba3ba5ac58c8fefcc3530",  # from several public loaders
            ),
            Archive("http://horatio.cs.nyu.edu/mit/silberman/indoor_seg_sup/splits.mat"),
            Archive("https://github.com/ankurhanda/nyuv2-meta-data/raw/master/classMapping40.mat"),
        ],
    )
    published = SPLITS
    class_names = CLASSES
    palette = bit_palette(len(CLASSES), first=1)  # the data set has no palette of its own
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
    read_image = staticmethod(read_image)

    @classmethod
    def fingerprint(cls, manual_dir: Path, digests: Callable = contents.digests) -> str:
        """As `PairsBuilder.fingerprint`, and of the mapping of classes."""
        return fingerprint_pairs(manual_dir, list_pairs(manual_dir), manual_dir / MAPPING, digests=digests)
