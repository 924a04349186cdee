"""Lists of splits: train.txt and val.txt of a user's folder."""

import os

from tests.damaged.bench import Input, Line, mine, prepared, samples


def lists(train, val="1\n"):
    """train.txt and val.txt, text or bytes."""

    def make(root):
        for name, content in (("train", train), ("val", val)):
            (root / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def absolute(root):
    lists(f"{root}/images/0.png\n{root}/images/2.png\n")(root)


def folders(root):
    for name in ("train", "val"):
        (root / f"{name}.txt").mkdir()


def links(root):
    for name in ("train", "val"):
        os.symlink("nowhere.txt", root / f"{name}.txt")


GOOD = {"train": ["0", "2"], "val": ["1"]}
CASES = {
    "line ends of Windows": (lists("0\r\n2\r\n", "1\r\n"), GOOD),
    "line ends of old Macs": (lists("0\r2\r", "1\r"), GOOD),
    "a byte order mark": (lists("\ufeff0\n2\n", "\ufeff1"), GOOD),
    "blank lines and spaces": (lists("\n\n 0 \n\t2\t\n   \n", "\n1"), GOOD),
    "no end of the last line": (lists("0\n2"), GOOD),
    "suffixes": (lists("0.png\n2.PNG\n"), GOOD),
    "another suffix": (lists("0.jpg\n2.tif\n"), GOOD),
    "./ before names": (lists("./0\n./2.png\n"), GOOD),
    "// and ./ within names": (lists(".//0\n././2.png\n"), GOOD),
    "absolute paths": (absolute, Line("train.txt line 1: there is no image '/.*/0.png'.*path below images/")),
    "images/ before names": (lists("images/0.png\nimages/2.png\n"), Line("line 1: there is no image 'images/0.png'")),
    "labels": (lists("labels/0.png\n2\n"), Line("train.txt line 1: there is no image 'labels/0.png'")),
    "backslashes": (lists("images\\0.png\n2\n"), Line(r"train.txt line 1: there is no image 'images\\\\0.png'")),
    "..": (lists("../images/0.png\n2\n"), Line("train.txt line 1: there is no image '../images/0.png'")),
    "quotes": (lists('"0"\n2\n'), Line("train.txt line 1: there is no image '\"0\"'")),
    "columns": (lists("0,1\n2\n"), Line("train.txt line 1: there is no image '0,1'")),
    "JSON": (lists('["0", "2"]'), Line(r"train.txt line 1: there is no image '\[")),
    "a missing name": (lists("0\n2\n7\n"), Line("train.txt line 3: there is no image '7' below")),
    "a name twice": (lists("0\n2\n0.png\n"), Line("train.txt line 3: '0.png' is in line 1 already")),
    "a name in both": (lists("0\n2\n1\n"), {"train": ["0", "2", "1"], "val": ["1"]}),
    "nothing": (lists(""), Line("train.txt lists no images")),
    "a mark alone": (lists("\ufeff"), Line("train.txt lists no images")),
    "a comment": (lists("# mine\n0\n"), Line("train.txt line 1: there is no image '# mine'")),
    "a very long line": (lists("x" * 100_000 + "\n0\n"), Line("train.txt line 1: there is no image 'x")),
    "NUL": (lists(b"0\n2\n\0\n"), Line("train.txt is not plain text")),
    "escape sequences": (lists("\x1b[31m0\n2\n"), Line(r"train.txt line 1: there is no image '\\x1b")),
    "Latin-1": (lists(b"stra\xdfe\n0\n"), Line("train.txt is not UTF-8")),
    "UTF-16": (lists("0\n2\n".encode("utf-16")), Line("train.txt is not UTF-8|plain text")),
    "an image": (lists(b"\x89PNG\r\n\x1a\n\0\0"), Line("train.txt is not UTF-8")),
    "no val": (lambda root: (root / "train.txt").write_text("0\n"), Line("val.txt is missing, but train.txt is there")),
    "folders": (folders, Line("train.txt is not a file")),
    "links to nothing": (links, Line("train.txt is not a file")),
}  # fmt: skip


def reader(make):
    def read(bench, folder):
        root = mine(folder)
        make(root)
        return {split: [*labels] for split, labels in samples(prepared(folder, root)).items()}

    return read


INPUTS = [Input("lists", what, reader(make), right) for what, (make, right) in CASES.items()]
