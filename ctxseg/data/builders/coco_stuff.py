"""COCO-Stuff (Caesar, Uijlings and Ferrari, CVPR 2018), all of COCO 2017.

What `manual_dir` is made of; the first two unpacked in its folder images/, the last in annotations/:

    http://images.cocodataset.org/zips/train2017.zip      SHA-1 10ad623668ab00c62c096f0ed636d6aff41faca5
    http://images.cocodataset.org/zips/val2017.zip        SHA-1 4950dc9d00dbe1c933ee0170f5797584351d2a41
    http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip
"""

from pathlib import Path

import tensorflow_datasets as tfds

from ctxseg.data.builders import coco, common, pairs

STUFF = [
    name.strip()
    for name in """
banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth,
clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone,
floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves,
light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform,
playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow,
solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick,
wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other,
wood
""".replace("\n", " ").split(",")
]
NAMES = coco.CATEGORIES | dict(enumerate(STUFF, 92))  # by the ids of its labels.txt: 171 of 1..182 have pixels
CLASSES = list(NAMES.values())
GROUPS = {"things": list(coco.CATEGORIES.values()), "stuff": STUFF}
SPLITS = {"train": 118_287, "val": 5_000}  # the test images have no published labels

# The maps of things and stuff have the ids less one.
read_label = common.label_image(
    "coco_stuff", {i - 1: class_id for class_id, i in enumerate(NAMES)} | {255: common.IGNORE}
)


class COCOStuff(tfds.core.GeneratorBasedBuilder):
    """Everyday scenes with 80 classes of things and 91 of stuff: 118,287 train and 5,000 val images of COCO 2017."""

    name = "coco_stuff"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "COCO-Stuff's dataset folder: images/ and annotations/, each with train2017/ and val2017/"
    )

    @classmethod
    def fingerprint(cls, manual_dir: Path) -> str:
        """A digest of the files' names and sizes. UserError: a folder or file is missing."""
        return common.fingerprint_pairs(manual_dir, list_pairs(manual_dir))

    def _info(self):
        return common.dataset_info(
            self,
            description="COCO-Stuff, things and stuff of COCO 2017; unlabelled pixels are ignored.",
            class_names=CLASSES,
            palette=common.bit_palette(len(CLASSES), 1),
            groups=GROUPS,
            homepage="https://github.com/nightrome/cocostuff",
        )

    def _split_generators(self, dl_manager):
        splits = list_pairs(Path(dl_manager.manual_dir))
        common.check_splits(self.name, splits, SPLITS, read_label)
        return {split: self._generate_examples(split, listed) for split, listed in splits.items()}

    def _generate_examples(self, split, listed):
        yield from common.pair_examples(f"{self.name} {split}", listed, read_label)


def list_pairs(manual_dir: Path) -> dict[str, list[common.Pair]]:
    """{split: pairs by name}. UserError: a folder is missing or empty."""
    splits = {}
    for split in SPLITS:
        places = [f"{kind}/{split}2017" for kind in ("images", "annotations")]
        common.require(COCOStuff, manual_dir, *places)
        images, labels = (manual_dir / place for place in places)
        # Names are numbers: other tools leave their own PNGs beside the labels.
        names = {path.stem for place in (images, labels) for path in place.iterdir() if path.stem.isdigit()}
        splits[split] = pairs.by_name(images, labels, names=sorted(names))
    return splits
