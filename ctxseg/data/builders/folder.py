"""Your own images and labels, in folders.

    images/…      photographs, with any image suffix
    labels/…      a label for each image, with the same path except for the suffix; all names may have an ending such as `_mask`
    classes.txt   one class per line, by id from 0: a name, and for RGB masks and pictures its colour: `road 128 64 128`;
                  or CVAT's labelmap.txt, or Roboflow's _classes.csv

Images are read by the rules of `data.images`. Labels fit the pixels as stored. If EXIF rotates an image, its label is rotated too.
Hidden files are skipped; links are followed.

Labels are images of ids or colours (see `folder_labels`). The id or the colour of a line `ignore`, or `ignore R G B`, is ignored, and so is
id 255. Lines that begin with `#` are comments.

Splits: folders `train` and `val` in images/ and labels/; or lists train.txt and val.txt of paths below images/, with or without suffix;
without either, about every fifth image, chosen by its name, is for validation. With folders or lists, `test` is a third split, if it has
labels; images in no split are left out. Names such as `Training`, `valid` and `Validation` are accepted too, see `SPLIT_NAMES`.
"""

import hashlib
import os
import re
import sys
import unicodedata
import zlib
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import tensorflow_datasets as tfds

from ctxseg.data import contents, files
from ctxseg.data.builders.checks import find_faults, orientation
from ctxseg.data.builders.folder_labels import UNKNOWN_IDS, LabelReader, read_classes, read_lines
from ctxseg.data.builders.pairs import Pair, fingerprint_pairs, raise_faults, require
from ctxseg.data.builders.records import dataset_info, pair_examples
from ctxseg.data.images import SUFFIXES
from ctxseg.errors import UserError

