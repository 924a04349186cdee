"""The subset of COCO 2014 of Attention to Scale (Chen et al., CVPR 2016, §4.3): 81 classes, 10,000 and 1,500 images drawn at random.

Which images the paper drew is not known: these are drawn by a seed, from all images of either split.
"""

from pathlib import Path

import tensorflow_datasets as tfds

from ctxseg.data.builders import coco, common

SEED = 0  # another one, or other numbers of images, are another VERSION
SPLITS = {"train": 10_000, "val": 1_500}
CLASSES = ["background", *coco.CATEGORIES.values()]
IDS = {category: class_id for class_id, category in enumerate(coco.CATEGORIES, 1)}


def read_label(part: common.Part):
    """uint8 [H, W]: 0 is background, then COCO's 80 classes in its order. ValueError: what is wrong with an object."""
    return coco.paint(part.key, IDS)


class COCOSubset(tfds.core.GeneratorBasedBuilder):
    """Everyday scenes with 80 classes of things and background: 10,000 train and 1,500 val images of COCO 2014."""

    name = "coco_subset"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = coco.WANTS

    @classmethod
    def fingerprint(cls, manual_dir: Path) -> str:
        """A digest of the names and sizes of COCO's files. UserError: one of the annotations or folders is missing."""
        return coco.fingerprint(cls, manual_dir)

    def _info(self):
        return common.dataset_info(
            self,
            description="A subset of COCO 2014 drawn by a seed; overlaps belong to the smaller object.",
            class_names=CLASSES,
            palette=common.bit_palette(len(CLASSES)),
            homepage="https://cocodataset.org/",
        )

    def _split_generators(self, dl_manager):
        everything = coco.read(type(self), Path(dl_manager.manual_dir))
        splits = {split: coco.draw(everything[split], count, SEED) for split, count in SPLITS.items()}
        common.check_splits(self.name, splits, SPLITS, read_label)
        return {split: self._generate_examples(split, pairs) for split, pairs in splits.items()}

    def _generate_examples(self, split, pairs):
        yield from common.pair_examples(f"{self.name} {split}", pairs, read_label)
