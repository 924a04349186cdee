"""CamVid (Brostow, Fauqueur, Cipolla 2008), in the layout and with the 11 classes of the SegNet tutorial."""

from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds

from ctxseg.data.builders import common
from ctxseg.errors import UserError

CLASSES = {
    "Sky": (128, 128, 128),
    "Building": (128, 0, 0),
    "Pole": (192, 192, 128),
    "Road": (128, 64, 128),
    "Pavement": (60, 40, 222),
    "Tree": (128, 128, 0),
    "SignSymbol": (192, 128, 128),
    "Fence": (64, 64, 128),
    "Car": (64, 0, 128),
    "Pedestrian": (64, 64, 0),
    "Bicyclist": (0, 128, 192),
}
read_label = common.label_image("camvid", {i: i for i in range(11)} | {11: common.IGNORE})
SPLITS = {"train": 367, "val": 101, "test": 233}  # published; test where it is there


class CamVid(tfds.core.GeneratorBasedBuilder):
    """Street scenes from a driving car: 367 train, 101 val and 233 test images, 480×360 as published."""

    name = "camvid"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "SegNet's CamVid folder: train.txt, val.txt, train/, trainannot/, val/, valannot/; test likewise if present"
    )

    @classmethod
    def fingerprint(cls, manual_dir: Path) -> str:
        """A digest of the listed files' names and sizes. UserError: a list or file is missing."""
        return common.fingerprint_pairs(manual_dir, list_pairs(manual_dir))

    def _info(self):
        return common.dataset_info(
            self,
            description="CamVid, the SegNet tutorial's 11 classes; void is ignored.",
            class_names=list(CLASSES),
            palette=list(CLASSES.values()),
            homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
        )

    def _split_generators(self, dl_manager):
        splits = list_pairs(Path(dl_manager.manual_dir))
        common.check_splits(self.name, splits, SPLITS, read_label)
        return {split: self._generate_examples(split, pairs) for split, pairs in splits.items()}

    def _generate_examples(self, split, pairs):
        yield from common.pair_examples(f"{self.name} {split}", pairs, read_label)


def list_pairs(manual_dir: Path) -> dict[str, list[common.Pair]]:
    """{split: pairs, in the order of its list file}.

    The lists have lines `/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png`: the last two parts of each path
    count, below `manual_dir`.

    Raises:
        UserError: train.txt or val.txt is missing, or a list has a line of another form or none at all.
    """
    splits = {}
    for split in SPLITS:
        path = manual_dir / f"{split}.txt"
        if split != "test":
            common.require(CamVid, manual_dir, path.name)
        if path.is_file():
            splits[split] = _read_list(path, manual_dir)
    return splits


def _read_list(path, manual_dir):
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        fields = [PurePosixPath(field) for field in line.split()]
        if len(fields) != 2 or any(len(field.parts) < 2 for field in fields):
            raise UserError(f"{path} line {number}: wants 'folder/image.png folder/label.png', has {line.strip()!r}")
        image, label = (manual_dir.joinpath(*field.parts[-2:]) for field in fields)
        pairs.append(common.Pair(image.stem, image, label))
    if not pairs:
        raise UserError(f"{path} lists no images")
    return pairs
