"""PASCAL-Context (Mottaghi et al. 2014): VOC 2010's trainval images, every pixel labelled; the 59 most frequent classes.

`manual_dir` is the folder VOC2010 of VOC 2010's trainval (VOCtrainval_03-May-2010.tar), with the labels in it, as either

    trainval/NAME.mat                     from PASCAL-Context's trainval.tar.gz:
                                          `LabelMap`, ids of 459 classes in alphabetical order
    SegmentationClassContext/NAME.png     the usual conversion: 0 for the background, then the 59 in alphabetical order
"""

from pathlib import Path

from ctxseg.data.builders import mat
from ctxseg.data.builders.labels import IGNORE, bit_palette, label_image, map_ids
from ctxseg.data.builders.pairs import Pair, read_names, require
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.data.download import Archive, Download

# {name: id among the 459} by class id: the background, VOC's 20 in VOC's order, then the others in alphabetical order.
CLASSES = {
    "background": 0,  # also all of the 459 that are not named here
    "aeroplane": 2,
    "bicycle": 23,
    "bird": 25,
    "boat": 31,
    "bottle": 34,
    "bus": 45,
    "car": 59,
    "cat": 65,
    "chair": 72,
    "cow": 98,
    "table": 397,
    "dog": 113,
    "horse": 207,
    "motorbike": 258,
    "person": 284,
    "pottedplant": 308,
    "sheep": 347,
    "sofa": 368,
    "train": 416,
    "tvmonitor": 427,
    "bag": 9,
    "bed": 18,
    "bedclothes": 19,
    "bench": 22,
    "book": 33,
    "building": 44,
    "cabinet": 46,
    "ceiling": 68,
    "cloth": 80,
    "computer": 85,
    "cup": 104,
    "curtain": 105,
    "door": 115,
    "fence": 144,
    "floor": 158,
    "flower": 159,
    "food": 162,
    "grass": 187,
    "ground": 189,
    "keyboard": 220,
    "light": 232,
    "mountain": 259,
    "mouse": 260,
    "plate": 295,
    "platform": 296,
    "road": 324,
    "rock": 326,
    "shelves": 349,
    "sidewalk": 354,
    "sign": 355,
    "sky": 360,
    "snow": 366,
    "track": 415,
    "tree": 420,
    "truck": 424,
    "wall": 440,
    "water": 445,
    "window": 454,
    "wood": 458,
}
MAT_IDS = dict.fromkeys(range(460), 0) | {mat_id: i for i, mat_id in enumerate(CLASSES.values())}
PNG_IDS = {i: MAT_IDS[mat_id] for i, mat_id in enumerate(sorted(CLASSES.values()))} | {255: IGNORE}
SPLITS = {"train": 4_998, "val": 5_105}

_read_image_of_ids = label_image("pascal_context", PNG_IDS)


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs, in the order of VOC 2010's list}; uses the `.mat` files if there are both kinds of labels.

    Raises:
        UserError: a list, or both folders of labels, are missing.
    """
    require(PascalContext, manual_dir, *(f"ImageSets/Main/{split}.txt" for split in SPLITS))
    converted = "SegmentationClassContext"
    if not (manual_dir / converted).is_dir():
        require(PascalContext, manual_dir, "trainval")
    folder, suffix = ("trainval", "mat") if (manual_dir / "trainval").is_dir() else (converted, "png")
    return {
        split: [
            Pair(name, manual_dir / f"JPEGImages/{name}.jpg", manual_dir / folder / f"{name}.{suffix}")
            for name in read_names(manual_dir / f"ImageSets/Main/{split}.txt")
        ]
        for split in SPLITS
    }


def read_label(path: Path):
    """uint8 [H, W] of either kind of label. Raises ValueError and UserError."""
    if path.suffix == ".png":
        return _read_image_of_ids(path)
    return map_ids("pascal_context", mat.variable(path, "LabelMap"), MAT_IDS)


class PascalContext(PairsBuilder):
    """Photographs labelled all over: 4,998 train and 5,105 val images, 59 classes and the background.

    PASCAL-Context, the 59 most frequent classes; all others are background.
    """

    name = "pascal_context"
    homepage = "https://www.cs.stanford.edu/~roozbeh/pascal-context/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the folder VOC2010 of VOC 2010's trainval, with JPEGImages/, ImageSets/Main/ and either trainval/*.mat or "
        "SegmentationClassContext/*.png"
    )
    downloads = Download(
        "pascal_context",
        [
            Archive(
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar",
                "md5:da459979d0c395079b5c75ee67908abb",  # from torchvision
            ),
            Archive("https://www.cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz", into="VOCdevkit/VOC2010"),
        ],
        root="VOCdevkit/VOC2010",
    )
    published = SPLITS
    class_names = list(CLASSES)
    palette = bit_palette(len(CLASSES))
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
