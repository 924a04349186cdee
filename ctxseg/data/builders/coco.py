"""What the builders on COCO 2014 (Lin et al., ECCV 2014) share: its classes, reading its annotations and painting them.

What `manual_dir` is made of: train2014.zip, val2014.zip and annotations_trainval2014.zip, unpacked side by side.
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
_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # ids that COCO has never segmented
CATEGORIES = {i: name for i, name in enumerate(_NAMES, 1) if i not in _UNUSED}  # its 80 classes by category id
SPLITS = {"train": "train2014", "val": "val2014"}
WANTS = "COCO 2014: annotations/instances_train2014.json and instances_val2014.json, train2014/ and val2014/"
DOWNLOADS = Download(
    "coco2014",
    [
        # Checksums as TFDS has them (`url_checksums/coco.txt`).
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


class Picture(NamedTuple):
    """What the annotations say of an image."""

    height: int
    width: int
    objects: list  # of (category id, whether it is a crowd, segmentation: polygons x, y, x, y, … or run lengths)


def fingerprint(builder_cls, manual_dir: Path, digests: Callable = contents.digests) -> str:
    """A digest of the names and contents of both splits' images and annotations. UserError: a file or folder is missing."""
    splits = {}  # {split: [(name, path)]}
    for folder in SPLITS.values():
        annotations, images = _places(builder_cls, manual_dir, folder)
        listed = [(name, f"{images}/{name}") for name in sorted(os.listdir(images))]
        splits[folder] = [("annotations", str(annotations)), *listed]
    found, digest = digests([path for files in splits.values() for _, path in files]), hashlib.sha256()
    for folder, files in splits.items():
        digest.update(f"{folder}\n".encode())
        for name, path in files:
            digest.update(f"{name} {found[path]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:12]


def read(builder_cls, manual_dir: Path, split: str) -> list[Pair]:
    """The pairs of 'train' or 'val', by image id. The key of a pair's label is a `Picture`. Takes about 1.3 GB for train.

    Raises:
        UserError: a file or folder is missing, or the annotations are not COCO's.
    """
    return _read(*_places(builder_cls, manual_dir, SPLITS[split]))


def draw(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """`count` of the pairs (all, if they are fewer), in their order; what is drawn depends on names and seed alone."""
    drawn = sorted(pairs, key=lambda pair: hashlib.sha256(f"{seed} {pair.name}".encode()).digest())[:count]
    names = {pair.name for pair in drawn}
    return [pair for pair in pairs if pair.name in names]


def paint(picture: Picture, ids: Mapping[int, int]) -> np.ndarray:
    """The label map of an image: uint8 [height, width], 0 where no object is.

    Where objects overlap the smaller is on top: it is what is in front more often than not, and it would be lost otherwise. A crowd
    is of its class too, and below all objects, for its outline is loose.

    Args:
        picture: of the image.
        ids: {category id: class id}; objects of other categories are left out.

    Raises:
        ValueError: what is wrong with an object.
    """
    label = np.zeros((picture.height, picture.width), np.uint8, order="F")  # as masks are: faster
    regions = [
        (ids[category], crowd, _run_lengths(picture, segmentation))
        for category, crowd, segmentation in _objects(picture, ids)
    ]
    for class_id, _, region in sorted(regions, key=lambda r: (not r[1], -int(mask.area(r[2])))):
        np.copyto(label, class_id, where=mask.decode(region).view(bool))
    return np.ascontiguousarray(label)


def area(picture: Picture, categories: Container[int]) -> int:
    """The number of an image's pixels that objects of some categories cover. ValueError: what is wrong with an object."""
    regions = [_run_lengths(picture, segmentation) for _, _, segmentation in _objects(picture, categories)]
    return int(mask.area(mask.merge(regions))) if regions else 0


def _objects(picture, categories):
    for category, _, _ in picture.objects:
        if category not in CATEGORIES:
            raise ValueError(f"category id {category} is none of COCO's 80")
    return [item for item in picture.objects if item[0] in categories]


def _run_lengths(picture, segmentation):
    """COCO's compressed run lengths of an object."""
    size = [picture.height, picture.width]
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        if segmentation.get("size") != size:
            raise ValueError(f"an object is {segmentation.get('size')} (height, width), but its image {size}")
        if isinstance(counts, str):
            _check_counts(_unpacked(counts), size)
            return {"size": size, "counts": counts.encode()}
        _check_counts(counts, size)
        return mask.frPyObjects(segmentation, *size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("an object has neither polygons nor run lengths")
    if not all(_numbers(polygon) and len(polygon) % 2 == 0 for polygon in segmentation):
        raise ValueError("an object has a polygon that is no list of numbers x, y, x, y, …")
    polygons = [
        polygon for polygon in segmentation if len(polygon) >= 6
    ]  # some in use have one or two points, and no area
    return (
        mask.merge(mask.frPyObjects(polygons, *size)) if polygons else mask.encode(np.zeros(size, np.uint8, order="F"))
    )


def _check_counts(counts, size):
    """ValueError for run lengths that do not just fill the image: the decoder writes as far as they go, and leaves the rest as it is."""
    if not _numbers(counts) or any(count < 0 for count in counts) or sum(counts) != size[0] * size[1]:
        raise ValueError("the run lengths of an object do not add up to its image")


def _unpacked(text):
    """The run lengths in COCO's compressed form: 5 bits a character from '0', the lowest first, the sixth bit if more follow; from the
    fourth number on, the difference to the one before the last. ValueError for other characters, or if it ends within a number."""
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
    """Whether these are numbers that are somewhere: polygons that go to infinity never end."""
    return isinstance(values, list | array) and all(
        isinstance(value, int | float) and math.isfinite(value) for value in values
    )


def _places(builder_cls, manual_dir, folder):
    """The annotations and the folder of images, which some keep in images/."""
    annotations = f"annotations/instances_{folder}.json"
    require(builder_cls, manual_dir, annotations)
    images = manual_dir / "images" / folder
    if not images.is_dir():
        require(builder_cls, manual_dir, folder)
        images = manual_dir / folder
    return manual_dir / annotations, images


def _compact(item):
    """What is needed of an annotation, its polygons in a quarter of the memory; what is no annotation stays as it is."""
    if "segmentation" not in item:
        return item
    item = {key: item[key] for key in ("image_id", "category_id", "iscrowd", "segmentation") if key in item}
    if isinstance(item["segmentation"], list):
        item["segmentation"] = [
            array("d", p) if _numbers(p) else p for p in item["segmentation"]
        ]  # the others are faults
    return item


def _read(annotations, images):
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"), object_hook=_compact)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{annotations}: damaged, or no JSON: {error}") from error
    try:
        pairs = {
            image["id"]: Pair(
                Path(image["file_name"]).stem,
                images / image["file_name"],
                Part(annotations, Picture(image["height"], image["width"], [])),
            )
            for image in sorted(content["images"], key=lambda image: image["id"])
        }
        for item in content["annotations"]:
            part = item["category_id"], bool(item.get("iscrowd", 0)), item["segmentation"]
            pairs[item["image_id"]].label.key.objects.append(part)
    except (KeyError, TypeError, AttributeError) as error:
        wants = "images (id, file_name, height, width) and annotations (image_id, category_id, segmentation)"
        raise UserError(f"{annotations}: wants COCO's {wants}; stumbled over {error}") from error
    if not pairs:
        raise UserError(f"{annotations}: lists no images")
    return list(pairs.values())
