"""COCO 2014 with PASCAL VOC's classes, to train on before VOC 2012, as in H-ReNet (Yan et al., 2016, §4.2).

Only images of train2014 and val2014 with more than 900 pixels of VOC's 20 classes are used: 96,685. The paper trains on all of them; here
1,500 of val2014, drawn by a seed, are kept for validation. COCO's other classes are background and do not hide VOC's, since in VOC small
objects on a dining table belong to the table.
"""

from pathlib import Path

from ctxseg.data.builders import coco, voc2012
from ctxseg.data.builders.labels import bit_palette
from ctxseg.data.builders.pairs import Pair, Part, raise_faults
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.progress import progress

SEED = 0  # another seed, or another number of images, needs another VERSION
PIXELS = 900  # of VOC's classes; images with more are used
SPLITS = {"train": 96_685 - 1_500, "val": 1_500}
# COCO's ids of VOC's classes, in VOC's order.
CATEGORIES = (5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
IDS = {category: class_id for class_id, category in enumerate(CATEGORIES, 1)}


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs by image id}. UserError: as `coco.read` and `select`."""
    return select({split: coco.read(COCOVOC, manual_dir, split) for split in coco.SPLITS})


def read_label(part: Part):
    """uint8 [H, W]: VOC's class ids, 0 is background. ValueError: an object is invalid."""
    return coco.paint(part.key, IDS)


def select(candidates: dict[str, list[Pair]]) -> dict[str, list[Pair]]:
    """{split: pairs} by the rules at the top of this file. UserError: which images have invalid objects, and why."""
    selected: dict[str, list[Pair]] = {split: [] for split in candidates}
    faults = []
    entries = [(split, pair) for split, pairs in candidates.items() for pair in pairs]
    for split, pair in progress(entries, len(entries), "select coco_voc"):
        try:
            if coco.area(pair.label.key, IDS) > PIXELS:
                selected[split].append(pair)
        except ValueError as error:
            faults.append(f"{pair.label.file}: {pair.name}: {error}")
    raise_faults("coco_voc", faults, len(entries))
    val = coco.draw(selected["val"], SPLITS["val"], SEED)
    val_names = {pair.name for pair in val}
    return {"train": [pair for pair in selected["train"] + selected["val"] if pair.name not in val_names], "val": val}


class COCOVOC(PairsBuilder):
    """COCO 2014 with VOC's 20 classes and background: 95,185 train and 1,500 val images.

    COCO 2014 with VOC's classes; images with more than 900 pixels of them.
    """

    name = "coco_voc"
    homepage = "https://cocodataset.org/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = coco.INSTRUCTIONS
    downloads = coco.DOWNLOADS
    published = SPLITS
    class_names = voc2012.CLASSES
    palette = bit_palette(len(voc2012.CLASSES))
    fingerprint = classmethod(coco.fingerprint)
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
