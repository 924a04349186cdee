"""TFDS builder of `scenes`; what is in them: `ctxseg/data/scenes.py`."""

import hashlib
from importlib import metadata
from pathlib import Path

import tensorflow_datasets as tfds

from ctxseg.data import scenes
from ctxseg.data.builders.records import dataset_info, encode_png
from ctxseg.progress import progress

SEED = 0


class Scenes(tfds.core.GeneratorBasedBuilder):
    """The embedded data set: 2,000 train and 400 val composites, 128×128, of photographs that scikit-image ships."""

    name = "scenes"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = None

    @classmethod
    def fingerprint(cls, manual_dir: Path | None, digests=None) -> str:
        """A digest of what the scenes depend on: the generator's text, its seed and the release of scikit-image."""
        digest = hashlib.sha256(Path(scenes.__file__).read_bytes())
        digest.update(f"{SEED} {scenes.SPLITS} {metadata.version('scikit-image')}".encode())
        return digest.hexdigest()[:12]

    def _info(self):
        return dataset_info(
            self,
            description="Composites of photographs whose classes need different kinds of context.",
            class_names=scenes.CLASS_NAMES,
            palette=scenes.PALETTE,
            groups=scenes.GROUPS,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, count) for split, count in scenes.SPLITS.items()}

    def _generate_examples(self, split, count):
        for index in progress(range(count), count, f"write {self.name} {split}"):
            image, label = scenes.scene(SEED, split, index)
            yield (
                index,
                {
                    "image": encode_png(image),
                    "label": encode_png(label),
                    "name": f"{split}_{index:04d}",
                },
            )
