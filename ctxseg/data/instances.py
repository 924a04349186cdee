"""Samples and batches for instance segmentation.

A sample is a dict of

    image    uint8 [H, W, 3], RGB
    name     str
    id       int, the image's id in the published JSON
    boxes    float32 [n, 4]: left, top, right, bottom in pixels; a box of the whole image is (0, 0, W, H)
    classes  int32 [n], 0 … K-1
    crowd    bool [n]: whether it is a region with many objects
    areas    float32 [n]: the published area in pixels of the original image
    masks    uint8 [n, H, W], 0 or 1
"""

import functools
import json
import sys
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from pycocotools import mask as run_lengths

from ctxseg.data import pipeline
from ctxseg.data.builders.records import objects_file
from ctxseg.data.instance_transforms import InstanceAugmentation, check_resizing, resized
from ctxseg.data.sizes import bucket, limited_size_of
from ctxseg.errors import UserError
from ctxseg.files import parse_json, read_bytes

ENDLESS = 2**40  # number of samples in an endless data set; Grain counts its batches in floating point


class InstanceSource(pipeline.Records):
    """The decoded samples of one split, by index, see the top of this file. Indexing raises UserError if a record is damaged.

    Attributes:
        sizes: int32 [N, 2], height and width of each image.
        counts: int32 [N], number of objects in each image, without crowds.
    """

    def __init__(self, builder, split: str):
        """`builder` is prepared, and has the split, or the splits joined by +."""
        super().__init__(builder, split, ("image",))
        sizes, counts = [], []
        for name in split.split("+"):
            path = objects_file(builder, name)
            try:
                content = parse_json(read_bytes(path))
                sizes += content["sizes"]
                counts += content["objects"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path} cannot be read; {self._remedy()}") from error
        self.sizes, self.counts = np.array(sizes, np.int32).reshape(-1, 2), np.array(counts, np.int32)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image."""
        height, width = self.sizes[index].tolist()
        return height, width

    def annotations(self, index: int) -> dict:
        """The annotations of an image, as stored: id, height, width and annotations, see `builders.records`; and its name."""
        return self._annotations(self._record(index))

    def __getitem__(self, index: int) -> dict:
        record = self._record(index)
        image, content = self._image(record), self._annotations(record)
        if image.shape[:2] != (content["height"], content["width"]):
            raise self._damaged(f"image {content['name']}")
        annotations = content["annotations"]
        left, top, width, height = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4).T
        return {
            "image": image,
            "name": content["name"],
            "id": content["id"],
            "boxes": np.stack([left, top, left + width, top + height], 1).astype(np.float32),
            "classes": np.array([a["category"] for a in annotations], np.int32),
            "crowd": np.array([a["iscrowd"] for a in annotations], bool),
            "areas": np.array([a["area"] for a in annotations], np.float32),
            "masks": _decoded([a["segmentation"] for a in annotations], image.shape[:2]),
        }

    def _annotations(self, record):
        return json.loads(record["objects"]) | {"name": record["name"].decode()}


def _decoded(segmentations, size):
    """uint8 [n, H, W] of compressed run lengths."""
    if not segmentations:
        return np.zeros((0, *size), np.uint8)
    return np.ascontiguousarray(run_lengths.decode(segmentations).transpose(2, 0, 1))


def excess(source: InstanceSource, max_objects: int) -> str | None:
    """A line about the images that have more than `max_objects` objects, and how many objects are too many; None if there are none."""
    over = np.maximum(source.counts - max_objects, 0)
    if not over.any():
        return None
    return (
        f"{np.count_nonzero(over)} of {len(over)} training images have more than config.data.max_objects={max_objects} objects: "
        f"only the largest are used, and {over.sum()} of {source.counts.sum()} objects are not"
    )


def train_iterator(
    source: InstanceSource,
    augmentation: InstanceAugmentation,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> grain.DatasetIterator:
    """Endless shuffled, augmented batches. All images of a batch have one canvas, see `InstanceAugmentation.canvas`.

    The landscape and the portrait images are shuffled separately, again in every epoch. Batches of either are spread evenly, in the
    proportion of their images. Order and augmentation are functions of the seed and the position, as in `pipeline.train_iterator`: which
    images the n-th global batch has does not depend on `process_count`, and `get_state()` and `set_state()` resume at the next batch.

    The first process says on stderr what exceeds `max_objects`.

    Args:
        source: samples by index.
        augmentation: sample → row of a batch.
        batch_size: images per batch, over all processes.
        seed: random seed of the order and of the augmentation, 0 or more.
        process_index: the index of this process.
        process_count: the number of processes that share the batch.
        threads: the number of threads that read and transform; 0: the calling thread does.

    Returns:
        An iterator of dicts, with B = batch_size / process_count and N = `max_objects`: `image` uint8 [B, H, W, 3]; `size` int32 [B, 2],
        height and width of each image, which is in the upper left of its canvas; `boxes` float32 [B, N, 4]; `classes` int32 [B, N], -1
        where there is no object; `masks` uint8 [B, N, H, ⌈W/8⌉], packed along the width: bit i of byte j is pixel 8j + i.

    Raises:
        UserError: a negative seed, or `process_count` does not divide `batch_size`; when iterating, a damaged record.
    """
    if process_index == 0 and (line := excess(source, augmentation.max_objects)):
        print(f"warning: {line}", file=sys.stderr, flush=True)
    by_canvas: dict[tuple[int, int], list[int]] = {}
    for index in range(len(source)):
        by_canvas.setdefault(augmentation.canvas(source.size(index)), []).append(index)
    groups = [np.array(indices) for _, indices in sorted(by_canvas.items())]
    order = _Order(groups, batch_size, seed)

    def augment(index, rng):
        return augmentation(source[index], rng)

    return pipeline.iterate(pipeline.seeded(order, seed), augment, batch_size, process_index, process_count, threads)


class _Order:
    """The image at each position of training: every batch is from one of the groups, and each group is shuffled in every epoch of it."""

    def __init__(self, groups: Sequence[np.ndarray], batch_size: int, seed: int):
        self._groups, self._batch_size, self._seed = groups, batch_size, seed
        self._shuffled = functools.lru_cache(8)(self._shuffle)

    def __len__(self):
        return ENDLESS // self._batch_size * self._batch_size

    def __getitem__(self, position):
        batch, place = divmod(position, self._batch_size)
        group, number = self._of_batch(batch)
        epoch, i = divmod(number * self._batch_size + place, len(self._groups[group]))
        return int(self._shuffled(group, epoch)[i])

    def _of_batch(self, batch):
        """The group of a batch, and its number among the group's batches."""
        total, remaining = sum(map(len, self._groups)), batch
        for group in range(len(self._groups) - 1, 0, -1):
            size = len(self._groups[group])
            before, after = remaining * size // total, (remaining + 1) * size // total
            if after > before:
                return group, before
            total, remaining = total - size, remaining - before
        return 0, remaining

    def _shuffle(self, group, epoch):
        return np.random.default_rng([self._seed, group, epoch]).permutation(self._groups[group])


