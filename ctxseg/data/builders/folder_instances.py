"""Your own images with COCO's JSON of objects, as labelling tools export it.

    annotations.json   COCO's JSON: images, annotations with masks, categories
    images/…           the images, by the names in the JSON (file_name)

The JSON of all images may also be result.json, labels.json, instances.json or _annotations.coco.json, in the folder or in annotations/;
annotations/instances_default.json; or the only JSON file there, under any name. Instead, each split may have its own: train.json,
instances_train.json or annotations_train.json, in the folder or in annotations/, also with a year as in instances_train2017.json; or
train/_annotations.coco.json or train/annotations.json, beside the images. val and test have the same, under any of `folder.SPLIT_NAMES`.
That is what CVAT, Label Studio, Roboflow and labelme's labelme2coco.py write.

An image is looked for beside the JSON, in the folder, in images/, and in the folders of the split. If it is in none of them, it is the only
image anywhere in the folder with this name. Other images are not used.

Without val, about every fifth image, chosen by its name, is for validation.

The classes are the categories, by id. A category without objects is not a class if it stands for a group (Roboflow's first) or for the
background (labelme's `_background_`).

Problems, and what is repaired: see `objects`. Objects fit the upright image, as tools show it.
"""

import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import tensorflow_datasets as tfds

from ctxseg.data import contents, files
from ctxseg.data.builders import objects
from ctxseg.data.builders.folder import SPLIT_NAMES, SPLIT_OF, share_by_name
from ctxseg.data.builders.labels import bit_palette
from ctxseg.data.builders.records import dataset_info, instance_examples
from ctxseg.data.images import SUFFIXES
from ctxseg.errors import UserError

_SPLIT = "|".join(sorted(SPLIT_OF, key=len, reverse=True))
# Paths of JSON files below the folder, in lower case.
OF_ALL = re.compile(r"(annotations/)?(_annotations\.coco|annotations|result|labels|instances|instances_default)\.json")
OF_SPLIT = (
    re.compile(
        rf"(annotations/)?(instances_|annotations_)?(?P<split>{_SPLIT})(\d{{4}})?(_annotations|_instances)?\.json"
    ),
    re.compile(rf"(images/)?(?P<split>{_SPLIT})/(_annotations\.coco|_?annotations|result|labels|instances)\.json"),
)
BACKGROUND = ("_background_", "__background__", "__ignore__")  # not objects, if no annotation has them


class FolderInstances(tfds.core.GeneratorBasedBuilder):
    """The user's own images with COCO's JSON of objects."""

    name = "folder_instances"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "a folder with images/ and annotations.json, COCO's JSON of objects; or train.json and val.json in its place"
    )

    @classmethod
    def fingerprint(cls, manual_dir: Path, digests: Callable = contents.digests) -> str:
        """A digest of the JSON files, and of the names and contents of the images they list. UserError: one cannot be used."""
        splits, contents, faults = _listed(manual_dir)
        if faults:  # all others are reported with them
            objects.check(cls.name, splits, _rules(_classes(contents)), faults)
        splits = _split(splits, contents)
        paths = sorted({str(path) for entries in splits.values() for e in entries for path in (e.source, e.path)})
        file_digests, digest = digests(paths), hashlib.sha256()
        for path in paths:
            digest.update(f"{path[len(str(manual_dir)) :]} {file_digests[path]}\n".encode(errors="surrogateescape"))
        for split, entries in sorted(splits.items()):
            digest.update(f"{split} {len(entries)}\n".encode())
        return digest.hexdigest()[:12]

    def _info(self):
        # The classes are set when the data is prepared; TFDS stores them with it.
        return dataset_info(
            self, description="Images with objects in folders.", class_names=[], palette=[], category_ids=[]
        )

    def _split_generators(self, dl_manager):
        manual_dir = Path(dl_manager.manual_dir)
        splits, contents, faults = _listed(manual_dir)
        categories = _classes(contents)
        rules = _rules(categories)
        self.info.metadata.update(
            class_names=list(categories.values()),
            palette=[list(colour) for colour in bit_palette(len(categories), 1)],
            category_ids=list(categories),
        )
        objects.check(self.name, splits, rules, faults)
        splits = _split(splits, contents)
        if not any(entry.image.annotations for entry in splits["train"]):
            raise UserError(
                f"{splits['train'][0].source}: no image of the split train has an object, so nothing can be learnt"
            )
        for warning in _warnings(manual_dir, splits, categories):
            print(f"warning: {self.name}: {warning}", file=sys.stderr)
        return {split: self._generate_examples(split, entries, rules) for split, entries in splits.items()}

    def _generate_examples(self, split, entries, rules):
        yield from instance_examples(self, split, objects.examples(f"{self.name} {split}", entries, rules))


