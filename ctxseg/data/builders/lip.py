"""LIP, Look into Person (Gong et al., CVPR 2017).

`manual_dir` has TrainVal_images.zip and TrainVal_parsing_annotations.zip, unpacked.
"""

from pathlib import Path

from ctxseg.data.builders.labels import label_image
from ctxseg.data.builders.pairs import Pair, by_name, read_names, require
from ctxseg.data.builders.records import PairsBuilder

# The colours are those of the authors' code.
CLASSES = {
    "background": (0, 0, 0),
    "hat": (128, 0, 0),
    "hair": (255, 0, 0),
    "glove": (0, 85, 0),
    "sunglasses": (170, 0, 51),
    "upper-clothes": (255, 85, 0),
    "dress": (0, 0, 85),
    "coat": (0, 119, 221),
    "socks": (85, 85, 0),
    "pants": (0, 85, 85),
    "jumpsuits": (85, 51, 0),
    "scarf": (52, 86, 128),
    "skirt": (0, 128, 0),
    "face": (0, 0, 255),
    "left-arm": (51, 170, 221),
    "right-arm": (0, 255, 255),
    "left-leg": (85, 255, 170),
    "right-leg": (170, 255, 85),
    "left-shoe": (255, 255, 0),
    "right-shoe": (255, 170, 0),
}
SPLITS = {"train": 30_462, "val": 10_000}  # the 10,000 test images have no published labels

read_label = label_image("lip", {i: i for i in range(len(CLASSES))})


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs, in the order of its list}. UserError: a folder or list is missing."""
    splits = {}
    for split in SPLITS:
        images, labels = (_folder(manual_dir, f"{split}_{kind}") for kind in ("images", "segmentations"))
        require(LIP, images.parent, f"{split}_id.txt")
        splits[split] = by_name(images, labels, names=read_names(images.parent / f"{split}_id.txt"))
    return splits


def _folder(manual_dir, name):
    """The path of a folder; the archives put it into one to three folders of their own."""
    candidates = [path for depth in range(4) for path in sorted(manual_dir.glob("*/" * depth + name))]
    if not candidates:
        require(LIP, manual_dir, name)
    return candidates[0]


class LIP(PairsBuilder):
    """Persons cut out of COCO's images with 19 parts and clothes: 30,462 train and 10,000 val images.

    Look into Person: parts and clothes of single persons.
    """

    name = "lip"
    homepage = "https://sysu-hcp.net/lip/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "train_images/, val_images/, train_segmentations/ and val_segmentations/, "
        "with train_id.txt and val_id.txt beside the folders of images; they may lie in the archives' own folders"
    )
    published = SPLITS
    class_names = list(CLASSES)
    palette = list(CLASSES.values())
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