LOSSLESS = (".bmp", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff")
OTHER_NAMES = {  # other tools' names of the two folders
    "images": ("JPEGImages", "image", "imgs", "img"),
    "labels": ("SegmentationClass", "masks", "mask", "annotations", "label"),
}
# Endings that other tools add to the name of an image for its label.
LABEL_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_L")
# Names of the folders and lists of splits, in upper or lower case.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# In names of folders such as train2017 or my_val: not in SPLIT_NAMES, but their images must not be mixed.
SPLIT_WORD = re.compile(rf"(?<![a-z])(?:({'|'.join(SPLIT_OF)})|dev|eval)(?![a-z])", re.IGNORECASE)


class Folder(tfds.core.GeneratorBasedBuilder):
    """The user's own images and labels."""

    name = "folder"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "a folder with images/, labels/ and classes.txt"

    @classmethod
    def fingerprint(cls, manual_dir: Path, digests: Callable = contents.digests) -> str:
        """A digest of the files' names and contents, and of the classes. UserError: a file is missing."""
        _check_kind(manual_dir)
        _check_order(manual_dir)
        require(cls, manual_dir, "images", "labels", _classes_file(manual_dir).name)
        classes = read_classes(_classes_file(manual_dir))
        splits, _ = list_pairs(manual_dir)
        files_fingerprint = fingerprint_pairs(manual_dir, splits, digests=digests)
        return hashlib.sha256(f"{files_fingerprint} {classes}".encode()).hexdigest()[:12]

    def _info(self):
        # The classes are set when the data is prepared; TFDS stores them with it.
        return dataset_info(self, description="Images and labels in folders.", class_names=[], palette=[])

    def _split_generators(self, dl_manager):
        manual_dir = Path(dl_manager.manual_dir)
        classes = read_classes(_classes_file(manual_dir))
        self.info.metadata.update(class_names=classes.names, palette=[list(c) for c in classes.palette])
        splits, warnings = list_pairs(manual_dir)
        read = LabelReader(classes)
        faults, total = find_faults(self.name, splits, read)
        others = [fault for fault in faults if UNKNOWN_IDS not in fault]
        if len(others) < len(faults) and (shifted := read.shifted()):
            faults = [shifted, *others]
        raise_faults(self.name, faults, total)
        warnings += read.settle()
        if not any(pair.label in read.labelled for pair in splits["train"]):
            raise UserError(
                f"{splits['train'][0].label}: every pixel of this and all other training labels is ignored, so nothing can be learnt: "
                f"use other ids than 255 and those of the lines 'ignore' in {_classes_file(manual_dir)}"
            )
        for warning in warnings + _unused_class_files(manual_dir) + _turned(splits):
            print(f"warning: {warning}", file=sys.stderr)
        return {split: self._generate_examples(split, pairs, read) for split, pairs in splits.items()}

    def _generate_examples(self, split, pairs, read):
        yield from pair_examples(f"{self.name} {split}", pairs, read)


def _classes_file(manual_dir):
    """classes.txt, or another tool's file in its place; classes.txt if there is none."""
    names = ("classes.txt", "labelmap.txt", "_classes.csv")
    return next((manual_dir / name for name in names if (manual_dir / name).exists()), manual_dir / names[0])


def _unused_class_files(manual_dir):
    """Warnings about files of classes that are not used, as there is another one."""
    used = _classes_file(manual_dir)
    others = [name for name in ("labelmap.txt", "_classes.csv") if name != used.name and (manual_dir / name).exists()]
    return [f"{manual_dir / name} is not used: the classes are those of {used.name}" for name in others]


def _check_kind(manual_dir):
    """UserError for a folder of objects for instance segmentation, as labelling tools export it."""
    if (manual_dir / "labels").exists():
        return
    for pattern in ("*.json", "annotations/*.json", "*/_annotations.coco.json"):
        if found := sorted(manual_dir.glob(pattern)):
            raise UserError(
                f"config.data.manual_dir: {found[0]} has objects for instance segmentation, which needs another --config, such as "
                f"configs/mask_rcnn.py:folder; for semantic segmentation, {manual_dir / 'labels'} must have label images"
            )


def _check_order(manual_dir):
    """UserError for train/images, train/labels and so on in place of images/train and labels/train, and for other tools' names."""
    for kind, others in OTHER_NAMES.items():
        for name in others:
            if (manual_dir / name).is_dir() and not (manual_dir / kind).exists():
                raise UserError(f"config.data.manual_dir: {manual_dir / name} should be {manual_dir / kind}: rename it")
    if (manual_dir / "images").exists():
        return
    for folder in sorted(manual_dir.glob("*/images")):
        split = folder.parent.name
        if split.lower() in SPLIT_OF:
            raise UserError(
                f"config.data.manual_dir: {folder} should be {manual_dir / 'images' / split}: move the folders of splits into images/ "
                f"and labels/, and classes.txt beside these"
            )


def _all(splits):
    return [pair for pairs in splits.values() for pair in pairs]


def _turned(splits):
    """A warning about images that EXIF rotates or mirrors, if they keep their size.

    The size then does not show whether a label fits the stored or the upright image.
    """
    turned = [
        pair.image
        for pair in _all(splits)
        for turn, (width, height) in [orientation(pair.image)]
        if turn in (2, 3, 4) or (turn in (5, 6, 7, 8) and width == height)
    ]
    if not turned:
        return []
    have = f" and {len(turned) - 1} more have" if len(turned) > 1 else " has"
    return [f"{turned[0]}{have} an EXIF orientation: labels must fit the image as stored, and are rotated with it"]


def list_pairs(manual_dir: Path) -> tuple[dict[str, list[Pair]], list[str]]:
    """The pairs of each split, and warnings.

    Args:
        manual_dir: the folder.

    Returns:
        {"train": pairs, "val": pairs, perhaps "test": pairs}; warnings, a line each.

    Raises:
        UserError: images of a split without labels, labels without images, unclear splits, or an invalid list.
        OSError: a folder that cannot be read.
    """
    images, labels = _by_stem(manual_dir / "images"), _by_stem(manual_dir / "labels")
    lists = _lists(manual_dir)
    if not lists:
        images, labels = (
            _by_split(paths, manual_dir / kind) for paths, kind in ((images, "images"), (labels, "labels"))
        )
    labels = _without_ending(labels, images)
    if not images:
        raise UserError(f"config.data.manual_dir: {manual_dir / 'images'} has no images ({', '.join(SUFFIXES)})")
    stems = sorted(images.keys() | labels.keys())
    splits = _by_lists(lists, manual_dir, stems) or _by_folders(manual_dir, stems) or _by_name(manual_dir, stems)
    warnings = []
    if "test" in splits and not labels.keys() & set(splits["test"]):
        warnings.append(f"{manual_dir}: the split test has no labels: it is left out")
        stems = sorted(set(stems) - set(splits.pop("test")))
    warnings += _overlaps(lists, manual_dir, splits)
    used = {stem for split in splits.values() for stem in split}
    unused = [images.get(stem) or labels[stem] for stem in stems if stem not in used]
    if unused:
        are = f" and {len(unused) - 1} more are" if len(unused) > 1 else " is"
        warnings.append(f"{unused[0]}{are} in no split ({', '.join(splits)}): left out")
    faults = [f"{images[stem]} has no label {_label_of(images[stem], manual_dir)}" for stem in used - labels.keys()]
    faults += [f"{labels[stem]} has no image below {manual_dir / 'images'}" for stem in used - images.keys()]
    raise_faults("config.data.manual_dir", sorted(faults), len(used))
    lossy = sorted(str(labels[stem]) for stem in used if labels[stem].suffix.lower() not in LOSSLESS)
    if lossy:
        raise UserError(
            f"{lossy[0]}: labels cannot be {Path(lossy[0]).suffix} files, which may change values: save them as PNG"
        )
    pairs = {split: [Pair(_text(s), images[s], labels[s]) for s in stems] for split, stems in splits.items()}
    return pairs, warnings


def _by_stem(root):
    """{path below `root` without suffix, in NFC: file}. UserError if two files share one; OSError if a folder cannot be read."""
    paths = {}
    for path in files.below(root):
        if path.suffix.lower() in SUFFIXES:
            stem = _nfc(path.relative_to(root).with_suffix("").as_posix())
            if stem in paths:
                raise UserError(
                    f"config.data.manual_dir: {paths[stem]} and {path} have the same name except for the suffix: remove one"
                )
            paths[stem] = path
    return paths


def _nfc(name):
    """A name with é as one character; some systems write two."""
    return unicodedata.normalize("NFC", name)


def _text(name):
    """A name as valid text; bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _without_ending(labels, images):
    """`labels` without an ending such as `_mask` that all labels have and no image has."""
    for ending in LABEL_ENDINGS:
        if all(stem.endswith(ending) for stem in labels) and not any(stem.endswith(ending) for stem in images):
            return {stem.removesuffix(ending): path for stem, path in labels.items()}
    return labels


def _label_of(image, manual_dir):
    """Where the label of an image file would be."""
    return (manual_dir / "labels" / image.relative_to(manual_dir / "images")).with_suffix(".png")


def _lists(manual_dir):
    """{split: the file that lists it}. UserError if there are two for a split."""
    lists = {}
    for path in sorted(manual_dir.iterdir()):
        split = SPLIT_OF.get(path.stem.lower())
        if split and path.suffix.lower() == ".txt":
            # A folder or a broken link: skipping it would silently change the splits.
            if not path.is_file():
                raise UserError(f"config.data.manual_dir: {path} is not a file: make it a list of images, or remove it")
            lists.setdefault(split, []).append(path)
    for split, paths in lists.items():
        if len(paths) > 1:
            both = " and ".join(path.name for path in paths)
            raise UserError(f"config.data.manual_dir: {manual_dir} has two lists for {split}, {both}: keep one")
    return {split: lists[split][0] for split in SPLIT_NAMES if split in lists}


def _by_lists(lists, manual_dir, stems):
    """{split: stems} from the lists; None if there are none."""
    if not lists:
        return None
    for split in ("train", "val"):
        if split not in lists:
            existing = " and ".join(path.name for path in lists.values())
            raise UserError(
                f"config.data.manual_dir: {manual_dir / split}.txt is missing, but there is {existing}: "
                "give both train.txt and val.txt, or neither"
            )
    faults, existing_stems = [], set(stems)
    splits = {split: _read_list(path, existing_stems, faults) for split, path in lists.items()}
    if faults:
        faults += _overlaps(lists, manual_dir, splits)
    remedy = f"; expected the path of one image below images/ on each line, with or without suffix, such as {stems[0]}"
    total = sum(len(read_lines(path)) for path in lists.values())
    raise_faults("lines of the lists of splits", faults, max(total, len(faults)), remedy)
    return splits


def _read_list(path, existing_stems, faults):
    """The stems in a list. Appends the faults of its lines to `faults`."""
    first_lines = {}  # {stem: number of its first line}
    lines = read_lines(path)
    if not lines:
        faults.append(f"{path} lists no images")
    for number, name in lines:
        entry = Path(_nfc(name))
        stem = str(entry.with_suffix("") if entry.suffix.lower() in SUFFIXES else entry)
        if stem not in existing_stems:
            faults.append(f"{path} line {number}: there is no image {name!r} below {path.parent / 'images'}")
        elif stem in first_lines:
            faults.append(f"{path} line {number}: {name!r} is already on line {first_lines[stem]}")
        first_lines.setdefault(stem, number)
    return list(first_lines)


def _by_split(paths, root):
    """{path below `root` without suffix: file}, with folders such as `Training/` renamed to `train/`. UserError: two folders of a split."""
    folders, renamed = {}, {}
    for stem, path in paths.items():
        first, *rest = stem.split("/")
        split = SPLIT_OF.get(first.lower()) if rest else None
        if split and folders.setdefault(split, first) != first:
            both = f"{folders[split]} and {first}"
            raise UserError(f"config.data.manual_dir: {root} has two folders for {split}, {both}: merge them")
        renamed["/".join([split or first, *rest])] = path
    return renamed


def _by_folders(manual_dir, stems):
    """{split: stems} by the first folder of their paths; None if no folder is named like a split. UserError: only some splits have one."""
    splits = {split: [stem for stem in stems if stem.startswith(f"{split}/")] for split in SPLIT_NAMES}
    if any(splits.values()):
        for split in ("train", "val"):
            if not splits[split]:
                existing = " and ".join(other for other in splits if splits[other])
                names = " or ".join(SPLIT_NAMES[split])
                raise UserError(
                    f"config.data.manual_dir: {manual_dir / 'images'} has a folder for {existing}, but none for {split} "
                    f"with images: name it {names}, or list the splits in train.txt and val.txt"
                )
        return {split: stems for split, stems in splits.items() if stems}
    folders = {"/".join(parts[: i + 1]) for stem in stems for parts in [stem.split("/")] for i in range(len(parts) - 1)}
    words = {folder: SPLIT_WORD.search(folder.rpartition("/")[2]) for folder in sorted(folders)}
    split_by_folder = {folder: SPLIT_OF.get(word[0].lower(), "val") for folder, word in words.items() if word}
    if len(set(split_by_folder.values())) > 1:
        raise UserError(
            f"config.data.manual_dir: {manual_dir / 'images'} has folders that look like splits, {', '.join([*split_by_folder][:4])}: "
            "name them train and val directly below images/ and labels/, or list the splits in train.txt and val.txt"
        )
    return None


def _by_name(manual_dir, stems):
    if len(stems) < 2:
        raise UserError(
            f"config.data.manual_dir: {manual_dir / 'images'} has only one image, but train and val need one each: add another, "
            "or list this one in both train.txt and val.txt"
        )
    return share_by_name(stems)


def share_by_name(names: Sequence[str]) -> dict[str, list[str]]:
    """{"train": names, "val": about every fifth of two or more names}, by a hash: names keep their splits when others are added."""
    hashes = {name: zlib.crc32(os.fsencode(name)) for name in names}
    val = {name for name in names if hashes[name] % 5 == 0}
    if len(val) in (0, len(names)):
        val = {min(names, key=hashes.__getitem__)}
    return {"train": [name for name in names if name not in val], "val": sorted(val)}


def _overlaps(lists, manual_dir, splits):
    """Warnings about images that are listed in two splits."""
    warnings = []
    for first, second in combinations(splits, 2):
        shared = sorted(set(splits[first]) & set(splits[second]))
        if shared:
            are = f" and {len(shared) - 1} more are" if len(shared) > 1 else " is"
            names = f"{lists[first].name} and {lists[second].name}"
            warnings.append(f"{manual_dir}: {shared[0]}{are} in both {names}: {second} should have only new images")
    return warnings
