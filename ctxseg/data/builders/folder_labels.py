"""Labels of the user's own data: reads classes.txt and the label files.

A label file has ids or colours, depending on its kind. An id is the number of a line in classes.txt, from 0; a colour is on such a line.

    RGB           colours; ids if all three channels are equal and classes.txt has no colours
    palette       colours, if classes.txt has all that the label uses; else ids. A 1-bit mask has the palette black and white
    grey          ids; grey colours if the values of all labels together are not ids, or are only 0 and 255
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from ctxseg.data.builders.labels import IGNORE, bit_palette, map_ids, open_label
from ctxseg.data.builders.pairs import raise_faults
from ctxseg.data.images import as_stored
from ctxseg.errors import UserError

# Labels of only 0 and 255 have at least this share of 255 if they are masks. Void, such as rims around objects, is less.
VOID_SHARE = 0.05
UNKNOWN_IDS = "label id"  # in all faults that `LabelReader.shifted` can explain
BLACK_AND_WHITE = [0, 0, 0, 255, 255, 255]
Colour: TypeAlias = tuple[int, int, int]


class Classes(NamedTuple):
    """The content of classes.txt.

    Attributes:
        names: the names of the classes.
        palette: their colours.
        ids: {id in a label file: class id, or 255}.
        colours: {(r, g, b) in a label file: class id, or 255}; empty without colours.
    """

    names: list[str]
    palette: list[Colour]
    ids: dict[int, int]
    colours: dict[Colour, int]


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, text) of the lines that are not blank in a UTF-8 file, with or without byte order mark. UserError: not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8") from error
    if "\0" in text:  # UTF-16 without its mark
        raise UserError(f"{path} is not plain text: save it as UTF-8")
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def read_classes(path: Path) -> Classes:
    """Reads classes.txt, or CVAT's labelmap.txt or Roboflow's _classes.csv in its place.

    Raises:
        UserError: all faults at once: fewer than two classes, a name or colour that occurs twice, an invalid or missing colour, an unknown
            heading, ids that do not match the lines, not UTF-8.
    """
    names: list[str] = []
    palette: list[Colour] = []
    ids: dict[int, int] = {}
    colours: dict[Colour, int] = {}
    faults: list[str] = []
    uncoloured: list[tuple[int, str]] = []  # (line, name)
    entries = _without_ids(path, [_entry(*line) for line in _without_heading(path, read_lines(path))])
    for number, name, colour in entries:
        if colour and max(colour) > 255:
            faults.append(f"{path} line {number}: {colour} is not a colour; expected red, green and blue from 0 to 255")
        if name in names:
            faults.append(f"{path} line {number}: {name!r} occurs twice")
        if colour in colours:
            faults.append(f"{path} line {number}: {name!r} has the colour of another class, {colour}")
        if not any(c.isalnum() for c in name):
            faults.append(f"{path} line {number}: {name!r} is not a class; expected a name with letters or digits")
        invalid_colour = not colour and NUMBERS.fullmatch(name)
        if invalid_colour:
            faults.append(
                f"{path} line {number}: {name!r} does not end in a colour; expected red, green and blue from 0 to 255"
            )
        ignored = name.lower() == "ignore"
        target = IGNORE if ignored else len(names)
        ids[len(ids)] = target
        if colour:
            colours[colour] = target
        if not ignored:
            names.append(name)
            palette.append(colour or bit_palette(1, len(ids))[0])
            if not colour and not invalid_colour:
                uncoloured.append((number, name))
    # 'ignore' needs no colour: it may be only an id, and a colour in a label that is on no line is reported anyway.
    if colours:
        remedy = "add one, R G B, as on other lines, or remove the line if it is a heading"
        faults += [f"{path} line {number}: {name!r} has no colour: {remedy}" for number, name in uncoloured]
    raise_faults(f"lines of {path.name}", faults, len(entries))
    if not 1 <= len(names) < IGNORE:
        raise UserError(f"{path} has {len(names)} classes; expected 2 to 254, one per line")
    if len(names) == 1:
        raise UserError(
            f"{path} has only one class, {names[0]!r}: add a line for all other pixels, such as 'background', as they are a class too"
        )
    return Classes(names, palette, ids | {IGNORE: IGNORE}, colours)


# The words of headings: CVAT's "label:color_rgb:parts:actions", Roboflow's "Pixel Value, Class", and the common "name,r,g,b".
ONE_COLUMN = {"class", "classes", "class name", "label", "labels", "name", "names", "category"}
COLUMNS = ONE_COLUMN | {
    *("id", "index", "value", "pixel", "pixel value", "class id", "class index", "label id", "parts", "actions"),
    *("color", "colour", "rgb", "color rgb", "colour rgb", "r", "g", "b", "red", "green", "blue"),
}


def _without_heading(path, lines):
    """`lines` without comments, and without a first line that is a heading. UserError if it could also be a class."""
    lines = [(number, re.sub(r"\s+#(?![0-9a-fA-F]{6}\b).*", "", line)) for number, line in lines if line[0] != "#"]
    number, text = lines[0] if lines else (0, "")
    words = re.sub(r"[_\"-]+", " ", text.lower())
    columns = [" ".join(column.split()) for column in re.split(r"[,:;\t]", words) if column.strip()]
    if len(columns) == 1 and columns[0] in ONE_COLUMN:
        raise UserError(f"{path} line {number}: {text!r} looks like a heading: remove it, or rename the class")
    if len(columns) == 1:
        columns = words.split()
        # These words could be a class, unless the next line has numbers.
        if len(columns) > 1 and COLUMNS.issuperset(columns) and not (lines[1:] and re.search(r"\d", lines[1][1])):
            raise UserError(f"{path} line {number}: {text!r} looks like a heading: remove it, or rename the class")
    return lines[1:] if len(columns) > 1 and COLUMNS.issuperset(columns) else lines


def _entry(number, line):
    """(number, name, colour or None) of a line.

    `road`, `road 128 64 128`, `road,128,64,128`, `road: 128, 64, 128`, `road:128,64,128::`, `road #804080`, `"road","128","64","128"`.
    """
    line = re.sub(r'"([^"]*)"', r"\1", line)
    match = re.fullmatch(r"(.*[^\s,;:])[\s,;:]+#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", line)
    if match:
        return number, match[1], tuple(int(x, 16) for x in match.groups()[1:])
    match = re.fullmatch(r"(.*[^\s,;:]):(?:(\d+),(\d+),(\d+))?:[^:]*:[^:]*", line)  # CVAT's
    if match and match[2] is None:
        return number, match[1], None
    match = match or re.fullmatch(r"(.*[^\s,;:])[\s,;:]+(\d+)[\s,;]+(\d+)[\s,;]+(\d+)", line)
    return (number, match[1], tuple(map(_int, match.groups()[1:]))) if match else (number, line, None)


def _int(digits):
    """The number. Only the first nine digits are read, more than any valid one has: Python refuses thousands of digits."""
    return int(digits[:9])


NUMBERS = re.compile(r".*[^\s,;:](?:[\s,;:]+[-+]?\d*\.?\d+){3}")  # three numbers at the end, like a colour
ID_FIRST = re.compile(r"(?P<id>\d+)(?P<mark>[\s,;:=.)]+)(?P<name>\S.*)")
ID_LAST = re.compile(r"(?P<name>.*[^\s,;:=])(?P<mark>\s*[,;:=\t]\s*)(?P<id>\d+)")  # not after a space: `type 1`
ID_BY_SPACE = re.compile(r"(?P<name>.*\S)(?P<mark>\s+)(?P<id>\d+)")


def _without_ids(path, entries):
    """`entries` without the ids in their names, `0: road` or `road,0`. UserError if these are not the lines' numbers, from 0 in order."""
    for form in (ID_FIRST, ID_LAST):
        matches = [form.fullmatch(name) for _, name, _ in entries]
        if len(matches) > 1 and all(matches[1:]):  # the first may be a heading
            return _checked_ids(path, entries, matches)
    matches = [ID_BY_SPACE.fullmatch(name) for _, name, _ in entries]
    ids = [_int(match["id"]) for match in matches if match]
    # In order, `background 0`, `road 1`, `sky 2` may be names; in another order, they are ids of other lines.
    if len(entries) > 1 and sorted(ids) == list(range(len(entries))) and ids != sorted(ids):
        return _checked_ids(path, entries, matches)
    return entries


