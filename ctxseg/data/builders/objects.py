"""COCO's JSON of objects with masks: reads it, checks it, and converts it for the records.

What is invalid is an error. All of them are reported together, a line each, with the JSON file, the annotation and the image:

- a file that is not JSON, is empty, or lacks images, annotations or categories;
- ids that are used twice or are not whole numbers; an annotation of an unlisted image or category;
- a polygon or a box with other than finite numbers, an odd number of coordinates, or a point far outside of the image;
- run lengths of another size than the image's; an annotation without a mask;
- an image that is missing, cannot be decoded, or has another size than the JSON says.

What labelling tools often write, and what has only one meaning, is repaired. It is counted in one warning of each kind (`NOTES`):

- An object whose mask has no pixel is left out, such as a polygon of two points.
- A box without area in the image, or one that does not fit the object's mask, is replaced by that of the mask.
- A box that is partly outside of the image is clipped.

An image without objects is kept: all of it is background.
"""

import json
import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as run_lengths

from ctxseg.data import images
from ctxseg.data.builders import coco
from ctxseg.data.builders.checks import image_fault, orientation
from ctxseg.data.builders.pairs import raise_faults
from ctxseg.data.builders.records import encoded
from ctxseg.data.parallel import each
from ctxseg.files import is_number

FAR = 1.0  # a point farther outside of the image than this many times its side is an error
FITS = 0.5  # minimum IoU of a box and the box of its mask
SMALL = 8  # pixels; boxes of masks with a shorter side are too coarse to compare
NOTES = {
    "empty": "objects without a pixel in their image, such as a polygon of two points, are left out",
    "flat box": "boxes without area in their image are replaced by the box of the mask",
    "other box": "boxes that do not fit their mask are replaced by the box of the mask",
    "clipped": "boxes that reach out of their image are clipped",
    "turned": "objects of images with an EXIF orientation that keeps the image's size are taken to fit the {}",
}


class Image(NamedTuple):
    """An image in a JSON file.

    Attributes:
        id: its id.
        file_name: as in the JSON, with / between folders.
        size: height and width; None if the JSON does not say.
        annotations: dicts of id, category_id, bbox, area, iscrowd and segmentation, as in the JSON, except that polygons may be arrays.
    """

    id: int
    file_name: str
    size: tuple[int, int] | None
    annotations: list


class File(NamedTuple):
    """The contents of a JSON file.

    Attributes:
        path: the file.
        categories: {id: name}.
        parents: the names that categories have as their supercategory.
        images: by id.
    """

    path: Path
    categories: dict
    parents: set
    images: list


class Entry(NamedTuple):
    """An image of a data set.

    Attributes:
        name: in the records.
        path: the image file.
        source: the JSON file.
        image: what the JSON says about it.
    """

    name: str
    path: Path
    source: Path
    image: Image


class Rules(NamedTuple):
    """How annotations become objects.

    Attributes:
        classes: {category id: class id}.
        published: whether the annotations are those of a benchmark. Boxes and objects are then kept as they are wherever possible, so that
            scores can be compared, and an object of an image that EXIF mirrors fits the pixels as stored.
    """

    classes: Mapping[int, int]
    published: bool


def read(path: Path, categories: Mapping[int, str] | None = None) -> tuple[File | None, list[str]]:
    """Reads a JSON file.

    Args:
        path: the file.
        categories: {id: name} of the data set; default: those that the file lists.

    Returns:
        Its contents, None if they are unusable; and its faults, a line each.

    Raises:
        OSError: it cannot be read.
    """
    text = path.read_bytes()
    if not text.strip():
        return None, [f"{path}: the file is empty"]
    try:
        content = json.loads(text, object_hook=_compact)
    except (ValueError, RecursionError) as error:
        return None, [f"{path}: damaged, or not JSON: {' '.join(str(error).split())}"]
    keys = ("images", "annotations", "categories")[: 2 if categories else 3]
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        return None, [f"{path}: expected COCO's JSON with lists of {', '.join(keys)}; missing: {', '.join(missing)}"]
    faults: list[str] = []
    parents: set[str] = set()
    if not categories:
        categories, parents = _categories(content["categories"], path, faults)
    entries = _by_id(content["images"], "image", path, faults)
    by_id = {number: image for number, entry in entries.items() if (image := _image(entry, path, faults))}
    files: dict[str, int] = {}
    for image in by_id.values():
        if files.setdefault(image.file_name, image.id) != image.id:
            faults.append(f"{path} image {image.id}: {image.file_name} is also image {files[image.file_name]}")
    for number, annotation in _by_id(content["annotations"], "annotation", path, faults).items():
        category, image_id = annotation.get("category_id"), annotation.get("image_id")
        if not _is_id(image_id) or image_id not in entries:
            faults.append(f"{path} annotation {number}: there is no image {image_id!r}")
        if not _is_id(category) or category not in categories:
            faults.append(f"{path} annotation {number}: there is no category {category!r}")
        elif _is_id(image_id) and image_id in by_id:
            by_id[image_id].annotations.append(annotation)
    if not content["images"]:
        faults.append(f"{path}: lists no images")
    usable = [by_id[number] for number in sorted(by_id)]
    return File(path, dict(sorted(categories.items())), parents, usable), faults


