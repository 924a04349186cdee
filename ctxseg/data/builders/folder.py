"""Your own images and labels, in folders.

    images/…      photographs, any suffix
    labels/…      one for each image, under the same path but for the suffix: 8-bit images of ids, or RGB masks
    classes.txt   a class a line, by id from 0: a name, and for RGB masks (and for pictures) its colour: `road 128 64 128`

A line `ignore`, or `ignore R G B`, is an id, or a colour, that is no class: it counts nowhere. So is id 255, always.

Splits: folders `train` and `val` within images/ and labels/; or lists train.txt and val.txt of paths below images/, without suffix or with
it; or neither, and every fifth image, chosen by its name, is for validation.
"""

import re
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from ctxseg.data.builders import common
from ctxseg.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


class Classes(NamedTuple):
    """What classes.txt says.

    Attributes:
        names: of the classes.
        palette: their colours.
        ids: {id in a label file: class id, or 255}.
        colours: {(r, g, b) in an RGB mask: class id, or 255}; empty without colours.
    """

    names: list[str]
    palette: list[tuple[int, int, int]]
    ids: dict[int, int]
    colours: dict[tuple[int, int, int], int]


class Folder(tfds.core.GeneratorBasedBuilder):
    """Images and labels of the user's own."""

    name = "folder"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "a folder with images/, labels/ and classes.txt"

    @classmethod
    def fingerprint(cls, manual_dir: Path) -> str:
        """A digest of the files' names and sizes, and of the classes. UserError: one is missing."""
        common.require(cls, manual_dir, "images", "labels", "classes.txt")
        classes = read_classes(manual_dir / "classes.txt")
        listed = common.fingerprint_pairs(manual_dir, list_pairs(manual_dir))
        return f"{zlib.crc32(f'{listed} {classes}'.encode()):08x}"

    def _info(self):
        # Classes are known once there is data; TFDS keeps them with it.
        return common.dataset_info(self, description="Images and labels in folders.", class_names=[], palette=[])

    def _split_generators(self, dl_manager):
        manual_dir = Path(dl_manager.manual_dir)
        classes = read_classes(manual_dir / "classes.txt")
        self.info.metadata.update(class_names=classes.names, palette=[list(c) for c in classes.palette])
        splits = list_pairs(manual_dir)
        read = label_reader(classes)
        common.check_splits(self.name, splits, {split: len(pairs) for split, pairs in splits.items()}, read)
        return {split: self._generate_examples(split, pairs, read) for split, pairs in splits.items()}

    def _generate_examples(self, split, pairs, read):
        yield from common.pair_examples(f"{self.name} {split}", pairs, read)