def _checked_ids(path, entries, matches):
    first, name = entries[0][:2]
    ids = [_int(match["id"]) for match in matches if match]
    stripped = [match["name"] if match else name for match in matches]
    by_space = any(match["mark"].isspace() for match in matches if match)
    if not matches[0]:
        if by_space and ids != list(range(len(ids))):  # `lane`, `2 lanes`
            return entries
        if ids != list(range(1, len(matches))):
            raise UserError(
                f"{path} line {first}: {name!r} has no id, but the other lines have: remove it if it is a heading"
            )
    elif ids != list(range(len(matches))):
        if by_space and len(set(stripped)) < len(stripped):  # `1 euro`, `2 euro`
            return entries
        place = next(i for i, given_id in enumerate(ids) if given_id != i)
        raise UserError(
            f"{path} line {entries[place][0]}: id {ids[place]}; expected {place}, as ids are the lines' numbers from 0: sort the lines, "
            "and write 'ignore' for an id that is not a class; or choose names that do not begin or end in numbers"
        )
    return [(number, name, colour) for (number, _, colour), name in zip(entries, stripped, strict=True)]


class LabelReader:
    """path → uint8 [H, W], class ids and 255. ValueError for values that are not in `classes`.

    Read all labels once; `settle` then decides for all of them together whether grey values are ids or colours.

    Attributes:
        labelled: files that have a pixel of a class.
    """

    def __init__(self, classes: Classes):
        """`classes`: from `read_classes`."""
        greys = {r: target for (r, g, b), target in classes.colours.items() if r == g == b}
        self.labelled: set[Path] = set()
        self._classes = classes
        self._tables = [classes.ids, {IGNORE: IGNORE} | greys]  # possible meanings of grey values
        self._seen: dict[int, Path] = {}  # {grey value: a file that has it}
        self._masks: dict[Path, float] = {}  # {file of only 0 and 255: share of 255}
        self._void: Path | None = None  # a file that has 255 and a class other than 0

    def __call__(self, path: Path) -> np.ndarray:
        """Reads a label file; safe in several threads."""
        label = self._read(path)
        if (label != IGNORE).any():
            self.labelled.add(path)
        return label

    def _read(self, path):
        with open_label(path) as file:
            mode, values, palette = file.mode, as_stored(file), file.getpalette()
        if mode in ("RGB", "RGBA"):
            values = values[..., :3]
            if self._classes.colours or (values != values[..., :1]).any():
                return _of_colours(values, self._classes)
            return self._of_grey(values[..., 0], path)
        if mode in ("1", "P"):
            values = values.astype(np.uint8)
            table = _of_palette(values, palette or BLACK_AND_WHITE, self._classes)
            return map_ids("folder", values, table) if table else self._of_grey(values, path)
        if mode in ("L", "LA", "I", "I;16", "I;16B"):
            return self._of_grey(values[..., 0] if mode == "LA" else values, path)
        raise ValueError(f"label has pixels of kind {mode}; expected ids in one channel, or colours in three")

    def _of_grey(self, values, path):
        present = np.unique(values).tolist()
        for value in present:
            self._seen.setdefault(value, path)
        if IGNORE in present:
            if {0, IGNORE} >= set(present):
                self._masks[path] = np.mean(values == IGNORE)
            elif max(present) == IGNORE:
                self._void = path
        for table in self._tables:
            if table.keys() >= set(present):
                return map_ids("folder", values, table)
        raise ValueError(_unknown_ids(set(present) - self._classes.ids.keys(), self._classes))

    def settle(self) -> list[str]:
        """Decides that grey values are ids, if all of them are ids, or else grey colours. UserError: neither, or the ids are implausible.

        Returns:
            Warnings, a line each.
        """
        tables = [table for table in self._tables if table.keys() >= self._seen.keys()]
        if self._seen.keys() == {0, IGNORE}:
            tables = [table for table in tables[1:] if 0 in table]
            if not tables:
                raise UserError(
                    f"{self._seen[IGNORE]}: all labels are 0/255 masks, and 255 is ignored: save the object as 1 "
                    "(background, the first line of classes.txt, is 0), "
                    "or use RGB colours: 'background 0 0 0' and 'object 255 255 255' in classes.txt"
                )
        if not tables:
            value = min(self._seen.keys() - self._classes.ids.keys())
            raise UserError(f"{self._seen[value]}: {_unknown_ids({value}, self._classes)}; other labels have ids")
        self._tables = tables[:1]
        return self._mask_warnings() if self._tables[0] is self._classes.ids else []

    def _mask_warnings(self):
        """A warning if some labels have only 0 and 255, and others ids. UserError if 255 is probably not void in them.

        With many classes, the image of such a label has only background and void. With one or two classes, the label is more often a
        mask with a white object, which would be ignored. That is certain if these labels have much 255, but no other label has 255
        beside an object, where void occurs (rims, crops, the camera's frame). A line `ignore` after the last class says that 255 is
        void; then a warning is enough.
        """
        names, ids = self._classes.names, self._classes.ids
        if not self._masks or len(names) > 2:
            return []
        files = sorted(map(str, self._masks))
        examples = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        masks = "label is a 0/255 mask" if len(files) == 1 else "labels are 0/255 masks"
        last = max(i for i, target in ids.items() if target != IGNORE)
        void_declared = len(ids) - 1 > last + 1  # by a line 'ignore' after the last class
        fault = f"{examples}: {len(files)} {masks}, but others have ids, and 255 is ignored"
        remedy = f"save the object as {last} there"
        if not void_declared and self._void is None and np.mean(list(self._masks.values())) >= VOID_SHARE:
            raise UserError(f"{fault}: {remedy}; if 255 is void, add 'ignore' as the last line of classes.txt")
        return [f"{fault}: {remedy}, unless it is void"]

    def shifted(self) -> str | None:
        """A message if the grey values of all labels are ids from 1, while the ids of classes.txt start at 0; else None."""
        ids, count = self._seen.keys() - {IGNORE}, len(self._classes.ids) - 1
        if not ids or min(ids) != 1 or max(ids) not in (count, count + 1):
            return None
        lines = "'ignore' as the first line, and as the last" if max(ids) > count else "'ignore' as the first line"
        return (
            f"{self._seen[1]}: {UNKNOWN_IDS}s start at 1: all labels have 1 to {max(ids)}, never 0, but classes.txt has 0 to {count - 1}: "
            f"add {lines}"
        )


