"""CIHP, Crowd Instance-level Human Parsing (Gong et al., ECCV 2018).

`manual_dir` is instance-level_human_parsing.zip, unpacked.
"""

from pathlib import Path

from ctxseg.data.builders import lip
from ctxseg.data.builders.labels import label_image
from ctxseg.data.builders.pairs import Pair, by_name, read_names, require
from ctxseg.data.builders.records import PairsBuilder

# LIP's classes, with torso-skin in place of the rare jumpsuits, in LIP's colours.
CLASSES = {{"jumpsuits": "torso-skin"}.get(name, name): colour for name, colour in lip.CLASSES.items()}
SPLITS = {"train": 28_280, "val": 5_000}  # the 5,000 test images have no published labels
FOLDERS = {"train": "Training", "val": "Validation"}

read_label = label_image("cihp", {i: i for i in range(len(CLASSES))})


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs, in the order of its list}. UserError: a folder or list is missing."""
    splits = {}
    for split, folder in FOLDERS.items():
        require(CIHP, manual_dir, f"{folder}/Images", f"{folder}/Category_ids", f"{folder}/{split}_id.txt")
        root = manual_dir / folder
        names = read_names(root / f"{split}_id.txt")
        splits[split] = by_name(root / "Images", root / "Category_ids", names=names)
    return splits


class CIHP(PairsBuilder):
    """Groups of persons with 19 parts and clothes: 28,280 train and 5,000 val images.

    Crowd Instance-level Human Parsing: parts and clothes, all persons of an image together.
    """

    name = "cihp"
    homepage = "https://sysu-hcp.net/lip/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "instance-level_human_parsing: Training/ and Validation/, each with Images/, Category_ids/ and a list, "
        "train_id.txt or val_id.txt"
    )
    published = SPLITS
    class_names = list(CLASSES)
    palette = list(CLASSES.values())
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
