"""Your own images and labels, in folders.

    images/…      photographs, any suffix
    labels/…      one for each image, under the same path but for the suffix, and perhaps a `_mask` that all have before it
    classes.txt   a class a line, by id from 0: a name, and for RGB masks (and for pictures) its colour: `road 128 64 128`;
                  or CVAT's labelmap.txt, or Roboflow's _classes.csv

Images are read as `data.images` says; labels are of their pixels as stored, and are turned with a photograph that EXIF turns.
Hidden files are none; links are followed.

Labels are images of ids or colours (see `folder_labels`). A line `ignore`, or `ignore R G B`, is an id, or a colour, that is no class: it
counts nowhere. So is id 255, always. A line that begins with `#` says nothing.

Splits: folders `train` and `val` within images/ and labels/; or lists train.txt and val.txt of paths below images/, without suffix or with
it; or neither, and about every fifth image, chosen by its name, is for validation. With folders or lists, `test` is a third split, if it
has labels; what is in no split is left out. `Training`, `valid`, `Validation` and the like are understood too, see `SPLIT_NAMES`.
"""

import hashlib
import os
import re
import sys
import unicodedata
import zlib
from collections.abc import Callable
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
OTHER_NAMES = {  # of the two folders, in what other tools write
    "images": ("JPEGImages", "image", "imgs", "img"),
    "labels": ("SegmentationClass", "masks", "mask", "annotations", "label"),
}
LABEL_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_L")  # what tools put behind the image's name
SPLIT_NAMES = {  # of folders and lists, in any case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# In folders' names, as train2017 or my_val: not SPLIT_NAMES, but not to be mixed either.
SPLIT_WORD = re.compile(rf"(?<![a-z])(?:({'|'.join(SPLIT_OF)})|dev|eval)(?![a-z])", re.IGNORECASE)


class Folder(tfds.core.GeneratorBasedBuilder):
    """Images and labels of the user's own."""

    name = "folder"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "a folder with images/, labels/ and classes.txt"

    @classmethod
    def fingerprint(cls, manual_dir: Path, digests: Callable = contents.digests) -> str:
        """A digest of the files' names and contents, and of the classes. UserError: one is missing."""
        _check_order(manual_dir)
        require(cls, manual_dir, "images", "labels", _classes_file(manual_dir).name)
        classes = read_classes(_classes_file(manual_dir))
        splits, _ = list_pairs(manual_dir)
        listed = fingerprint_pairs(manual_dir, splits, digests=digests)
        return hashlib.sha256(f"{listed} {classes}".encode()).hexdigest()[:12]

    def _info(self):
        # Classes are known once there is data; TFDS keeps them with it.
        return dataset_info(self, description="Images and labels in folders.", class_names=[], palette=[])

    def _split_generators(self, dl_manager):
        manual_dir = Path(dl_manager.manual_dir)
        classes = read_classes(_classes_file(manual_dir))
        self.info.metadata.update(class_names=classes.names, palette=[list(c) for c in classes.palette])
        splits, notes = list_pairs(manual_dir)
        read = LabelReader(classes)
        faults, total = find_faults(self.name, splits, read)
        others = [fault for fault in faults if UNKNOWN_IDS not in fault]
        if len(others) < len(faults) and (shifted := read.shifted()):
            faults = [shifted, *others]
        raise_faults(self.name, faults, total)
        notes += read.settle()
        if not any(pair.label in read.labelled for pair in splits["train"]):
            raise UserError(
                f"{splits['train'][0].label}: every pixel of this and all other training labels is ignored: "
                f"nothing can be learnt; 255 counts nowhere, nor do the lines 'ignore' of {_classes_file(manual_dir)}"
            )
        for note in notes + _two_class_files(manual_dir) + _turned(splits):
            print(f"warning: {note}", file=sys.stderr)
        return {split: self._generate_examples(split, pairs, read) for split, pairs in splits.items()}

    def _generate_examples(self, split, pairs, read):
        yield from pair_examples(f"{self.name} {split}", pairs, read)


def _classes_file(manual_dir):
    """classes.txt, or what another tool wrote in its place; classes.txt if there is none."""
    names = ("classes.txt", "labelmap.txt", "_classes.csv")
    return next((manual_dir / name for name in names if (manual_dir / name).exists()), manual_dir / names[0])


def _two_class_files(manual_dir):
    """What to warn of: files with classes that are not read, as another is there."""
    read = _classes_file(manual_dir)
    others = [name for name in ("labelmap.txt", "_classes.csv") if name != read.name and (manual_dir / name).exists()]
    return [f"{manual_dir / name} is not read: the classes are those of {read.name}" for name in others]


def _check_order(manual_dir):
    """UserError for train/images, train/labels and so on, where images/train and labels/train are wanted, and for other tools' names."""
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
                f"config.data.manual_dir: {folder} should be {manual_dir / 'images' / split}: {Folder.name} wants folders "
                f"of splits within images/ and labels/, and classes.txt beside these"
            )


