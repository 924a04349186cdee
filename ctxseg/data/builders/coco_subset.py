"""The subset of COCO 2014 of Attention to Scale (Chen et al., CVPR 2016, §4.3): 81 classes, 10,000 and 1,500 images drawn at random.

The paper's choice of images is not known: here they are drawn by a seed from all images of each split.
"""

from pathlib import Path

from ctxseg.data.builders import coco
from ctxseg.data.builders.labels import bit_palette
from ctxseg.data.builders.pairs import Pair, Part
from ctxseg.data.builders.records import PairsBuilder

SEED = 0  # another seed, or another number of images, needs another VERSION
SPLITS = {"train": 10_000, "val": 1_500}
CLASSES = ["background", *coco.CATEGORIES.values()]
IDS = {category: class_id for class_id, category in enumerate(coco.CATEGORIES, 1)}


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs by image id}. UserError: as `coco.read`."""
    # One split after the other, so that the pairs that are not drawn are freed before the next is read.
    return {split: coco.draw(coco.read(COCOSubset, manual_dir, split), count, SEED) for split, count in SPLITS.items()}


def read_label(part: Part):
    """uint8 [H, W]: 0 is background, then COCO's 80 classes in its order. ValueError: an object is invalid."""
    return coco.paint(part.key, IDS)


class COCOSubset(PairsBuilder):
    """Everyday scenes with 80 classes of things and background: 10,000 train and 1,500 val images of COCO 2014.

    A subset of COCO 2014 drawn by a seed; overlaps belong to the smaller object.
    """

    name = "coco_subset"
    homepage = "https://cocodataset.org/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = coco.INSTRUCTIONS
    downloads = coco.DOWNLOADS
    published = SPLITS
    class_names = CLASSES
    palette = bit_palette(len(CLASSES))
    fingerprint = classmethod(coco.fingerprint)
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
