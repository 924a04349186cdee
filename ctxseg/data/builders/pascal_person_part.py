"""PASCAL-Person-Part: the person parts of PASCAL-Part (Chen et al. 2014), merged to six as in Attention to Scale (CVPR 2016, §4.1).

`manual_dir` is the folder VOC2010 of VOC 2010's trainval (VOCtrainval_03-May-2010.tar), with

    Annotations_Part/NAME.mat     the masks of all objects' parts, from PASCAL-Part's trainval.tar.gz
    pascal_person_part/pascal_person_part_trainval_list/{train,val}.txt
                                  the lists of images, from Attention to Scale's pascal_person_part.zip
"""

from pathlib import Path, PurePosixPath

import numpy as np

from ctxseg.data.builders import mat
from ctxseg.data.builders.labels import bit_palette
from ctxseg.data.builders.pairs import Pair, read_names, require
from ctxseg.data.builders.records import PairsBuilder

# {class: names of its parts; l… is left, r… is right}
CLASSES = {
    "background": "",
    "head": "head hair nose mouth leye reye lear rear lebrow rebrow",
    "torso": "torso neck",
    "upper arms": "luarm ruarm",
    "lower arms": "llarm rlarm lhand rhand",
    "upper legs": "luleg ruleg",
    "lower legs": "llleg rlleg lfoot rfoot",
}
PARTS = {part: i for i, parts in enumerate(CLASSES.values()) for part in parts.split()}
SPLITS = {"train": 1_716, "val": 1_817}
LISTS = "pascal_person_part/pascal_person_part_trainval_list"


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs, in the order of its list}. The lists' lines start with an image, such as `/JPEGImages/2008_000003.jpg`.

    Raises:
        UserError: a list or the folder of labels is missing.
    """
    require(PascalPersonPart, manual_dir, *(f"{LISTS}/{split}.txt" for split in SPLITS), "Annotations_Part")
    splits = {}
    for split in SPLITS:
        names = (PurePosixPath(path).stem for path in read_names(manual_dir / LISTS / f"{split}.txt"))
        splits[split] = [
            Pair(name, manual_dir / f"JPEGImages/{name}.jpg", manual_dir / f"Annotations_Part/{name}.mat")
            for name in names
        ]
    return splits


def read_label(path: Path):
    """uint8 [H, W]: the parts of every person, drawn in the file's order.

    Pixels of a person outside of its parts are background, as are persons too small to have parts.

    Raises:
        ValueError: no objects, an unknown part of a person, or masks of several sizes.
        UserError: the file is damaged or has another structure.
    """
    label = None
    for thing in np.ravel(mat.field(path, mat.variable(path, "anno"), "objects")):
        mask = mat.field(path, thing, "mask")
        if label is None:
            label = np.zeros(mask.shape, np.uint8)
        if mat.field(path, thing, "class") != "person":
            continue
        for part in np.ravel(mat.field(path, thing, "parts")):
            name, mask = mat.field(path, part, "part_name"), mat.field(path, part, "mask")
            if name not in PARTS:
                raise ValueError(f"a person has the part {name!r}; expected one of {', '.join(PARTS)}")
            if mask.shape != label.shape:
                raise ValueError(f"there are masks of {label.shape} and of {mask.shape} pixels")
            label[mask > 0] = PARTS[name]
    if label is None:
        raise ValueError("there are no objects")
    return label


class PascalPersonPart(PairsBuilder):
    """Photographs of people, labelled with six parts of the body: 1,716 train and 1,817 val images.

    PASCAL-Part's persons, their parts merged to six; everything else is background.
    """

    name = "pascal_person_part"
    homepage = "http://roozbehm.info/pascal-parts/pascal-parts.html"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the folder VOC2010 of VOC 2010's trainval, with JPEGImages/, PASCAL-Part's Annotations_Part/*.mat and "
        f"{LISTS}/"
    )
    published = SPLITS
    class_names = list(CLASSES)
    palette = bit_palette(len(CLASSES))
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
