"""What builders write: the features of a record, and the builder that makes records of pairs of files.

A builder is a `tfds.core.GeneratorBasedBuilder` whose samples have the features

    image  an encoded PNG or JPEG, decoding to uint8 [H, W, 3]
    label  an encoded PNG, uint8 [H, W, 1]: class ids, 255 = ignore
    name   text: the file's stem

and whose `info.metadata` has `class_names`, `palette`, `groups` and `fingerprint`. It yields encoded bytes
(`io.BytesIO`) or paths: TFDS then needs no TensorFlow. Beside TFDS's own members it has

    MANUAL_DOWNLOAD_INSTRUCTIONS   what `manual_dir` must hold, to follow "wants"; None if the data set is generated
    fingerprint(manual_dir, digests)   classmethod: a short string that changes whenever the prepared data would, and that a copy of
                                       the folder has too; `digests` gives those of files' contents, see `contents.digests`

Where the data set has files, a builder is a `PairsBuilder`: it lists `Pair`s by split and has a function that reads a label:
`read_label(pair.label)` → uint8 [H, W], class ids and 255. `labels.label_image` makes one for 8-bit images of ids; other
kinds of file are each builder's own. It raises ValueError, or what its decoder raises, with what is wrong, and the file's
name is put in front by `checks`; or a UserError, which names it already.
"""

import inspect
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds

from ctxseg.data import contents, download, images
from ctxseg.data.builders.checks import check_splits
from ctxseg.data.builders.pairs import Pair, Part, fingerprint_pairs
from ctxseg.data.parallel import each

# Ids decode in a third of the time, and take less, if PNG does not predict them from their neighbours.
PNG_OF_IDS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 6),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE),
)


def dataset_info(
    builder,
    description: str,
    class_names: Sequence[str],
    palette: Sequence[Sequence[int]],
    groups: Mapping[str, Sequence[str]] | None = None,
    **kwargs,
) -> tfds.core.DatasetInfo:
    """The `DatasetInfo` of a segmentation data set; what a builder's `_info` returns.

    Args:
        builder: the builder, i.e. `self`.
        description: a sentence or two.
        class_names: by class id.
        palette: [r, g, b] of each class, 0..255.
        groups: {group: class names}, over which IoU is averaged too.
        **kwargs: of `tfds.core.DatasetInfo`: homepage, citation, license.
    """
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                "name": tfds.features.Text(),
            }
        ),
        metadata=tfds.core.MetadataDict(
            class_names=list(class_names),
            palette=[list(map(int, colour)) for colour in palette],
            groups={group: list(names) for group, names in (groups or {}).items()},
            fingerprint=builder.builder_config.name if builder.builder_config else "",
        ),
        disable_shuffling=True,  # records in the order of the official lists; the pipeline shuffles
        **kwargs,
    )


def encode_png(array: np.ndarray) -> io.BytesIO:
    """uint8 [H, W] labels or [H, W, 3] RGB as a PNG, which is what TFDS's `Image` feature takes."""
    pixels, options = (array, PNG_OF_IDS) if array.ndim == 2 else (array[..., ::-1], ())
    return io.BytesIO(cv2.imencode(".png", pixels, options)[1].tobytes())


def pair_examples(
    label: str,
    pairs: Sequence[Pair],
    read_label: Callable[[Path | Part], np.ndarray],
    read_image: Callable[[Part], np.ndarray] | None = None,
) -> Iterator[tuple[int, dict]]:
    """What `_generate_examples` yields of pairs that `check_splits` found good: labels as PNGs of class ids, images as they are.

    But images that are not `images.plain` become PNGs of what `images.read` gives; so do those that EXIF turns, and their labels with them.

    Args:
        label: for the progress bar, as 'camvid train'.
        pairs: of one split.
        read_label: as for `check_splits`.
        read_image: as for `check_splits`; the image becomes a PNG.
    """

    def example(pair):
        image, turn = (encode_png(read_image(pair.image)), 1) if read_image else _encoded(pair.image)
        label = np.ascontiguousarray(images.upright(read_label(pair.label), turn))
        return {"image": image, "label": encode_png(label), "name": pair.name}

    return enumerate(each(example, pairs, f"write {label}"))


def _encoded(path):
    """An image file as it is kept, and the EXIF orientation that it had."""
    with images.open_image(path) as file:
        turn, plain = images.orientation(file), images.plain(file)
    if plain and turn == 1:
        return io.BytesIO(path.read_bytes()), 1
    return encode_png(images.read(path)[0]), turn


class PairsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS has no types
    """What all builders of data sets whose files are listed as `Pair`s do; each says with what.

    Attributes:
        name: as `config.data.name` has it.
        homepage: of the data set.
        MANUAL_DOWNLOAD_INSTRUCTIONS: as at the top.
        published: {split: number of images}, as for `check_splits`.
        class_names: by class id.
        palette: [r, g, b] of each class.
        groups: {group: class names}, over which IoU is averaged too.
        downloads: where the files are, if anybody can have them without a login.
        list_pairs: manual_dir → {split: pairs}. It raises UserError for files that are missing.
        read_label: as for `check_splits`.
        read_image: as for `check_splits`.
    """

    VERSION = tfds.core.Version("1.0.0")  # another one where the same files give other samples
    groups: Mapping[str, Sequence[str]] = {}
    downloads: download.Download | None = None
    read_image: Callable[[Part], np.ndarray] | None = None

    @classmethod
    def fingerprint(cls, manual_dir: Path, digests: Callable = contents.digests) -> str:
        """A digest of the listed files' names and contents. UserError: a folder, list or file is missing."""
        return fingerprint_pairs(manual_dir, cls.list_pairs(manual_dir), digests=digests)

    def _info(self):
        return dataset_info(
            self, inspect.getdoc(type(self)), self.class_names, self.palette, self.groups, homepage=self.homepage
        )

    def _split_generators(self, dl_manager):
        splits = self.list_pairs(Path(dl_manager.manual_dir))
        check_splits(self.name, splits, self.published, self.read_label, self.read_image)
        return {split: self._generate_examples(split, pairs) for split, pairs in splits.items()}

    def _generate_examples(self, split, pairs):
        yield from pair_examples(f"{self.name} {split}", pairs, self.read_label, self.read_image)
