"""COCO 2014 with PASCAL VOC's classes, to train on before VOC 2012, as in H-ReNet (Yan et al., 2016, §4.2).

Of the images of train2014 and val2014 together, those count in which more than 900 pixels carry one of VOC's 20 classes: 96,685. The
paper trains on all of them; here 1,500 of val2014, drawn by a seed, are kept for validation. COCO's other classes are background and
hide nothing, as small things on a dining table belong to it in VOC.
"""

from pathlib import Path

from ctxseg.data.builders import coco, voc2012
from ctxseg.data.builders.labels import bit_palette
from ctxseg.data.builders.pairs import Pair, Part, raise_faults
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.progress import progress

SEED = 0  # another one, or other numbers of images, are another VERSION
PIXELS = 900
SPLITS = {"train": 96_685 - 1_500, "val": 1_500}
# COCO's ids of VOC's classes, in VOC's order.
CATEGORIES = (5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
IDS = {category: class_id for class_id, category in enumerate(CATEGORIES, 1)}


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs by image id}. UserError: as `coco.read` and `select`."""
    return select({split: coco.read(COCOVOC, manual_dir, split) for split in coco.SPLITS})


def read_label(part: Part):
    """uint8 [H, W]: VOC's class ids, 0 is background. ValueError: what is wrong with an object."""
    return coco.paint(part.key, IDS)


def select(everything: dict[str, list[Pair]]) -> dict[str, list[Pair]]:
    """{split: pairs} by the rule at the top. UserError: what is wrong with which images' objects."""
    selected: dict[str, list[Pair]] = {split: [] for split in everything}
    faults = []
    every = [(split, pair) for split, pairs in everything.items() for pair in pairs]
    for split, pair in progress(every, len(every), "select coco_voc"):
        try:
            if coco.area(pair.label.key, IDS) > PIXELS:
                selected[split].append(pair)
        except ValueError as error:
            faults.append(f"{pair.label.file}: {pair.name}: {error}")
    raise_faults("coco_voc", faults, len(every))
    val = coco.draw(selected["val"], SPLITS["val"], SEED)
    held = {pair.name for pair in val}
    return {"train": [pair for pair in selected["train"] + selected["val"] if pair.name not in held], "val": val}


class COCOVOC(PairsBuilder):
    """COCO 2014 with VOC's 20 classes and background: 95,185 train and 1,500 val images.

    COCO 2014 with VOC's classes; images with more than 900 pixels of them.
    """

    name = "coco_voc"
    homepage = "https://cocodataset.org/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = coco.WANTS
    downloads = coco.DOWNLOADS
    published = SPLITS
    class_names = voc2012.CLASSES
    palette = bit_palette(len(voc2012.CLASSES))
    fingerprint = classmethod(coco.fingerprint)
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
