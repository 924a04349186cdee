"""COCO-Stuff (Caesar, Uijlings and Ferrari, CVPR 2018), all of COCO 2017.

`manual_dir` has COCO's train2017.zip and val2017.zip, unpacked in images/, and COCO-Stuff's stuffthingmaps_trainval2017.zip,
unpacked in annotations/.
"""

from pathlib import Path

from ctxseg.data.builders import coco
from ctxseg.data.builders.labels import IGNORE, bit_palette, label_image
from ctxseg.data.builders.pairs import Pair, by_name, require
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.data.download import Archive, Download

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
NAMES = coco.CATEGORIES | dict(enumerate(STUFF, 92))  # by the ids in COCO-Stuff's labels.txt; 171 of 1..182 are used
CLASSES = list(NAMES.values())
GROUPS = {"things": list(coco.CATEGORIES.values()), "stuff": STUFF}
SPLITS = {"train": 118_287, "val": 5_000}  # the test images have no published labels

# The label files have the ids minus one.
read_label = label_image("coco_stuff", {i - 1: class_id for class_id, i in enumerate(NAMES)} | {255: IGNORE})


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs by name}. UserError: a folder is missing or empty."""
    splits = {}
    for split in SPLITS:
        folders = [f"{kind}/{split}2017" for kind in ("images", "annotations")]
        require(COCOStuff, manual_dir, *folders)
        images, labels = (manual_dir / folder for folder in folders)
        # The names are numbers. PNGs with other names are from other tools.
        names = {path.stem for folder in (images, labels) for path in folder.iterdir() if path.stem.isdigit()}
        splits[split] = by_name(images, labels, names=sorted(names))
    return splits


class COCOStuff(PairsBuilder):
    """Everyday scenes with 80 classes of things and 91 of stuff: 118,287 train and 5,000 val images of COCO 2017.

    COCO-Stuff, things and stuff of COCO 2017; unlabelled pixels are ignored.
    """

    name = "coco_stuff"
    homepage = "https://github.com/nightrome/cocostuff"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "COCO-Stuff's dataset folder: images/ and annotations/, each with train2017/ and val2017/"
    )
    downloads = Download(
        "coco_stuff",
        [
            # Checksums from TFDS (`url_checksums/coco.txt`).
            Archive(
                "http://images.cocodataset.org/zips/train2017.zip",
                "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
                into="images",
            ),
            Archive(
                "http://images.cocodataset.org/zips/val2017.zip",
                "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
                into="images",
            ),
            Archive(
                "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
                into="annotations",
            ),
        ],
    )
    published = SPLITS
    class_names = CLASSES
    palette = bit_palette(len(CLASSES), 1)
    groups = GROUPS
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
