"""COCO-Stuff 10K, version 1.1 (Caesar, Uijlings and Ferrari, 2017).

`manual_dir` is cocostuff-10k-v1.1.zip, unpacked.
"""

from pathlib import Path

import numpy as np

from ctxseg.data.builders import coco_stuff, mat
from ctxseg.data.builders.labels import IGNORE, bit_palette, map_ids
from ctxseg.data.builders.pairs import Pair, by_name, read_names, require
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.data.download import Archive, Download

SPLITS = {"train": 9_000, "val": 1_000}
LISTS = {"train": "train", "val": "test"}

IDS = {0: IGNORE} | {i: class_id for class_id, i in enumerate(coco_stuff.NAMES)}


def read_label(path: Path) -> np.ndarray:
    """uint8 [H, W], with the classes of `coco_stuff`, from `S` in a .mat file. ValueError, also for version 1.0's ids, and UserError."""
    return map_ids("coco_stuff10k, version 1.1,", mat.variable(path, "S"), IDS)


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs, in the order of its list}. UserError: a folder or list is missing."""
    lists = {split: f"imageLists/{name}.txt" for split, name in LISTS.items()}
    require(COCOStuff10K, manual_dir, "images", "annotations", *lists.values())
    return {
        split: by_name(
            manual_dir / "images", manual_dir / "annotations", (".jpg", ".mat"), read_names(manual_dir / path)
        )
        for split, path in lists.items()
    }


class COCOStuff10K(PairsBuilder):
    """The first COCO-Stuff, images of COCO's train2014 with the same 171 classes: 9,000 train and 1,000 val images.

    COCO-Stuff 10K, version 1.1; its test list is the split val. Unlabelled pixels are ignored.
    """

    name = "coco_stuff10k"
    homepage = "https://github.com/nightrome/cocostuff10k"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "cocostuff-10k-v1.1: images/, annotations/ (.mat files), imageLists/train.txt and imageLists/test.txt"
    )
    downloads = Download(
        "coco_stuff10k",
        [Archive("http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/cocostuff-10k-v1.1.zip")],
    )
    published = SPLITS
    class_names = coco_stuff.CLASSES
    palette = bit_palette(len(coco_stuff.CLASSES), 1)
    groups = coco_stuff.GROUPS
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