def _unknown_ids(unknown: Iterable[int], classes):
    """The message for ids in a label file that have no line in classes.txt."""
    unknown, count, hint = sorted(unknown), len(classes.ids) - 1, ""
    if unknown == [count]:
        hint = f": if 0 is background, add 'background' (or 'ignore') as the first line; if {count} is void, 'ignore' as the last"
    elif unknown[-1] > IGNORE:
        hint = "; it may be an image of something else"
    ids = ", ".join(map(str, unknown[:5]))
    return f"{UNKNOWN_IDS} {ids}, but classes.txt has {count} lines, for ids 0 to {count - 1}{hint}"


def _of_palette(values, palette, classes):
    """{index: class id, or 255} by the colours of the indices that a label uses; None if the indices are ids. ValueError if neither."""
    used = np.unique(values).tolist()
    colours = {i: tuple(palette[3 * i : 3 * i + 3]) for i in used}
    table = {i: classes.colours[colour] for i, colour in colours.items() if colour in classes.colours}
    unknown = [i for i in used if i not in table and i != IGNORE]
    if table and not unknown:
        return {IGNORE: IGNORE} | table
    conflicting = [i for i in table if table[i] != classes.ids.get(i)]
    if conflicting:
        raise ValueError(
            f"label's palette gives index {conflicting[0]} the colour of another line of classes.txt, but index {unknown[0]} the colour "
            f"{colours[unknown[0]]}, which classes.txt does not have: add it, or save the label as a grey image of ids"
        )
    return None


def _of_colours(values, classes):
    flat = values.reshape(-1, 3).astype(np.int64) @ [65536, 256, 1]
    present, inverse = np.unique(flat, return_inverse=True)
    colours = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in present]
    if not classes.colours:
        examples = ", ".join(str(c) for c in colours[:5])
        raise ValueError(
            f"label is an RGB mask (of {examples}, …), but classes.txt has no colours: write 'name R G B' on each line"
        )
    unknown = [c for c in colours if c not in classes.colours]
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        hint = ": it may have been resized or saved as JPEG"
        if len(unknown) <= len(classes.colours):
            line = " ".join(map(str, unknown[0]))
            hint = f": add a line 'name {line}', or 'ignore {line}'"
        raise ValueError(f"label has the colour {unknown[0]}{more}, which classes.txt does not have{hint}")
    table = np.array([classes.colours[c] for c in colours], np.uint8)
    return table[inverse.reshape(values.shape[:2])]
