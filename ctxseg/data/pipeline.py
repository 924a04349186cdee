"""From prepared data to batches: read, decode, transform and batch with Grain, in threads of this process.

Everything is a function of an index: the same seed gives the same batches, and an iterator's position is one number.
"""

import io
import math
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import cv2
import grain
import imagecodecs
import numpy as np
import tensorflow_datasets as tfds

from ctxseg.data import images, superpixels
from ctxseg.data.transforms import PADDING, base_size_of, resize
from ctxseg.errors import UserError


class Records:
    """The records of one split of a prepared builder, by index. UserError if one is damaged.

    `encoded` names the features that are images: they stay encoded, as OpenCV decodes without the copies that TFDS makes.
    """

    def __init__(self, builder, split: str, encoded: Sequence[str]):
        raw = tfds.decode.SkipDecoding()
        self._records = builder.as_data_source(split, decoders=dict.fromkeys(encoded, raw))
        self._place = f"{builder.name} {split}"
        self._folder = builder.data_dir

    def __len__(self) -> int:
        return len(self._records)

    def name(self, index: int) -> str:
        """Only the name of a sample."""
        return self._record(index)["name"].decode()

    def image(self, index: int) -> np.ndarray:
        """Only the image of a sample, uint8 [H, W, 3]."""
        return self._image(self._record(index))

    def _image(self, record):
        if record["image"].startswith(b"\x89PNG"):
            try:
                image = imagecodecs.png_decode(record["image"])  # by zlib-ng: takes 60 % of OpenCV's time
            except (imagecodecs.PngError, ValueError):
                image = None
            if image is not None and image.dtype == np.uint8 and image.shape[2:] == (3,):
                return image
        what = f"image {record['name'].decode()}"
        try:
            with images.open_image(io.BytesIO(record["image"])) as file:
                plain = images.plain(file)
            if not plain:  # in builds of earlier versions
                return images.read(io.BytesIO(record["image"]), turn=False)[0]
        except Exception as error:  # Pillow raises many kinds of errors on damaged bytes
            raise self._damaged(what) from error
        return self._decode(record["image"], cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, what)

    def _record(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._read(self._records, index, "record")

    def _read(self, records, index, what):
        try:
            return records[index]
        except Exception as error:  # ArrayRecord and protobuf raise many kinds of errors on damaged bytes
            raise UserError(f"{self._place}: {what} {index} cannot be read; {self._remedy()}") from error

    def _decode(self, encoded, flags, what):
        try:
            array = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
        except cv2.error:
            array = None
        if array is None:
            raise self._damaged(what)
        return array

    def _damaged(self, what):
        return UserError(f"{self._place}: {what} cannot be decoded; {self._remedy()}")

    def _remedy(self):
        return f"delete {self._folder} to prepare it again"


class Source(Records):
    """The decoded samples of one split, by index: `image` uint8 [H, W, 3], `label` uint8 [H, W], `name` str, and with super-pixels
    `regions` int32 [H, W], or [H, W, S] for several views.

    Indexing raises UserError if a record is damaged.
    """

    def __init__(self, builder, split: str, views: Sequence[superpixels.View] = ()):
        """`builder` is prepared and has the split. `views`: how super-pixels are computed; (): no super-pixels."""
        super().__init__(builder, split, ("image", "label"))
        self._regions = [superpixels.source(builder, split, _Images(self), view) for view in views]

    def __getitem__(self, index: int) -> dict:
        record = self._record(index)
        name = record["name"].decode()
        image = self._image(record)
        label = self._decode(record["label"], cv2.IMREAD_UNCHANGED, f"label {name}")
        if image.shape[:2] != label.shape:
            raise UserError(
                f"{self._place}: {name} has an image of {image.shape[:2]} and a label of {label.shape} pixels"
            )
        sample = {"image": image, "label": label, "name": name}
        if self._regions:
            encoded = [self._read(regions, index, "super-pixels") for regions in self._regions]
            decoded = [self._decode(png, cv2.IMREAD_UNCHANGED, f"super-pixels of {name}") for png in encoded]
            sample["regions"] = superpixels.stack(decoded)
        return sample

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of a sample, from the header of its label."""
        width, height = struct.unpack(">II", self._record(index)["label"][16:24])  # in a PNG's header
        return height, width


class Resized:
    """The samples of another source, images and labels resized to their base size."""

    def __init__(self, source, base: tuple[int, ...]):
        """`base`: see `sizes.base_size_of`."""
        self._source, self._base = source, tuple(base)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        sample = self._source[index]
        return resize(sample, base_size_of(sample["label"].shape, self._base))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of a sample."""
        return base_size_of(self._source.size(index), self._base)


class _Images:
    """The images of a source, by index."""

    def __init__(self, source):
        self._source = source

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        return self._source.image(index)


def source(builder, split: str, segments: int = 0, views: Sequence[superpixels.View] = ()) -> Source:
    """Random access to the samples of a prepared builder's split, with `segments` super-pixels each (0: none), or with these `views`."""
    return Source(builder, split, views or superpixels.views(segments, "image", (1.0,)))


def train_iterator(
    source,
    transform: Callable[[dict, np.random.Generator], dict],
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    others: Sequence[tuple[Any, Fraction]] = (),
) -> grain.DatasetIterator:
    """Endless shuffled, augmented batches; order and augmentations differ in every epoch. Each source has epochs of its own.

    `process_count` does not change which images the n-th global batch has, only how they are divided among the processes.
    `get_state()` gives a JSON-serialisable dict, with which `set_state()` resumes at the next batch.

    Args:
        source: samples by index, such as a `Source`.
        transform: (sample, rng) → sample, all of one size; an `Augmentation`.
        batch_size: images per batch, over all processes.
        seed: random seed of the order and of the augmentation, 0 or more.
        process_index: the index of this process.
        process_count: the number of processes that share the batch.
        threads: the number of threads that read and transform; 0: the calling thread does.
        others: other sources, each with the share of the images that are drawn from it, see `Shares`; `source` has the rest.

    Returns:
        An iterator of dicts `image` uint8 [B, h, w, 3], `label` uint8 [B, h, w], and `regions` int32 [B, h, w] if
        samples have them, with B = batch_size / process_count.

    Raises:
        UserError: a negative seed, or `process_count` does not divide `batch_size`; when iterating, a damaged record.
    """

    def augment(sample, rng):
        return _arrays(transform(sample, rng))

    dataset = seeded(source, seed).shuffle().repeat()
    if others:
        # With seeds of their own, sources of the same length have different orders.
        seeds = [int(np.random.SeedSequence((seed, i)).generate_state(1)[0]) for i in range(1, len(others) + 1)]
        datasets = [seeded(other, own).shuffle().repeat() for (other, _), own in zip(others, seeds, strict=True)]
        shares = [share for _, share in others]
        positions = Shares([1 - sum(shares, Fraction(0)), *shares])
        dataset = grain.MapDataset.select_from_datasets([dataset, *datasets], positions)
    return iterate(dataset, augment, batch_size, process_index, process_count, threads)


class _Part(grain.MapDataset):
    """Of every `count · size` successive items of an endless dataset, the `index`-th `size`: a process's part of each batch.

    The parts follow each other as those of the devices of a process do, so dropout does not depend on the number of processes.
    """

    def __init__(self, dataset, index: int, count: int, size: int):
        super().__init__(dataset)
        self._index, self._count, self._size = index, count, size

    def __len__(self) -> int:
        return len(self._parent) // self._count

    def __getitem__(self, i):
        batch, place = divmod(i, self._size)
        return self._parent[(batch * self._count + self._index) * self._size + place]


class Shares(grain.transforms.DatasetSelectionMap):
    """Position in a mixture of endless data sets → (index of the data set, position in it). The data sets alternate evenly.

    Among the first n items, the number from each data set differs from n times its share by less than the number of other data sets.
    Grain's own `mix` rounds shares to one hundredth of the smallest.
    """

    def __init__(self, shares: Sequence[Fraction]):
        """`shares`: of each data set, with a sum of 1."""
        denominator = math.lcm(*(share.denominator for share in shares))
        self._weights = [int(share * denominator) for share in shares]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> tuple[int, int]:
        start, end, total = position, position + 1, sum(self._weights)
        for index, weight in enumerate(self._weights):
            # Of n items that are left, ⌊n (total − weight) / total⌋ are from the data sets that follow.
            next_start, next_end = start * (total - weight) // total, end * (total - weight) // total
            if next_start == next_end:  # always for the last data set
                return index, start - next_start
            start, end, total = next_start, next_end, total - weight
        raise IndexError(position)


def seeded(source, seed: int) -> grain.MapDataset:
    """Grain's dataset of a source, with a seed. UserError for a negative seed."""
    if seed < 0:
        raise UserError(f"config.seed is {seed}; expected 0 or more")
    return grain.MapDataset.source(source).seed(seed)


def iterate(
    dataset: grain.MapDataset,
    augment: Callable[[Any, np.random.Generator], dict],
    batch_size: int,
    process_index: int,
    process_count: int,
    threads: int,
) -> grain.DatasetIterator:
    """Batches of an endless, seeded dataset whose items are in their global order. `augment`: (item, rng) → arrays. Otherwise as
    `train_iterator`."""
    local_size = _local_size(batch_size, process_count)
    cv2.setNumThreads(0)  # each thread has an image; OpenCV's own threads would only compete
    dataset = dataset.random_map(augment)
    # After the random transform, so that its seed depends on the sample's position in the global order.
    dataset = _Part(dataset, process_index, process_count, local_size) if process_count > 1 else dataset
    # Grain computes the number of batches of an endless data set as length / size, rounded, which for size 1 exceeds the largest length.
    dataset = dataset.batch(local_size) if local_size > 1 else dataset.map(_batch_of_one)
    return iter(dataset.to_iter_dataset(_read_options(threads)))


def eval_batches(
    source,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    shape_of: Callable[[tuple[int, int]], tuple[int, int]] = lambda size: size,
    canvas_of: Callable[[tuple[int, int]], Any] = lambda size: None,
    one_of_each: bool = False,
) -> Iterator[dict]:
    """Every sample once, uncropped, in batches of images that share a shape; within a shape, in the order of `source`.

    Every process gets the same number of batches of the same shapes, in the same order. An incomplete batch is filled up with images
    that are ignored completely. An image smaller than the batch's shape is padded; the padding is ignored.

    Args:
        source: samples by index, and `size(index)` → (height, width), such as a `Source`.
        batch_size: images per batch, over all processes.
        process_index: the index of this process.
        process_count: the number of processes that share each batch.
        threads: the number of threads that read and decode; 0: the calling thread does.
        shape_of: (height, width) of an image → (height, width) of its batch, at least as large. Default: the image's own.
        canvas_of: (height, width) of an image → any value that all images of a batch share, see `protocol.canvas_of`.
        one_of_each: whether to return only the first batch of each kind: of each shape and canvas, with and without padding.

    Returns:
        An iterator of dicts `image` uint8 [B, H, W, 3], `label` uint8 [B, H, W], `regions` int32 [B, H, W] if samples have them,
        with B = batch_size / process_count; `size` int32 [B, 2], height and width of each image, which is in the upper left of its
        arrays; `count` int and `name` list[str], the number and names of the real images, which come first; `images` int, the number of
        real images over all processes; `canvas`, their value of `canvas_of`; and a list for each other entry of the samples.

    Raises:
        UserError: `process_count` does not divide `batch_size`; when iterating, a damaged record.
    """
    local_size = _local_size(batch_size, process_count)
    cv2.setNumThreads(0)
    by_shape: dict[tuple[tuple[int, ...], Any], list[int]] = {}
    for index in range(len(source)):
        size = source.size(index)
        by_shape.setdefault((tuple(shape_of(size)), canvas_of(size)), []).append(index)
    plan = [
        (shape, canvas, indices[start:][:batch_size])
        for (shape, canvas), indices in by_shape.items()
        for start in range(0, len(indices), batch_size)
    ]
    if one_of_each:
        kinds = [(shape, canvas, any(source.size(i) != shape for i in indices)) for shape, canvas, indices in plan]
        plan = [plan[kinds.index(kind)] for kind in dict.fromkeys(kinds)]
    first = process_index * local_size

    def load(planned):
        shape, canvas, indices = planned
        local = indices[first : first + local_size]
        # A process without images still reads one, for the shapes.
        samples = [source[index] for index in local or indices[:1]]
        batch = {"count": len(local), "images": len(indices), "canvas": canvas}
        batch |= {key: [sample[key] for sample in samples[: len(local)]] for key in samples[0] if key not in PADDING}
        for key, array in _arrays(samples[0]).items():
            batch[key] = np.empty((local_size, *shape, *array.shape[2:]), array.dtype)
            batch[key][...] = PADDING[key]
            for row, sample in zip(batch[key], samples[: len(local)], strict=False):
                row[: sample[key].shape[0], : sample[key].shape[1]] = sample[key]
        sizes = [sample["image"].shape[:2] for sample in samples[: len(local)]]
        batch["size"] = np.array(sizes + [shape] * (local_size - len(local)), np.int32)
        return batch

    return iter(grain.MapDataset.source(plan).map(load).to_iter_dataset(_read_options(threads)))


def _arrays(sample):
    return {key: sample[key] for key in PADDING if key in sample}


def _batch_of_one(arrays):
    return {key: array[None] for key, array in arrays.items()}


def _local_size(batch_size: int, process_count: int) -> int:
    """The number of images of a batch that each process loads. UserError: the processes cannot share the batch."""
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"{process_count} processes cannot share a batch of {batch_size}: make its size a multiple of {process_count}"
        )
    return batch_size // process_count


def _read_options(threads: int) -> grain.ReadOptions:
    """Grain's options for `threads` threads; 0: the calling thread reads."""
    return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
