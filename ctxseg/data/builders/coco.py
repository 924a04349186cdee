"""Shared by the builders on COCO 2014 (Lin et al., ECCV 2014): its classes, and reading and painting its annotations.

`manual_dir` has train2014.zip, val2014.zip and annotations_trainval2014.zip, unpacked side by side.
"""

import hashlib
import json
import math
import os
from array import array
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask

from ctxseg.data import contents
from ctxseg.data.builders.pairs import Pair, Part, require
from ctxseg.data.download import Archive, Download
from ctxseg.errors import UserError

_NAMES = [
    name.strip()
    for name in """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street sign, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, hat, backpack, umbrella, shoe,
eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, mirror, dining table, window, desk, toilet,
door, tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, blender, book, clock,
vase, scissors, teddy bear, hair drier, toothbrush
""".replace("\n", " ").split(",")
]
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids of categories that COCO has not segmented
CATEGORIES = {i: name for i, name in enumerate(_NAMES, 1) if i not in _UNUSED}  # its 80 classes by category id
SPLITS = {"train": "train2014", "val": "val2014"}
INSTRUCTIONS = "COCO 2014: annotations/instances_train2014.json and instances_val2014.json, train2014/ and val2014/"
DOWNLOADS = Download(
    "coco2014",
    [
        # Checksums from TFDS (`url_checksums/coco.txt`).
        Archive(
            "http://images.cocodataset.org/zips/train2014.zip",
            "sha256:ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
        ),
        Archive(
            "http://images.cocodataset.org/zips/val2014.zip",
            "sha256:fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        ),
        Archive(
            "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
            "sha256:031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        ),
    ],
)


class ImageAnnotations(NamedTuple):
    """The annotations of an image.

    Attributes:
        height: of the image.
        width: of the image.
        objects: list of (category id, whether it is a crowd, segmentation: polygons x, y, x, y, … or run lengths).
    """

    height: int
    width: int
    objects: list


def fingerprint(
    builder_cls, manual_dir: Path, digests: Callable = contents.digests, folders: Sequence[str] = tuple(SPLITS.values())
) -> str:
    """A digest of the names and contents of both splits' images and annotations. UserError: a file or folder is missing."""
    splits = {}  # {split: [(name, path)]}
    for folder in folders:
        annotations, images = paths(builder_cls, manual_dir, folder)
        image_files = [(name, f"{images}/{name}") for name in sorted(os.listdir(images))]
        splits[folder] = [("annotations", str(annotations)), *image_files]
    file_digests, digest = digests([path for files in splits.values() for _, path in files]), hashlib.sha256()
    for folder, files in splits.items():
        digest.update(f"{folder}\n".encode())
        for name, path in files:
            digest.update(f"{name} {file_digests[path]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:12]


def read(builder_cls, manual_dir: Path, split: str) -> list[Pair]:
    """The pairs of 'train' or 'val', by image id. The key of a pair's label is its `ImageAnnotations`. Train needs about 1.3 GB.

    Raises:
        UserError: a file or folder is missing, or the annotations are not in COCO's format.
    """
    return _read(*paths(builder_cls, manual_dir, SPLITS[split]))


def draw(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """Draws `count` of the pairs (all, if there are fewer), in their order. The choice depends only on names and seed."""
    drawn = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed} {pair.name}".encode()).digest())[:count]
    names = {pair.name for pair in drawn}
    return [pair for pair in pairs if pair.name in names]


def paint(image: ImageAnnotations, ids: Mapping[int, int]) -> np.ndarray:
    """The label map of an image: uint8 [height, width], 0 where there is no object.

    Where objects overlap, the smaller one is on top: it is usually in front, and would be lost otherwise. A crowd has its class too,
    below all objects, as its outline is loose.

    Args:
        image: its annotations.
        ids: {category id: class id}; objects of other categories are left out.

    Raises:
        ValueError: an object is invalid.
    """
    label = np.zeros((image.height, image.width), np.uint8, order="F")  # the order of masks, which is faster
    regions = [
        (ids[category], crowd, run_lengths((image.height, image.width), segmentation))
        for category, crowd, segmentation in _objects(image, ids)
    ]
    for class_id, _, region in sorted(regions, key=lambda r: (not r[1], -int(mask.area(r[2])))):
        np.copyto(label, class_id, where=mask.decode(region).view(bool))
    return np.ascontiguousarray(label)


def area(image: ImageAnnotations, categories: Container[int]) -> int:
    """The number of pixels that objects of these categories cover in an image. ValueError: an object is invalid."""
    regions = [
        run_lengths((image.height, image.width), segmentation) for _, _, segmentation in _objects(image, categories)
    ]
    return int(mask.area(mask.merge(regions))) if regions else 0


def _objects(image, categories):
    for category, _, _ in image.objects:
        if category not in CATEGORIES:
            raise ValueError(f"category id {category} is not one of COCO's 80")
    return [item for item in image.objects if item[0] in categories]


def run_lengths(size: Sequence[int], segmentation) -> dict:
    """COCO's compressed run lengths, {"size", "counts": bytes}, of an object in an image of `size` (height, width).

    `segmentation` is a list of polygons x, y, x, y, …, or run lengths of either kind. ValueError: it is invalid.
    """
    size = list(size)
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        if segmentation.get("size") != size:
            raise ValueError(f"an object's mask is {segmentation.get('size')} (height, width), but its image is {size}")
        if isinstance(counts, str):
            _check_counts(_unpacked(counts), size)
            return {"size": size, "counts": counts.encode()}
        _check_counts(counts, size)
        return mask.frPyObjects(segmentation, *size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("an object has neither polygons nor run lengths")
    if not all(_numbers(polygon) and len(polygon) % 2 == 0 for polygon in segmentation):
        raise ValueError("an object has a polygon that is not a list of numbers x, y, x, y, …")
    # Some of COCO's polygons have one or two points, and no area.
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        return mask.encode(np.zeros(size, np.uint8, order="F"))
    return mask.merge(mask.frPyObjects(polygons, *size))


def _check_counts(counts, size):
    """ValueError for run lengths that do not fill the image exactly: the decoder writes as many pixels as they say, and no others."""
    whole = _numbers(counts) and all(count >= 0 and count == int(count) for count in counts)
    if not whole or sum(counts) != size[0] * size[1]:
        raise ValueError("the run lengths of an object do not add up to the number of its image's pixels")


def _unpacked(text):
    """Decodes COCO's compressed run lengths.

    A character's code minus 48 ('0') has 5 bits of a number, lowest first. A sixth bit says that more follow. From the fourth number on,
    the difference from the number before the previous one is stored. ValueError: another character, or the text ends within a number.
    """
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError("the run lengths of an object are not in COCO's compressed form")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)  # the sign
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise ValueError("the run lengths of an object are not in COCO's compressed form")
    return counts


def _numbers(values):
    """Whether these are finite numbers: drawing a polygon to infinity never ends."""
    return isinstance(values, list | array) and all(
        isinstance(value, int | float) and math.isfinite(value) for value in values
    )


def paths(builder_cls, manual_dir: Path, folder: str) -> tuple[Path, Path]:
    """The paths of the annotations and of a folder of images, such as train2014, which may be in images/. UserError: one is missing."""
    annotations = f"annotations/instances_{folder}.json"
    require(builder_cls, manual_dir, annotations)
    images = manual_dir / "images" / folder
    if not images.is_dir():
        require(builder_cls, manual_dir, folder)
        images = manual_dir / folder
    return manual_dir / annotations, images


def _compact(item):
    """The fields of an annotation that are needed, with polygons in a quarter of the memory; other JSON objects are unchanged."""
    if "segmentation" not in item:
        return item
    item = {key: item[key] for key in ("image_id", "category_id", "iscrowd", "segmentation") if key in item}
    if isinstance(item["segmentation"], list):
        # Invalid polygons are reported later.
        item["segmentation"] = [array("d", p) if _numbers(p) else p for p in item["segmentation"]]
    return item


def _read(annotations, images):
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"), object_hook=_compact)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{annotations}: damaged, or not JSON: {error}") from error
    try:
        pairs = {
            image["id"]: Pair(
                Path(image["file_name"]).stem,
                images / image["file_name"],
                Part(annotations, ImageAnnotations(image["height"], image["width"], [])),
            )
            for image in sorted(content["images"], key=lambda image: image["id"])
        }
        for item in content["annotations"]:
            part = item["category_id"], bool(item.get("iscrowd", 0)), item["segmentation"]
            pairs[item["image_id"]].label.key.objects.append(part)
    except (KeyError, TypeError, AttributeError) as error:
        expected = "images (id, file_name, height, width) and annotations (image_id, category_id, segmentation)"
        raise UserError(f"{annotations}: expected COCO's {expected}; missing or invalid: {error}") from error
    if not pairs:
        raise UserError(f"{annotations}: lists no images")
    return list(pairs.values())