def _all(splits):
    return [pair for pairs in splits.values() for pair in pairs]


def _turned(splits):
    """What to warn of: images that EXIF turns or mirrors, where no size shows which way their labels lie."""
    found = [
        pair.image
        for pair in _all(splits)
        for turn, (width, height) in [orientation(pair.image)]
        if turn in (2, 3, 4) or (turn in (5, 6, 7, 8) and width == height)
    ]
    if not found:
        return []
    more = f" and {len(found) - 1} more have" if len(found) > 1 else " has"
    return [
        f"{found[0]}{more} an EXIF orientation: labels must be of the image as it is stored, and are turned with it"
    ]


def list_pairs(manual_dir: Path) -> tuple[dict[str, list[Pair]], list[str]]:
    """The pairs of each split, and what to warn of.

    Args:
        manual_dir: the folder.

    Returns:
        {"train": pairs, "val": pairs, perhaps "test": pairs}; lines.

    Raises:
        UserError: images of a split without labels, labels without images, splits that cannot be told, or a list that cannot be.
        OSError: a folder that cannot be read.
    """
    images, labels = _by_stem(manual_dir / "images"), _by_stem(manual_dir / "labels")
    lists = _lists(manual_dir)
    if not lists:
        images, labels = (
            _by_split(found, manual_dir / kind) for found, kind in ((images, "images"), (labels, "labels"))
        )
    labels = _without_ending(labels, images)
    if not images:
        raise UserError(f"config.data.manual_dir: {manual_dir / 'images'} has no images ({', '.join(SUFFIXES)})")
    known = sorted(images.keys() | labels.keys())
    splits = _by_lists(lists, manual_dir, known) or _by_folders(manual_dir, known) or _by_name(manual_dir, known)
    notes = []
    if "test" in splits and not labels.keys() & set(splits["test"]):
        notes.append(f"{manual_dir}: the split test has no labels: it is left out")
        known = sorted(set(known) - set(splits.pop("test")))
    notes += _overlaps(lists, manual_dir, splits)
    used = {stem for stems in splits.values() for stem in stems}
    rest = [images.get(stem) or labels[stem] for stem in known if stem not in used]
    if rest:
        more = f" and {len(rest) - 1} more are" if len(rest) > 1 else " is"
        notes.append(f"{rest[0]}{more} in no split ({', '.join(splits)}): left out")
    alone = [f"{images[stem]} has no label {_label_of(images[stem], manual_dir)}" for stem in used - labels.keys()]
    alone += [f"{labels[stem]} has no image below {manual_dir / 'images'}" for stem in used - images.keys()]
    raise_faults("config.data.manual_dir", sorted(alone), len(used))
    lossy = sorted(str(labels[stem]) for stem in used if labels[stem].suffix.lower() not in LOSSLESS)
    if lossy:
        raise UserError(f"{lossy[0]}: labels cannot be {Path(lossy[0]).suffix}, which changes values: save them as PNG")
    pairs = {split: [Pair(_text(s), images[s], labels[s]) for s in stems] for split, stems in splits.items()}
    return pairs, notes


def _by_stem(root):
    """{path below `root` without suffix, in NFC: file}. UserError if two files share one; OSError if a folder cannot be read."""
    found = {}
    for path in files.below(root):
        if path.suffix.lower() in SUFFIXES:
            stem = _nfc(path.relative_to(root).with_suffix("").as_posix())
            if stem in found:
                raise UserError(
                    f"config.data.manual_dir: {found[stem]} and {path} have the same name but for the suffix"
                )
            found[stem] = path
    return found


def _nfc(name):
    """A name with é as one character, as some systems write it, and not as the two that others do."""
    return unicodedata.normalize("NFC", name)


