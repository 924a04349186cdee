"""CIHP, Crowd Instance-level Human Parsing (Gong et al., ECCV 2018): `instance-level_human_parsing.zip` unpacked."""

from pathlib import Path

import tensorflow_datasets as tfds

from ctxseg.data.builders import common, lip, pairs

# LIP's, but for the rare jumpsuits; the colours are LIP's.
CLASSES = {{"jumpsuits": "torso-skin"}.get(name, name): colour for name, colour in lip.CLASSES.items()}
SPLITS = {"train": 28_280, "val": 5_000}  # the 5,000 test images have no published labels
FOLDERS = {"train": "Training", "val": "Validation"}

read_label = common.label_image("cihp", {i: i for i in range(len(CLASSES))})


class CIHP(tfds.core.GeneratorBasedBuilder):
    """Groups of persons with 19 parts and clothes: 28,280 train and 5,000 val images."""

    name = "cihp"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "instance-level_human_parsing: Training/ and Validation/, each with Images/, Category_ids/ and a list, "
        "train_id.txt or val_id.txt"
    )

    @classmethod
    def fingerprint(cls, manual_dir: Path) -> str:
        """A digest of the files' names and sizes. UserError: a folder, list or file is missing."""
        return common.fingerprint_pairs(manual_dir, list_pairs(manual_dir))

    def _info(self):
        return common.dataset_info(
            self,
            description="Crowd Instance-level Human Parsing: parts and clothes, all persons of an image together.",
            class_names=list(CLASSES),
            palette=list(CLASSES.values()),
            homepage="https://sysu-hcp.net/lip/",
        )

    def _split_generators(self, dl_manager):
        splits = list_pairs(Path(dl_manager.manual_dir))
        common.check_splits(self.name, splits, SPLITS, read_label)
        return {split: self._generate_examples(split, listed) for split, listed in splits.items()}

    def _generate_examples(self, split, listed):
        yield from common.pair_examples(f"{self.name} {split}", listed, read_label)


def list_pairs(manual_dir: Path) -> dict[str, list[common.Pair]]:
    """{split: pairs, in the order of its list}. UserError: a folder or list is missing."""
    splits = {}
    for split, folder in FOLDERS.items():
        common.require(CIHP, manual_dir, f"{folder}/Images", f"{folder}/Category_ids", f"{folder}/{split}_id.txt")
        root = manual_dir / folder
        names = common.read_names(root / f"{split}_id.txt")
        splits[split] = pairs.by_name(root / "Images", root / "Category_ids", names=names)
    return splits
