"""TFDS builder of `scenes_instances`, which `ctxseg/data/scenes_instances.py` generates."""

from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds
from pycocotools import mask as run_lengths

from ctxseg.data import scenes_instances as scenes
from ctxseg.data.builders.records import dataset_info, encode_png, instance_examples
from ctxseg.progress import progress

SEED = 0
# Identifies these images in builds and runs. Change it whenever they change; tests/data/test_scenes_instances.py checks that.
FINGERPRINT = "29d37c526b66"


class ScenesInstances(tfds.core.GeneratorBasedBuilder):
    """Built-in data set for instance segmentation: 2,000 train and 400 val composites, 128×128, of photographs that scikit-image ships."""

    name = "scenes_instances"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = None

    @classmethod
    def fingerprint(cls, manual_dir: Path | None, digests=None) -> str:
        """`FINGERPRINT`, which depends only on the images, not on the generator's code."""
        return FINGERPRINT

    def _info(self):
        return dataset_info(
            self,
            description="Composites of photographs with objects that touch and hide each other.",
            class_names=scenes.CLASS_NAMES,
            palette=scenes.PALETTE,
            groups=scenes.GROUPS,
            category_ids=range(1, len(scenes.CLASS_NAMES) + 1),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in scenes.SPLITS.items()}

    def _generate_examples(self, split, count):
        indices = progress(range(count), count, f"write {self.name} {split}")
        yield from instance_examples(self, split, (_example(split, index) for index in indices))


def _example(split, index):
    image, masks, classes = scenes.scene(SEED, split, index)
    annotations = []
    for number, (mask, class_id) in enumerate(zip(masks, classes, strict=True), 1):
        encoded = run_lengths.encode(np.asfortranarray(mask.view(np.uint8)))
        annotations.append(
            {
                "id": index * 100 + number,
                "category": int(class_id),
                "bbox": list(map(float, cv2.boundingRect(mask.view(np.uint8)))),
                "area": float(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(mask.shape), "counts": encoded["counts"].decode()},
            }
        )
    objects = {"id": index, "height": scenes.SIZE, "width": scenes.SIZE, "annotations": annotations}
    return {"image": encode_png(image), "name": f"{split}_{index:04d}", "objects": objects}