def check(dataset: str, splits: Mapping[str, Sequence[Entry]], rules: Rules, faults: Iterable[str] = ()) -> None:
    """Decodes all images, converts all annotations, and warns of what is repaired.

    Args:
        dataset: its name, for messages.
        splits: {split: its images}; all of them, so that one run reports every fault.
        rules: how annotations become objects.
        faults: those that are known already, a line each.

    Raises:
        UserError: all faults, see `raise_faults`.
    """
    faults = list(faults)
    notes: dict[str, list] = {}
    entries = [entry for entries in splits.values() for entry in entries]
    for found, repaired in each(lambda entry: _check(entry, rules), entries, f"check {dataset}"):
        faults += found
        for kind, places in repaired.items():
            notes.setdefault(kind, []).extend(places)
    raise_faults(dataset, faults, None)
    for kind, places in notes.items():
        line = NOTES[kind].format("pixels as stored" if rules.published else "upright image")
        print(f"warning: {dataset}: {line}: {len(places)}, the first is {places[0]}", file=sys.stderr)


def examples(label: str, entries: Sequence[Entry], rules: Rules) -> Iterator[dict]:
    """The examples for `records.instance_examples` of images that passed `check`. `label` is for the progress display."""

    def example(entry):
        image, turn = encoded(entry.path)
        stored = orientation(entry.path)[1]
        objects, _, _ = convert(entry, rules, turn, stored)
        return {"image": image, "name": entry.name, "objects": objects}

    return each(example, entries, f"write {label}")


def _check(entry, rules):
    if fault := image_fault(entry.path):
        return [f"{entry.path}: {fault}"], {}
    _, faults, notes = convert(entry, rules, *orientation(entry.path))
    return faults, notes


def convert(entry: Entry, rules: Rules, turn: int, stored: tuple[int, int]) -> tuple[dict, list[str], dict]:
    """The objects of an image.

    Args:
        entry: the image.
        rules: how annotations become objects.
        turn: the EXIF orientation of the file.
        stored: width and height as stored in the file.

    Returns:
        The dict that `records` describes, for the upright image; faults, a line each; and {key of `NOTES`: where it was repaired}.
    """
    height, width = stored[::-1]
    upright = (width, height) if turn > 4 else (height, width)
    ambiguous = turn != 1 and (turn <= 4 or height == width)
    size = entry.image.size or upright
    annotations: list[dict] = []
    objects = {"id": entry.image.id, "height": upright[0], "width": upright[1], "annotations": annotations}
    if size not in (upright, (height, width)):
        fault = f"the image is {upright[1]}x{upright[0]}, but {entry.source.name} says {size[1]}x{size[0]}"
        return objects, [f"{entry.path}: {fault}"], {}
    turns = turn if turn != 1 and (rules.published if ambiguous else size != upright) else 1
    faults: list[str] = []
    notes: dict[str, list] = {"turned": [str(entry.path)]} if ambiguous else {}
    for annotation in entry.image.annotations:
        place = f"{entry.source} annotation {annotation['id']}"
        try:
            found, repairs = _object(annotation, size, rules)
        except ValueError as error:
            faults.append(f"{place}: {error} (image {entry.image.file_name})")
            continue
        for kind in repairs:
            notes.setdefault(kind, []).append(place)
        if found:
            annotations.append(_turned(found, turns))
    return objects, faults, notes


