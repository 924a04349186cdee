"""COCO 2017 for instance segmentation (Lin et al., ECCV 2014): 80 classes, by category id.

`manual_dir` has train2017.zip, val2017.zip and annotations_trainval2017.zip, unpacked side by side; the images may be in images/.
"""

from collections.abc import Callable
from pathlib import Path

import tensorflow_datasets as tfds

from ctxseg.data import contents
from ctxseg.data.builders import coco, objects
from ctxseg.data.builders.checks import warn_of_counts
from ctxseg.data.builders.labels import bit_palette
from ctxseg.data.builders.records import dataset_info, instance_examples
from ctxseg.data.download import Archive, Download

FOLDERS = {"train": "train2017", "val": "val2017"}
SPLITS = {"train": 118_287, "val": 5_000}  # the objects of the test images are not published
RULES = objects.Rules({category: class_id for class_id, category in enumerate(coco.CATEGORIES)}, published=True)


class COCOInstances(tfds.core.GeneratorBasedBuilder):
    """Everyday scenes with the masks of 80 classes of objects: 118,287 train and 5,000 val images of COCO 2017."""

    name = "coco_instances"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "COCO 2017: annotations/instances_train2017.json and instances_val2017.json, train2017/ and val2017/"
    )
    downloads = Download(
        "coco2017",
        [
            # Checksums from TFDS (`url_checksums/coco.txt`).
            Archive(
                "http://images.cocodataset.org/zips/train2017.zip",
                "sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
            ),
            Archive(
                "http://images.cocodataset.org/zips/val2017.zip",
                "sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
            ),
            Archive(
                "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
                "sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
        ],
    )

    @classmethod
    def fingerprint(cls, manual_dir: Path, digests: Callable = contents.digests) -> str:
        """A digest of the names and contents of both splits' images and annotations. UserError: a file or folder is missing."""
        return coco.fingerprint(cls, manual_dir, digests, tuple(FOLDERS.values()))

    def _info(self):
        return dataset_info(
            self,
            description="Objects of COCO 2017.",
            class_names=list(coco.CATEGORIES.values()),
            palette=bit_palette(len(coco.CATEGORIES), 1),
            category_ids=list(coco.CATEGORIES),
            homepage="https://cocodataset.org/",
        )

    def _split_generators(self, dl_manager):
        splits, faults = {}, []
        for split, folder in FOLDERS.items():
            path, images = coco.paths(type(self), Path(dl_manager.manual_dir), folder)
            content, found = objects.read(path, coco.CATEGORIES)
            faults += found
            listed = content.images if content else []
            splits[split] = [
                objects.Entry(Path(image.file_name).stem, images / image.file_name, path, image) for image in listed
            ]
        warn_of_counts(self.name, splits, SPLITS)
        objects.check(self.name, splits, RULES, faults)
        return {split: self._generate_examples(split, entries) for split, entries in splits.items()}

    def _generate_examples(self, split, entries):
        yield from instance_examples(self, split, objects.examples(f"{self.name} {split}", entries, RULES))
