"""Cityscapes, the fine annotations (Cordts et al., CVPR 2016).

`manual_dir` has leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, unpacked side by side; their site requires registration.
"""

from pathlib import Path

from ctxseg.data.builders.labels import IGNORE, label_image
from ctxseg.data.builders.pairs import Pair, by_name, require, unlabelled
from ctxseg.data.builders.records import PairsBuilder

# {name: (id in labelIds files, colour)}, in the order of the train ids, as in cityscapesScripts, helpers/labels.py.
CLASSES = {
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}
SPLITS = {"train": 2_975, "val": 500, "test": 1_525}  # test is optional, and has no labels
SUFFIXES = ("_leftImg8bit.png", "_gtFine_labelIds.png")

read_label = label_image(
    "cityscapes",
    {i: IGNORE for i in range(34)} | {i: train_id for train_id, (i, _) in enumerate(CLASSES.values())},
)


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs by city and name, such as 'aachen_000000_000019'}. UserError: a folder is missing or empty."""
    splits = {}
    for split in SPLITS:
        roots = images, labels = [manual_dir / kind / split for kind in ("leftImg8bit", "gtFine")]
        if split == "test":  # the published labels of test are void
            cities = sorted(city.name for city in images.iterdir() if city.is_dir()) if images.is_dir() else []
            if pairs := [pair for city in cities for pair in unlabelled(images / city, SUFFIXES[0])]:
                splits[split] = pairs
            continue
        require(Cityscapes, manual_dir, *(str(root.relative_to(manual_dir)) for root in roots))
        cities = sorted({city.name for root in roots for city in root.iterdir() if city.is_dir()})
        splits[split] = [pair for city in cities for pair in by_name(images / city, labels / city, SUFFIXES)]
    return splits


class Cityscapes(PairsBuilder):
    """Streets of 50 cities with 19 classes, 2048×1024: 2,975 train, 500 val and 1,525 test images, the last without labels.

    Cityscapes, fine annotations, the 19 classes of its benchmark; its other labels are ignored.
    """

    name = "cityscapes"
    homepage = "https://www.cityscapes-dataset.com/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "leftImg8bit/ and gtFine/, each with train/ and val/ and their folders of cities; optionally leftImg8bit/test/"
    )
    published = SPLITS
    class_names = list(CLASSES)
    palette = [colour for _, colour in CLASSES.values()]
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