def json_files(manual_dir: Path) -> dict[str, Path]:
    """The JSON file of each split, {"train": …}; or {"": the file of all images}.

    Raises:
        UserError: there is none, there are two for a split, or one for all images and others for splits; or train is missing.
        OSError: a folder that cannot be read.
    """
    found: dict[str, list[Path]] = {}
    for path in files.below(manual_dir):
        name = path.relative_to(manual_dir).as_posix().lower()
        match = next((match for pattern in OF_SPLIT if (match := pattern.fullmatch(name))), None)
        if match or OF_ALL.fullmatch(name):
            found.setdefault(SPLIT_OF[match["split"]] if match else "", []).append(path)
    for split, paths in found.items():
        if len(paths) > 1:
            what = f"the split {split}" if split else "all images"
            both = " and ".join(str(path.relative_to(manual_dir)) for path in paths)
            raise UserError(f"config.data.manual_dir: {manual_dir} has two JSON files for {what}, {both}: keep one")
    chosen = {split: found[split][0] for split in ("", *SPLIT_NAMES) if split in found}
    if not chosen:
        others = [path for folder in ("", "annotations") for path in sorted((manual_dir / folder).glob("*.json"))]
        others = others or [path for path in files.below(manual_dir) if path.suffix.lower() == ".json"]
        if len(others) == 1:
            return {"": others[0]}
        if others:
            raise UserError(
                f"config.data.manual_dir: {manual_dir} has {len(others)} JSON files, but none named like annotations.json or train.json: "
                f"rename COCO's; if there is one for each image, as {others[0]}, convert them to COCO's (labelme: labelme2coco.py)"
            )
        raise UserError(
            f"config.data.manual_dir: {manual_dir} has no JSON file of objects: {FolderInstances.name} expects "
            f"{FolderInstances.MANUAL_DOWNLOAD_INSTRUCTIONS}"
        )
    if len(chosen) > 1 and "" in chosen:
        both = " and ".join(str(path.relative_to(manual_dir)) for path in chosen.values())
        raise UserError(
            f"config.data.manual_dir: {manual_dir} has a JSON file of all images and others of splits, {both}: keep one kind"
        )
    if "" not in chosen and "train" not in chosen:
        existing = " and ".join(str(path.relative_to(manual_dir)) for path in chosen.values())
        raise UserError(f"config.data.manual_dir: {manual_dir} has {existing}, but no JSON file for the split train")
    return chosen


def _listed(manual_dir):
    """{split, or "" for all: its images}, the contents of the JSON files, and all faults that are found without decoding images."""
    contents, splits, faults = [], {}, []
    by_name = {}  # {name of an image file: its paths}
    for path in files.below(manual_dir):
        if path.suffix.lower() in SUFFIXES:
            by_name.setdefault(path.name, []).append(path)
    for split, source in json_files(manual_dir).items():
        content, found = objects.read(source)
        faults += found
        if content is None:
            continue
        contents.append(content)
        folders, paths = _folders(source, manual_dir, split), []
        for image in content.images:
            path, fault = _find(image.file_name, folders, by_name)
            if fault:
                faults.append(f"{source} image {image.id}: {fault}")
            else:
                paths.append((path, image))
        stems = Counter(path.with_suffix("") for path, _ in paths)
        splits[split] = [
            objects.Entry(_name(path, manual_dir, stems[path.with_suffix("")] > 1), path, source, image)
            for path, image in paths
        ]
    return splits, contents, faults + _conflicts(contents)


