"""COCO-Stuff 10K, version 1.1 (Caesar, Uijlings and Ferrari, 2017).

What `manual_dir` is, unpacked:

    http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/cocostuff-10k-v1.1.zip
"""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from ctxseg.data.builders import coco_stuff, common, mat, pairs

SPLITS = {"train": 9_000, "val": 1_000}
LISTS = {"train": "train", "val": "test"}

IDS = {0: common.IGNORE} | {i: class_id for class_id, i in enumerate(coco_stuff.NAMES)}


def read_label(path: Path) -> np.ndarray:
    """uint8 [H, W], classes as in `coco_stuff`, of a .mat file's `S`. Raises ValueError, as for version 1.0's ids, and UserError."""
    return common.map_ids("coco_stuff10k, version 1.1,", mat.variable(path, "S"), IDS)


class COCOStuff10K(tfds.core.GeneratorBasedBuilder):
    """The first COCO-Stuff, images of COCO's train2014 with the same 171 classes: 9,000 train and 1,000 val images."""

    name = "coco_stuff10k"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "cocostuff-10k-v1.1: images/, annotations/ (.mat files), imageLists/train.txt and imageLists/test.txt"
    )

    @classmethod
    def fingerprint(cls, manual_dir: Path) -> str:
        """A digest of the listed files' names and sizes. UserError: a list or file is missing."""
        return common.fingerprint_pairs(manual_dir, list_pairs(manual_dir))

    def _info(self):
        return common.dataset_info(
            self,
            description="COCO-Stuff 10K, version 1.1; its test list is the split val. Unlabelled pixels are ignored.",
            class_names=coco_stuff.CLASSES,
            palette=common.bit_palette(len(coco_stuff.CLASSES), 1),
            groups=coco_stuff.GROUPS,
            homepage="https://github.com/nightrome/cocostuff10k",
        )

    def _split_generators(self, dl_manager):
        splits = list_pairs(Path(dl_manager.manual_dir))
        common.check_splits(self.name, splits, SPLITS, read_label)
        return {split: self._generate_examples(split, listed) for split, listed in splits.items()}

    def _generate_examples(self, split, listed):
        yield from common.pair_examples(f"{self.name} {split}", listed, read_label)


def list_pairs(manual_dir: Path) -> dict[str, list[common.Pair]]:
    """{split: pairs, in the order of its list}. UserError: a folder or list is missing."""
    lists = {split: f"imageLists/{name}.txt" for split, name in LISTS.items()}
    common.require(COCOStuff10K, manual_dir, "images", "annotations", *lists.values())
    return {
        split: pairs.by_name(
            manual_dir / "images", manual_dir / "annotations", (".jpg", ".mat"), common.read_names(manual_dir / path)
        )
        for split, path in lists.items()
    }
