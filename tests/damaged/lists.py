"""Lists of splits: train.txt and val.txt in a user's folder."""

import os

from tests.damaged.bench import ErrorLine, Input, prepared, samples, user_folder


def lists(train, val="1\n"):
    """Writes train.txt and val.txt, from text or bytes."""

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


SPLITS = {"train": ["0", "2"], "val": ["1"]}
CASES = {
    "line ends of Windows": (lists("0\r\n2\r\n", "1\r\n"), SPLITS),
    "line ends of old Macs": (lists("0\r2\r", "1\r"), SPLITS),
    "a byte order mark": (lists("\ufeff0\n2\n", "\ufeff1"), SPLITS),
    "blank lines and spaces": (lists("\n\n 0 \n\t2\t\n   \n", "\n1"), SPLITS),
    "no end of the last line": (lists("0\n2"), SPLITS),
    "suffixes": (lists("0.png\n2.PNG\n"), SPLITS),
    "another suffix": (lists("0.jpg\n2.tif\n"), SPLITS),
    "./ before names": (lists("./0\n./2.png\n"), SPLITS),
    "// and ./ within names": (lists(".//0\n././2.png\n"), SPLITS),
    "absolute paths": (absolute, ErrorLine("train.txt line 1: .*no image '/.*/0.png'.*path of one image below images/")),
    "images/ before names": (lists("images/0.png\nimages/2.png\n"), ErrorLine("line 1: .*no image 'images/0.png'")),
    "labels": (lists("labels/0.png\n2\n"), ErrorLine("train.txt line 1: .*no image 'labels/0.png'")),
    "backslashes": (lists("images\\0.png\n2\n"), ErrorLine(r"train.txt line 1: .*no image 'images\\\\0.png'")),
    "..": (lists("../images/0.png\n2\n"), ErrorLine("train.txt line 1: .*no image '../images/0.png'")),
    "quotes": (lists('"0"\n2\n'), ErrorLine("train.txt line 1: .*no image '\"0\"'")),
    "columns": (lists("0,1\n2\n"), ErrorLine("train.txt line 1: .*no image '0,1'")),
    "JSON": (lists('["0", "2"]'), ErrorLine(r"train.txt line 1: .*no image '\[")),
    "a missing name": (lists("0\n2\n7\n"), ErrorLine("train.txt line 3: .*no image '7' below")),
    "a name twice": (lists("0\n2\n0.png\n"), ErrorLine("train.txt line 3: '0.png' .* line 1")),
    "a name in both": (lists("0\n2\n1\n"), {"train": ["0", "2", "1"], "val": ["1"]}),
    "nothing": (lists(""), ErrorLine("train.txt lists no images")),
    "only a byte order mark": (lists("\ufeff"), ErrorLine("train.txt lists no images")),
    "a comment": (lists("# mine\n0\n"), ErrorLine("train.txt line 1: .*no image '# mine'")),
    "a very long line": (lists("x" * 100_000 + "\n0\n"), ErrorLine("train.txt line 1: .*no image 'x")),
    "NUL": (lists(b"0\n2\n\0\n"), ErrorLine("train.txt is not plain text")),
    "escape sequences": (lists("\x1b[31m0\n2\n"), ErrorLine(r"train.txt line 1: .*no image '\\x1b")),
    "Latin-1": (lists(b"stra\xdfe\n0\n"), ErrorLine("train.txt is not UTF-8")),
    "UTF-16": (lists("0\n2\n".encode("utf-16")), ErrorLine("train.txt is not UTF-8|plain text")),
    "an image": (lists(b"\x89PNG\r\n\x1a\n\0\0"), ErrorLine("train.txt is not UTF-8")),
    "no val": (lambda root: (root / "train.txt").write_text("0\n"), ErrorLine("val.txt is missing.*train.txt")),
    "folders": (folders, ErrorLine("train.txt is not a file")),
    "links to nothing": (links, ErrorLine("train.txt is not a file")),
}  # fmt: skip


def reader(make):
    def read(bench, folder):
        root = user_folder(folder)
        make(root)
        return {split: [*labels] for split, labels in samples(prepared(folder, root)).items()}

    return read


INPUTS = [Input("lists", name, reader(make), expected) for name, (make, expected) in CASES.items()]