def read_classes(path: Path) -> Classes:
    """Reads classes.txt. UserError: no class, one twice, a colour that is none, or that two classes have."""
    names, palette, ids, colours = [], [], {}, {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        found = re.fullmatch(r"(.*\S)\s+(\d+)[\s,]+(\d+)[\s,]+(\d+)", line.strip())
        name = found[1].rstrip(",") if found else line.strip()
        colour = tuple(map(int, found.groups()[1:])) if found else None
        if colour and max(colour) > 255:
            raise UserError(f"{path} line {number}: {colour} is no colour: red, green and blue are 0 to 255")
        if name in names:
            raise UserError(f"{path} line {number}: {name!r} is there twice")
        if colour in colours:
            raise UserError(f"{path} line {number}: {name!r} has the colour of another class, {colour}")
        target = common.IGNORE if name.lower() == "ignore" else len(names)
        ids[len(ids)] = target
        if colour:
            colours[colour] = target
        if target != common.IGNORE:
            names.append(name)
            palette.append(colour or common.bit_palette(1, len(ids))[0])
    if not 1 <= len(names) < common.IGNORE:
        raise UserError(f"{path} has {len(names)} classes: it wants one a line, 1 to 254 in all")
    without = len(ids) - len(colours)
    if colours and without:
        raise UserError(f"{path}: {without} of {len(ids)} lines have no colour: give all of them one, or none")
    return Classes(names, palette, ids | {common.IGNORE: common.IGNORE}, colours)


def list_pairs(manual_dir: Path) -> dict[str, list[common.Pair]]:
    """{"train": pairs, "val": pairs}. UserError: images without labels, labels without images, or a split that has none."""
    images, labels = (_by_stem(manual_dir / folder) for folder in ("images", "labels"))
    if not images:
        raise UserError(f"config.data.manual_dir: {manual_dir / 'images'} has no images ({', '.join(SUFFIXES)})")
    alone = [
        f"{images[stem]} has no label {manual_dir / 'labels' / stem}.png" for stem in images.keys() - labels.keys()
    ]
    alone += [f"{labels[stem]} has no image below {manual_dir / 'images'}" for stem in labels.keys() - images.keys()]
    common.raise_faults("config.data.manual_dir", sorted(alone), len(images.keys() | labels.keys()))
    lossy = sorted(str(p) for p in labels.values() if p.suffix.lower() not in LOSSLESS)
    if lossy:
        raise UserError(f"{lossy[0]}: labels cannot be {Path(lossy[0]).suffix}, which changes values: save them as PNG")
    splits = {
        split: [common.Pair(stem, images[stem], labels[stem]) for stem in stems]
        for split, stems in _split(manual_dir, sorted(images)).items()
    }
    for split, pairs in splits.items():
        if not pairs:
            raise UserError(f"config.data.manual_dir: {manual_dir} has no images for the split {split}")
    return splits


def _by_stem(folder):
    """{path below `folder` without suffix: file}. UserError if two files share one."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            stem = path.relative_to(folder).with_suffix("").as_posix()
            if stem in found:
                raise UserError(
                    f"config.data.manual_dir: {found[stem]} and {path} have the same name but for the suffix"
                )
            found[stem] = path
    return found


def _split(manual_dir, stems):
    """{split: names}: by lists, by folders, or by name."""
    lists = {split: manual_dir / f"{split}.txt" for split in ("train", "val")}
    there = [split for split, path in lists.items() if path.is_file()]
    if there:
        common.require(Folder, manual_dir, "train.txt", "val.txt")
        return {split: _read_list(path, stems) for split, path in lists.items()}
    first = {stem.split("/")[0] for stem in stems if "/" in stem}
    if {"train", "val"} <= first:
        return {split: [stem for stem in stems if stem.startswith(f"{split}/")] for split in lists}
    if first & {"train", "val"}:
        missing = ({"train", "val"} - first).pop()
        raise UserError(f"config.data.manual_dir: {manual_dir / 'images'} has no folder {missing}")
    val = {stem for stem in stems if zlib.crc32(stem.encode()) % 5 == 0}
    return {"train": [stem for stem in stems if stem not in val], "val": sorted(val)}


def _read_list(path, stems):
    known, names = set(stems), []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if name := line.strip():
            stem = str(Path(name).with_suffix("")) if Path(name).suffix.lower() in SUFFIXES else name
            if stem not in known:
                raise UserError(f"{path} line {number}: there is no image {name!r} below {path.parent / 'images'}")
            names.append(stem)
    return names


def label_reader(classes: Classes):
    """path → uint8 [H, W], class ids and 255; it raises ValueError for what `classes` does not explain."""

    def read(path):
        with Image.open(path) as file:
            mode, values = file.mode, np.asarray(file)
        if mode in ("RGB", "RGBA"):
            return _of_colours(values[..., :3], classes)
        if mode in ("L", "P", "I;16", "I"):
            return _of_ids(values, classes)
        raise ValueError(f"label has pixels of kind {mode}, but must have ids in one channel, or colours in three")

    return read


def _of_ids(values, classes):
    count = len(classes.ids) - 1
    unknown = np.setdiff1d(values, list(classes.ids))
    if not unknown.size:
        return common.map_ids("folder", values, classes.ids)
    hint = ""
    if unknown.tolist() == [count]:
        hint = f": if 0 is background, write 'background' (or 'ignore') first; if {count} is void, write 'ignore' last"
    elif set(np.unique(values)) <= {0, 255} or values.max() > 255:
        hint = "; is it a mask of two colours, or an image of something else?"
    ids = ", ".join(map(str, unknown[:5]))
    raise ValueError(f"label id {ids}, but classes.txt has {count} lines, for ids 0 to {count - 1}{hint}")


def _of_colours(values, classes):
    flat = values.reshape(-1, 3).astype(np.int64) @ [65536, 256, 1]
    present, inverse = np.unique(flat, return_inverse=True)
    colours = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in present]
    if not classes.colours:
        seen = ", ".join(str(c) for c in colours[:5])
        raise ValueError(
            f"label is an RGB mask (of {seen}, …), but classes.txt has no colours: write 'name R G B' in each line"
        )
    unknown = [c for c in colours if c not in classes.colours]
    if unknown:
        hint = ": was it resized or saved as JPEG?" if len(unknown) > len(classes.colours) else ""
        raise ValueError(
            f"label has the colour {unknown[0]} and {len(unknown) - 1} more that classes.txt does not have{hint}"
        )
    table = np.array([classes.colours[c] for c in colours], np.uint8)
    return table[inverse.reshape(values.shape[:2])]
