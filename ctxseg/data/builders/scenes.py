"""TFDS builder of `scenes`, which `ctxseg/data/scenes.py` generates."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from ctxseg.data import scenes
from ctxseg.data.builders.labels import IGNORE
from ctxseg.data.builders.records import dataset_info, encode_png
from ctxseg.progress import progress

SEED = 0
# Identifies these scenes in builds and runs. Change it whenever the scenes change; tests/data/test_scenes.py checks that.
FINGERPRINT = "bdd4a2ecf9a1"


class Scenes(tfds.core.GeneratorBasedBuilder):
    """The built-in data set: 2,000 train and 400 val composites, 128×128, of photographs that scikit-image ships."""

    name = "scenes"
    # The classes that are labelled; pixels of the others are ignored.
    CLASS_NAMES: Sequence[str] = scenes.CLASS_NAMES
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = None

    @classmethod
    def fingerprint(cls, manual_dir: Path | None, digests=None) -> str:
        """`FINGERPRINT`, which depends only on the scenes, not on the generator's code."""
        return FINGERPRINT

    @staticmethod
    def answers(split: str, index: int) -> scenes.Answers | None:
        """The answers of a scene; None: its own."""
        return None

    def _info(self):
        return dataset_info(
            self,
            description="Composites of photographs whose classes need different kinds of context.",
            class_names=list(self.CLASS_NAMES),
            palette=[scenes.PALETTE[scenes.CLASS_NAMES.index(name)] for name in self.CLASS_NAMES],
            groups={
                group: labelled
                for group, names in scenes.GROUPS.items()
                if (labelled := [n for n in names if n in self.CLASS_NAMES])
            },
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in scenes.SPLITS.items()}

    def _generate_examples(self, split, count):
        ids = np.full(256, IGNORE, np.uint8)
        ids[[scenes.CLASS_NAMES.index(name) for name in self.CLASS_NAMES]] = np.arange(len(self.CLASS_NAMES))
        for index in progress(range(count), count, f"write {self.name} {split}"):
            image, label = scenes.scene(SEED, split, index, self.answers(split, index))
            yield (
                index,
                {
                    "image": encode_png(image),
                    "label": encode_png(ids[label]),
                    "name": f"{split}_{index:04d}",
                },
            )


class ScenesHalf(Scenes):
    """`scenes` with one class of each pair, 6 of 11; the others are ignored. For runs that continue on data with more classes."""

    name = "scenes_half"
    CLASS_NAMES = ("background", "grass", "retina", "tissue with retina", "short wall", "text at grass")

    @classmethod
    def fingerprint(cls, manual_dir: Path | None, digests=None) -> str:
        """That of the scenes, and that half of the classes are labelled."""
        return f"{FINGERPRINT}-half"


class ScenesRare(Scenes):
    """`scenes` with a rare class: in training, 1 of 50 beacons shows galaxies. In `val` it is every second one, as in `scenes`.

    The tissue squares, whose classes depend on the beacon, are ignored. So one class of the other nine is rare.
    """

    name = "scenes_rare"
    CLASS_NAMES = tuple(name for name in scenes.CLASS_NAMES if name not in scenes.GROUPS["distant_cue"])
    EVERY = 50

    @staticmethod
    def answers(split: str, index: int) -> scenes.Answers | None:
        """Of a training scene, its own but for the beacon."""
        if split != "train":
            return None
        return scenes.answers_of(index)._replace(beacon=int(index % ScenesRare.EVERY == 0))

    @classmethod
    def fingerprint(cls, manual_dir: Path | None, digests=None) -> str:
        """That of the scenes, and that a class is rare."""
        return f"{FINGERPRINT}-rare"