def _object(annotation, size, rules):
    """An annotation as in the records, or None, and the kinds of repairs. ValueError: it is invalid."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        raise ValueError("it has no mask: export polygons or masks (segmentation), not only boxes")
    _check_points(segmentation, size)
    counts = coco.run_lengths(size, segmentation)
    left, top, width, height = run_lengths.toBbox(counts).tolist()
    pixels, repairs = int(run_lengths.area(counts)), []
    given = annotation.get("bbox")
    box = _clipped(given, size) if given else None
    has_area = box is not None and min(box[2:]) > 0
    if not pixels and not (rules.published and has_area):
        return None, ["empty"]
    if given and not has_area:
        repairs, box = ["flat box"], None
    elif box and not rules.published:
        fits = _iou(box, (left, top, width, height)) >= FITS
        if not fits and min(width, height) >= SMALL:
            repairs, box = ["other box"], None
        elif max(abs(a - b) for a, b in zip(box, given, strict=True)) > 1:
            repairs = ["clipped"]
    area = annotation.get("area")
    return {
        "id": annotation["id"],
        "category": rules.classes[annotation["category_id"]],
        "bbox": list(box or (left, top, width, height)),
        "area": float(area) if is_number(area) and area > 0 else float(pixels),
        "iscrowd": int(bool(annotation.get("iscrowd"))),
        "segmentation": {"size": list(size), "counts": counts["counts"].decode()},
    }, repairs


def _check_points(segmentation, size):
    """ValueError for polygons that reach far out of the image, as coordinates of a resized image do."""
    for polygon in segmentation if isinstance(segmentation, list) else []:
        if not isinstance(polygon, array) or not polygon or len(polygon) % 2:
            continue  # `coco.run_lengths` reports what is invalid
        points = np.frombuffer(polygon).reshape(-1, 2)
        sides = np.array(size[::-1])
        far = ((points < -FAR * sides) | (points > (1 + FAR) * sides)).any(1)
        if far.any():
            x, y = points[far][0]
            raise ValueError(
                f"a polygon has the point ({x:g}, {y:g}), but the image is {size[1]}x{size[0]}: is it of another size?"
            )


def _clipped(box, size):
    """The part of a box x, y, width, height that is in the image. ValueError: not four finite numbers."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise ValueError(f"its box is {box}; expected four finite numbers x, y, width, height")
    left, top = max(box[0], 0.0), max(box[1], 0.0)
    right, bottom = min(box[0] + box[2], size[1]), min(box[1] + box[3], size[0])
    if (left, top, right, bottom) == (box[0], box[1], box[0] + box[2], box[1] + box[3]):
        return tuple(map(float, box))  # without the rounding of a sum
    return float(left), float(top), float(right - left), float(bottom - top)


def _iou(box, other):
    """IoU of two boxes x, y, width, height."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    shared = max(width, 0) * max(height, 0)
    total = box[2] * box[3] + other[2] * other[3] - shared
    return shared / total if total else 0.0


def _turned(found, turn):
    """An object of the pixels as stored, for the upright image."""
    if turn == 1:
        return found
    height, width = found["segmentation"]["size"]
    left, top, w, h = found["bbox"]
    mask = images.upright(run_lengths.decode(found["segmentation"]), turn)
    if turn > 4:
        left, top, w, h, height, width = top, left, h, w, width, height
    if turn in (3, 4, 7, 8):
        top = height - top - h
    if turn in (2, 3, 6, 7):
        left = width - left - w
    counts = run_lengths.encode(np.asfortranarray(mask))["counts"].decode()
    return found | {"bbox": [left, top, w, h], "segmentation": {"size": [height, width], "counts": counts}}


def _compact(item):
    """The fields of an annotation that are needed, with polygons in a quarter of the memory; other JSON objects are unchanged."""
    if "image_id" not in item:
        return item
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
    item = {key: item[key] for key in keys if key in item}
    if isinstance(item.get("segmentation"), list):
        item["segmentation"] = [_packed(polygon) for polygon in item["segmentation"]]
    return item


def _packed(polygon):
    """A polygon as an array; unchanged if it is invalid, which is reported later."""
    numbers = isinstance(polygon, list) and all(type(v) in (int, float) and math.isfinite(v) for v in polygon)
    return array("d", polygon) if numbers else polygon


def _is_id(value):
    return type(value) is int


def _by_id(items, kind, path, faults):
    """{id: item} of a list; appends what is wrong with the ids to `faults`."""
    by_id: dict[int, dict] = {}
    for position, item in enumerate(items):
        number = item.get("id") if isinstance(item, dict) else None
        if not _is_id(number):
            faults.append(f"{path} {kind} at position {position}: its id is {number!r}; expected a whole number")
        elif number in by_id:
            faults.append(f"{path}: two entries for {kind} {number}: ids must differ")
        else:
            by_id[number] = item
    return by_id


def _categories(listed, path, faults):
    """{id: name}, and the names that categories have as their supercategory; appends what is wrong to `faults`."""
    categories = _by_id(listed, "category", path, faults)
    ids: dict[str, int] = {}
    for number, category in categories.items():
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            faults.append(f"{path} category {number}: it has no name")
        elif ids.setdefault(name, number) != number:
            faults.append(f"{path} category {number}: its name {name!r} is also that of category {ids[name]}")
    names = {number: str(category.get("name")) for number, category in categories.items()}
    return names, {str(category.get("supercategory")) for category in categories.values()}


def _image(entry, path, faults):
    """An `Image`; None, and a fault, if it is invalid."""
    name, size = entry.get("file_name"), (entry.get("height"), entry.get("width"))
    if not isinstance(name, str) or not name:
        faults.append(f"{path} image {entry['id']}: it has no file_name")
        return None
    if any(size) and not all(type(n) is int and n > 0 for n in size):
        faults.append(f"{path} image {entry['id']}: its height and width are {size}; expected whole numbers above 0")
        return None
    return Image(entry["id"], name.replace("\\", "/"), size if any(size) else None, [])
