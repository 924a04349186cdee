"""The features of a record, and a builder for data sets of pairs of files.

A builder is a `tfds.core.GeneratorBasedBuilder`. Its samples have the features

    image  an encoded PNG or JPEG, decoding to uint8 [H, W, 3]
    label  an encoded PNG, uint8 [H, W, 1]: class ids, 255 = ignore
    name   text: the file's stem

In a data set for instance segmentation, samples have in place of `label` the feature

    objects  text: JSON {"id", "height", "width", "annotations": [{"id", "category": 0 … K-1, "bbox": [x, y, w, h], "area",
             "iscrowd": 0 or 1, "segmentation": {"size": [h, w], "counts": COCO's compressed run lengths}}]}

`objects-SPLIT.json`, beside the records, has the sizes of the images and their numbers of objects: see `instance_examples`.

Its `info.metadata` has `class_names`, `palette`, `groups` and `fingerprint`; for instances also `category_ids`, the ids of the classes in
the published JSON. It yields encoded bytes (`io.BytesIO`) or paths, for
which TFDS does not need TensorFlow. In addition to TFDS's members it has

    MANUAL_DOWNLOAD_INSTRUCTIONS   what `manual_dir` must contain, to follow "NAME expects"; None if the data set is generated
    fingerprint(manual_dir, digests)   classmethod: a short string that changes whenever the prepared data would, and is the same for
                                       a copy of the folder; `digests` computes digests of files, see `contents.digests`

For data sets of files, a builder is a `PairsBuilder`: it lists `Pair`s by split and has a function that reads a label:
`read_label(pair.label)` → uint8 [H, W], class ids and 255. `labels.label_image` makes one for 8-bit images of ids; other
builders define their own. It raises ValueError or the exceptions of its decoder, and `checks` puts the file's name before the message;
or it raises a UserError that names the file.
"""

import inspect
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from ctxseg.data import contents, download, images
from ctxseg.data.builders.checks import check_splits
from ctxseg.data.builders.labels import IGNORE
from ctxseg.data.builders.pairs import Pair, Part, fingerprint_pairs
from ctxseg.data.parallel import each
from ctxseg.files import write_json

# Without PNG's prediction from neighbours, ids decode in a third of the time, and files are smaller.
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
    category_ids: Sequence[int] | None = None,
    **kwargs,
) -> tfds.core.DatasetInfo:
    """The `DatasetInfo` of a segmentation data set; what a builder's `_info` returns.

    Args:
        builder: the builder, i.e. `self`.
        description: a sentence or two.
        class_names: by class id.
        palette: [r, g, b] of each class, 0..255.
        groups: {group: class names}; IoU is also averaged over each group.
        category_ids: for instance segmentation: the id of each class in the published JSON; the samples have objects in place of labels.
        **kwargs: of `tfds.core.DatasetInfo`: homepage, citation, license.
    """
    metadata = tfds.core.MetadataDict(
        class_names=list(class_names),
        palette=[list(map(int, colour)) for colour in palette],
        groups={group: list(names) for group, names in (groups or {}).items()},
        fingerprint=builder.builder_config.name if builder.builder_config else "",
    )
    features = {"image": tfds.features.Image(shape=(None, None, 3)), "name": tfds.features.Text()}
    if category_ids is None:
        features["label"] = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
    else:
        metadata["category_ids"] = list(map(int, category_ids))
        features["objects"] = tfds.features.Text()
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(features),
        metadata=metadata,
        disable_shuffling=True,  # records in the order of the official lists; the pipeline shuffles
        **kwargs,
    )


def encode_png(array: np.ndarray) -> io.BytesIO:
    """Encodes uint8 [H, W] labels or [H, W, 3] RGB as a PNG, as TFDS's `Image` feature takes it."""
    pixels, options = (array, PNG_OF_IDS) if array.ndim == 2 else (array[..., ::-1], ())
    return io.BytesIO(cv2.imencode(".png", pixels, options)[1].tobytes())


def pair_examples(
    label: str,
    pairs: Sequence[Pair],
    read_label: Callable[[Path | Part], np.ndarray],
    read_image: Callable[[Part], np.ndarray] | None = None,
) -> Iterator[tuple[int, dict]]:
    """The examples of `_generate_examples` for pairs that passed `check_splits`: labels as PNGs of class ids, images as their files' bytes.

    Without a label, all pixels are ignored.

    Images that are not `images.plain`, or that EXIF turns, become PNGs of what `images.read` gives; their labels are turned with them.

    Args:
        label: for the progress display, such as 'camvid train'.
        pairs: the pairs of one split.
        read_label: as for `check_splits`.
        read_image: as for `check_splits`; the image becomes a PNG.
    """

    def example(pair):
        image, turn = (encode_png(read_image(pair.image)), 1) if read_image else encoded(pair.image)
        if pair.label is None:
            with images.open_image(io.BytesIO(image.getvalue())) as file:
                label = np.full(file.size[::-1], IGNORE, np.uint8)
        else:
            label = np.ascontiguousarray(images.upright(read_label(pair.label), turn))
        return {"image": image, "label": encode_png(label), "name": pair.name}

    return enumerate(each(example, pairs, f"write {label}"))


def instance_examples(builder, split: str, examples: Iterable[dict]) -> Iterator[tuple[int, dict]]:
    """The examples of `_generate_examples` for instance segmentation.

    After the last one, writes `objects-SPLIT.json` beside the records: {"sizes": [[height, width]], "objects": [their number in each
    image, without crowds]}, so that the images can be grouped by size without reading them.

    Args:
        builder: the builder, i.e. `self`.
        split: the split's name.
        examples: dicts of `image` and `name`, as TFDS's features take them, and `objects`, the dict that becomes the JSON.
    """
    sizes, counts = [], []
    for index, example in enumerate(examples):
        objects = example["objects"]
        sizes.append([objects["height"], objects["width"]])
        counts.append(sum(not annotation["iscrowd"] for annotation in objects["annotations"]))
        yield index, example | {"objects": json.dumps(objects)}
    write_json(objects_file(builder, split), {"sizes": sizes, "objects": counts})


def objects_file(builder, split: str) -> epath.Path:
    """Where `instance_examples` writes the sizes and the numbers of objects of a split."""
    return epath.Path(builder.data_dir) / f"objects-{split}.json"


def encoded(path: Path) -> tuple[io.BytesIO, int]:
    """An image file's bytes, or a PNG of it, and the EXIF orientation of the file."""
    with images.open_image(path) as file:
        turn, plain = images.orientation(file), images.plain(file)
    if plain and turn == 1:
        return io.BytesIO(path.read_bytes()), 1
    return encode_png(images.read(path)[0]), turn


class PairsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS has no types
    """Builder of a data set of `Pair`s of files. Subclasses set the attributes.

    Attributes:
        name: the data set's name in `config.data.name`.
        homepage: of the data set.
        MANUAL_DOWNLOAD_INSTRUCTIONS: see the top of this file.
        published: {split: number of images}, as for `check_splits`.
        class_names: by class id.
        palette: [r, g, b] of each class.
        groups: {group: class names}; IoU is also averaged over each group.
        downloads: where the files can be downloaded; None if they need a login.
        list_pairs: manual_dir → {split: pairs}. Raises UserError for missing files.
        read_label: as for `check_splits`.
        read_image: as for `check_splits`.
    """

    VERSION = tfds.core.Version("1.0.0")  # change it when the same files give other samples
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
