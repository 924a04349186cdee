"""PASCAL VOC 2012 segmentation (Everingham et al. 2010), its training images extended by SBD's (Hariharan et al. 2011).

`manual_dir` has VOCtrainval_11-May-2012.tar and SBD's benchmark.tgz, unpacked side by side; for the test images, whose labels are not
published, also VOC2012test.tar, unpacked to the same VOCdevkit/.
"""

from pathlib import Path

from ctxseg.data.builders import mat
from ctxseg.data.builders.labels import IGNORE, bit_palette, label_image, map_ids
from ctxseg.data.builders.pairs import Pair, read_names, require, unlabelled
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.data.download import Archive, Download

CLASSES = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
IDS = {i: i for i in range(21)} | {255: IGNORE}  # 255: a band of 5 pixels around objects, and difficult pixels
# As published. train_aug only with SBD; test only with its archive, without labels.
SPLITS = {"train": 1_464, "val": 1_449, "train_aug": 10_582, "test": 1_456}
VOC, SBD = Path("VOCdevkit/VOC2012"), Path("benchmark_RELEASE/dataset")

_read_image_of_ids = label_image("voc2012", IDS)


def list_pairs(manual_dir: Path) -> dict[str, list[Pair]]:
    """{split: pairs, in the order of its list}.

    train_aug has VOC's train, then by name all other images of SBD's train and val that are not in VOC's val.

    Raises:
        UserError: VOC's lists are missing, or SBD's folder exists without its lists.
    """
    lists = VOC / "ImageSets/Segmentation"
    require(VOC2012, manual_dir, str(lists / "train.txt"), str(lists / "val.txt"))
    names = {split: read_names(manual_dir / lists / f"{split}.txt") for split in ("train", "val")}
    splits = {
        split: [_pair(manual_dir, name, VOC / f"SegmentationClass/{name}.png") for name in names[split]]
        for split in names
    }
    if (manual_dir / SBD).is_dir():
        require(VOC2012, manual_dir, str(SBD / "train.txt"), str(SBD / "val.txt"))
        sbd_names = {name for split in ("train", "val") for name in read_names(manual_dir / SBD / f"{split}.txt")}
        additional = sorted(sbd_names - set(names["train"]) - set(names["val"]))
        splits["train_aug"] = splits["train"] + [
            _pair(manual_dir, name, SBD / f"cls/{name}.mat") for name in additional
        ]
    if (manual_dir / lists / "test.txt").exists():
        splits["test"] = unlabelled(manual_dir / VOC / "JPEGImages", names=read_names(manual_dir / lists / "test.txt"))
    return splits


def read_label(path: Path):
    """uint8 [H, W] from VOC's PNG, or from SBD's `.mat`, which has the same class ids. Raises ValueError and UserError."""
    if path.suffix == ".png":
        return _read_image_of_ids(path)
    return map_ids("voc2012", mat.field(path, mat.variable(path, "GTcls"), "Segmentation"), IDS)


def _pair(manual_dir, name, label):
    return Pair(name, manual_dir / VOC / f"JPEGImages/{name}.jpg", manual_dir / label)


class VOC2012(PairsBuilder):
    """Photographs of 20 kinds of things: 1,464 train, 1,449 val and, with SBD, 10,582 train_aug images; 1,456 test images without labels.

    PASCAL VOC 2012 segmentation, with SBD's labels in train_aug; the border of objects is ignored.
    """

    name = "voc2012"
    homepage = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "the folder in which VOCtrainval_11-May-2012.tar is unpacked to VOCdevkit/VOC2012/, and for train_aug SBD's "
        "benchmark.tgz to benchmark_RELEASE/dataset/; for test VOC2012test.tar to VOCdevkit/ too"
    )
    downloads = Download(
        "voc2012",
        [
            # Checksums from torchvision.
            Archive(
                "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "md5:6cd6e144f989b92b3379bac3b3de84fd",
            ),
            Archive(
                "http://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                "md5:82b4d87ceb2ed10f6038a1cba92111cb",
            ),
        ],
    )
    published = SPLITS
    class_names = CLASSES
    palette = bit_palette(21)
    list_pairs = staticmethod(list_pairs)
    read_label = staticmethod(read_label)