def _text(name):
    """A name whose bytes may be no UTF-8, as text that is."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _without_ending(labels, images):
    """The same without a `_mask` that all labels have behind the name, and no image."""
    for ending in LABEL_ENDINGS:
        if all(stem.endswith(ending) for stem in labels) and not any(stem.endswith(ending) for stem in images):
            return {stem.removesuffix(ending): path for stem, path in labels.items()}
    return labels


def _label_of(image, manual_dir):
    """Where the label of an image file would be."""
    return (manual_dir / "labels" / image.relative_to(manual_dir / "images")).with_suffix(".png")


def _lists(manual_dir):
    """{split: the file that lists it}. UserError if two do."""
    found = {}
    for path in sorted(manual_dir.iterdir()):
        split = SPLIT_OF.get(path.stem.lower())
        if split and path.suffix.lower() == ".txt":
            if not path.is_file():  # a folder, or a link to nothing: without it, splits would be others, unsaid
                raise UserError(f"config.data.manual_dir: {path} is not a file: make it a list of images, or remove it")
            found.setdefault(split, []).append(path)
    for split, paths in found.items():
        if len(paths) > 1:
            both = " and ".join(path.name for path in paths)
            raise UserError(f"config.data.manual_dir: {manual_dir} has two lists for {split}, {both}: keep one")
    return {split: found[split][0] for split in SPLIT_NAMES if split in found}


def _by_lists(lists, manual_dir, stems):
    """{split: stems} as the lists have them; None if there are none."""
    if not lists:
        return None
    for split in ("train", "val"):
        if split not in lists:
            there = " and ".join(path.name for path in lists.values())
            raise UserError(
                f"config.data.manual_dir: {manual_dir / split}.txt is missing, but {there} is there: "
                "both train.txt and val.txt are wanted, or neither"
            )
    faults, known = [], set(stems)
    splits = {split: _read_list(path, known, faults) for split, path in lists.items()}
    if faults:
        faults += _overlaps(lists, manual_dir, splits)
    remedy = f"; a line is the path below images/ of one image, with or without suffix, as {stems[0]}"
    total = sum(len(read_lines(path)) for path in lists.values())
    raise_faults("lines of lists", faults, max(total, len(faults)), remedy)
    return splits


def _read_list(path, known, faults):
    """The stems that a list names; `faults` gets what is wrong with its lines."""
    names = {}
    lines = read_lines(path)
    if not lines:
        faults.append(f"{path} lists no images")
    for number, name in lines:
        listed = Path(_nfc(name))
        stem = str(listed.with_suffix("") if listed.suffix.lower() in SUFFIXES else listed)
        if stem not in known:
            faults.append(f"{path} line {number}: there is no image {name!r} below {path.parent / 'images'}")
        elif stem in names:
            faults.append(f"{path} line {number}: {name!r} is in line {names[stem]} already")
        names.setdefault(stem, number)
    return list(names)


def _by_split(found, root):
    """The same, {path below `root` without suffix: file}, with `Training/` and the like as `train/`. UserError for two of one split."""
    folders, renamed = {}, {}
    for stem, path in found.items():
        first, *rest = stem.split("/")
        split = SPLIT_OF.get(first.lower()) if rest else None
        if split and folders.setdefault(split, first) != first:
            both = f"{folders[split]} and {first}"
            raise UserError(f"config.data.manual_dir: {root} has two folders for {split}, {both}: make them one")
        renamed["/".join([split or first, *rest])] = path
    return renamed


def _by_folders(manual_dir, stems):
    """{split: stems} by the first folder of their paths; None if no folder is named as splits are. UserError: some splits' are."""
    found = {split: [stem for stem in stems if stem.startswith(f"{split}/")] for split in SPLIT_NAMES}
    if any(found.values()):
        for split in ("train", "val"):
            if not found[split]:
                there = " and ".join(other for other in found if found[other])
                names = " or ".join(SPLIT_NAMES[split])
                raise UserError(
                    f"config.data.manual_dir: {manual_dir / 'images'} has a folder for {there}, but none for {split} "
                    f"with images: name it {names}, or list the splits in train.txt and val.txt"
                )
        return {split: stems for split, stems in found.items() if stems}
    folders = {"/".join(parts[: i + 1]) for stem in stems for parts in [stem.split("/")] for i in range(len(parts) - 1)}
    words = {folder: SPLIT_WORD.search(folder.rpartition("/")[2]) for folder in sorted(folders)}
    alike = {folder: SPLIT_OF.get(word[0].lower(), "val") for folder, word in words.items() if word}
    if len(set(alike.values())) > 1:
        raise UserError(
            f"config.data.manual_dir: {manual_dir / 'images'} has folders that look like splits, {', '.join([*alike][:4])}: "
            "name them train and val directly below images/ and labels/, or list the splits in train.txt and val.txt"
        )
    return None


def _by_name(manual_dir, stems):
    """{split: stems} by a hash, which keeps an image in its split when others are added; never none of either."""
    if len(stems) < 2:
        raise UserError(
            f"config.data.manual_dir: {manual_dir / 'images'} has one image, but both train and val want one: add another, "
            "or name this one in train.txt and in val.txt"
        )
    hashes = {stem: zlib.crc32(os.fsencode(stem)) for stem in stems}
    val = {stem for stem in stems if hashes[stem] % 5 == 0}
    if len(val) in (0, len(stems)):
        val = {min(stems, key=hashes.get)}
    return {"train": [stem for stem in stems if stem not in val], "val": sorted(val)}


def _overlaps(lists, manual_dir, splits):
    """What to warn of: images that are in two splits, as lists can have them."""
    notes = []
    for one, other in combinations(splits, 2):
        both = sorted(set(splits[one]) & set(splits[other]))
        if both:
            more = f" and {len(both) - 1} more are" if len(both) > 1 else " is"
            names = f"{lists[one].name} and {lists[other].name}"
            notes.append(f"{manual_dir}: {both[0]}{more} in both {names}: {other} shows no new images")
    return notes