class EvalImages:
    """The images of a source for evaluation, resized: dicts of `image`, `index`, `name`, and `original_size`, (height, width)."""

    def __init__(self, source: InstanceSource, base_size: Sequence[int] = (), max_side: int = 0):
        """`base_size` and `max_side`: see `sizes.limited_size_of`."""
        check_resizing(base_size, max_side, "eval.size")
        self._source, self._base, self._max_side = source, tuple(base_size), max_side

    def __len__(self) -> int:
        return len(self._source)

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of a resized image."""
        return limited_size_of(self._source.size(index), self._base, self._max_side)

    def __getitem__(self, index: int) -> dict:
        content = self._source.annotations(index)
        image = resized(self._source.image(index), self._base, self._max_side)
        original = content["height"], content["width"]
        return {"image": image, "index": index, "name": content["name"], "original_size": original}


def eval_batches(
    source: InstanceSource,
    batch_size: int,
    base_size: Sequence[int] = (),
    max_side: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    one_of_each: bool = False,
) -> Iterator[dict]:
    """Every image once, in batches of a few shapes, the `sizes.bucket` of each side; see `pipeline.eval_batches`.

    Args:
        source: samples by index.
        batch_size: images per batch, over all processes.
        base_size: the size that images are resized to, see `sizes.base_size_of`.
        max_side: the longest side after that; 0: no limit.
        process_index: the index of this process.
        process_count: the number of processes that share each batch.
        threads: the number of threads that read and decode; 0: the calling thread does.
        one_of_each: see `pipeline.eval_batches`.

    Returns:
        An iterator of dicts `image` uint8 [B, H, W, 3]; `size` int32 [B, 2], height and width of each resized image, which is in the upper
        left; `count`, the number of real images, which come first; `images`, that of all processes; and lists with an entry for each real
        image: `index` in the source, `name` and `original_size` (height, width).

    Raises:
        UserError: `process_count` does not divide `batch_size`; a wrong size; when iterating, a damaged record.
    """
    images = EvalImages(source, base_size, max_side)
    batches = pipeline.eval_batches(
        images, batch_size, process_index, process_count, threads, _shape_of, one_of_each=one_of_each
    )
    return ({key: batch[key] for key in batch if key != "canvas"} for batch in batches)


def _shape_of(size):
    return bucket(size[0]), bucket(size[1])