def _name(path, manual_dir, with_suffix):
    """The name of an image in the records: its path below the folder, or below images/. Bytes that are not UTF-8 are escaped."""
    name = (path if with_suffix else path.with_suffix("")).relative_to(manual_dir).as_posix().removeprefix("images/")
    return os.fsencode(name).decode(errors="backslashreplace")


def _split(splits, contents):
    """{split: its images}, with a share of the images for validation if there is no val. UserError: only one image."""
    if "" not in splits and "val" in splits:
        return splits
    entries = {entry.name: entry for entry in splits.get("") or splits["train"]}
    if len(entries) < 2:
        raise UserError(
            f"{contents[0].path}: lists only one image, but train and val need one each: add another, or give each split its own JSON"
        )
    shares = share_by_name(sorted(entries))
    test = {"test": splits["test"]} if "test" in splits else {}
    return {split: [entries[name] for name in names] for split, names in shares.items()} | test


def _folders(source, manual_dir, split):
    """The folders in which the images of a JSON file may be, the most likely first: those of the split are train, Train, train2017, …"""
    of_split = re.compile(rf"({'|'.join(SPLIT_NAMES[split])})(\d{{4}})?", re.IGNORECASE) if split else None
    parents = [folder for folder in (manual_dir / "images", manual_dir) if folder.is_dir()]
    below = [f for folder in parents for f in sorted(folder.iterdir()) if of_split and of_split.fullmatch(f.name)]
    return [source.parent, *below, *parents]


def _find(file_name, folders, by_name):
    """The path of an image and None, or None and what is wrong."""
    relative = PurePosixPath(file_name)
    if not relative.is_absolute() and ".." not in relative.parts:  # not outside of the folder
        for folder in folders:
            if os.path.isfile(folder / relative):  # False, not an error, for a name that is too long
                return folder / relative, None
    same = by_name.get(relative.name, [])
    if len(same) == 1:
        return same[0], None
    if same:
        return None, f"{file_name} is missing, and {len(same)} images have its name, such as {same[0]}"
    return None, f"{file_name} is missing"


def _conflicts(contents):
    """Faults of categories that differ between the files."""
    faults, names, ids = [], {}, {}
    for content in contents:
        for number, name in content.categories.items():
            if names.setdefault(number, name) != name:
                faults.append(
                    f"{content.path} category {number}: it is {name!r}, but {names[number]!r} in {contents[0].path}"
                )
            elif ids.setdefault(name, number) != number:
                faults.append(
                    f"{content.path} category {number}: {name!r} is category {ids[name]} in {contents[0].path}"
                )
    return faults


def _rules(categories):
    return objects.Rules({category: class_id for class_id, category in enumerate(categories)}, published=False)


def _classes(contents):
    """{category id: name} of the classes."""
    categories = {number: name for content in contents for number, name in content.categories.items()}
    parents = {name for content in contents for name in content.parents}
    used = {a["category_id"] for content in contents for image in content.images for a in image.annotations}
    return {
        number: categories[number]
        for number in sorted(categories)
        if number in used or categories[number] not in (*BACKGROUND, *parents)
    }


def _warnings(manual_dir, splits, categories):
    """What may surprise, a line each: images in two splits, classes and images without objects."""
    paths = {split: {entry.path for entry in entries} for split, entries in splits.items()}
    for first in paths:
        for second in list(paths)[list(paths).index(first) + 1 :]:
            if shared := sorted(paths[first] & paths[second]):
                yield f"images are in both {first} and {second}, which should have different ones: {len(shared)}, the first is {shared[0]}"
    listed = set().union(*paths.values())
    others = [path for path in files.below(manual_dir) if path.suffix.lower() in SUFFIXES and path not in listed]
    if others:
        yield f"images that no JSON file lists are not used: {len(others)}, the first is {others[0]}"
    used = {a["category_id"] for entry in splits["train"] for a in entry.image.annotations}
    if unused := [name for number, name in categories.items() if number not in used]:
        yield f"classes without objects in train cannot be learnt: {len(unused)}, the first is {unused[0]}"
    empty = [entry.path for entries in splits.values() for entry in entries if not entry.image.annotations]
    if empty:
        yield f"images without objects are used, as background: {len(empty)}, the first is {empty[0]}"
