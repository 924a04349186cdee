"""Names of image files and folders."""

import contextlib
import io
import os
import shutil
import unicodedata

import numpy as np
from PIL import Image

from ctxseg import commands
from tests.damaged.bench import ErrorLine, Input, label, prepared, samples, user_folder


def renamed(name, label_name=None):
    """Renames image 0, and its label to the same or another name; both are bytes, without suffix."""

    def make(root):
        for kind, new in (("images", name), ("labels", name if label_name is None else label_name)):
            os.rename(root / kind / "0.png", os.fsencode(root / kind) + b"/" + new + b".png")

    return make


def unlabelled(name):
    """Adds an image without a label."""
    return lambda root: Image.new("RGB", (12, 8)).save(os.fsdecode(os.fsencode(root / "images") + b"/" + name), "PNG")


def additional(*names):
    """Adds images with these names, without labels."""

    def make(root):
        for name in names:
            Image.new("RGB", (12, 8)).save(root / "images" / name)

    return make


NFC, NFD = (unicodedata.normalize(form, "café").encode() for form in ("NFC", "NFD"))
LONG = b"x" * 251
CASES = {
    "composed": (renamed(NFC), "café"),
    "decomposed": (renamed(NFD), unicodedata.normalize("NFC", "café")),
    "image composed, label decomposed": (renamed(NFC, NFD), unicodedata.normalize("NFC", "café")),
    "both": (additional(f"{NFC.decode()}.png", f"{NFD.decode()}.png"), ErrorLine("caf.*and .*caf.*same name")),
    "not UTF-8": (renamed(b"stra\xdfe"), r"stra\xdfe"),
    "not UTF-8, without a label": (unlabelled(b"stra\xdfe.png"), ErrorLine(r"images/stra\\udcdfe.png has no label")),
    "spaces": (renamed(b"  my  image "), "  my  image "),
    "a dash first": (renamed(b"--config=x"), "--config=x"),
    "dots": (renamed(b"a.b.c"), "a.b.c"),
    "glob's characters": (renamed(b"[1]*?{a}"), "[1]*?{a}"),
    "percent and braces": (renamed(b"%s {0} $HOME"), "%s {0} $HOME"),
    "quotes": (renamed(b"'\"`"), "'\"`"),
    "markup": (renamed(b"<img src=x>&amp;"), "<img src=x>&amp;"),
    "the maximum length": (renamed(LONG), LONG.decode()),
    "right to left": (renamed("תמונה".encode()), "תמונה"),
    "an emoji": (renamed("🛣".encode()), "🛣"),
    "a line break": (renamed(b"a\nb"), "a\nb"),
    "a line break, without a label": (unlabelled(b"a\nb.png"), ErrorLine(r"images/a\\nb.png has no label")),
    "escape sequences, without a label": (unlabelled(b"\x1b[2Jb.png"), ErrorLine(r"images/\\x1b\[2Jb.png has no label")),
    "a number sign": (renamed(b"#1"), "#1"),
    "a comma": (renamed(b"a,b"), "a,b"),
    "another case": (renamed(b"Img", b"img"), ErrorLine("Img.png has no label")),
    "two suffixes": (renamed(b"0", b"0.jpg"), ErrorLine("images/0.png has no label")),
    "the same name twice": (additional("0.jpg", "0.bmp"), ErrorLine("0.* and .*0.* same name.*remove one")),
    "hidden": (renamed(b".0"), None),
    "only a suffix": (renamed(b""), None),
    "train": (renamed(b"train"), "train"),
    "a file of macOS archives": (unlabelled(b"._0.png"), "0"),
    "not an image": (lambda root: (root / "images/Thumbs.db").write_bytes(b"x"), "0"),
}  # fmt: skip


def reader(make):
    def read(bench, folder):
        root = user_folder(folder)
        make(root)
        labels = {name: x for split in samples(prepared(folder, root)).values() for name, x in split.items()}
        (name,) = set(labels) - {"1", "2", "3"} or {None}
        if name is not None:
            np.testing.assert_array_equal(labels[name], label(0))
        return name

    return read


def run_in(name):
    """What --mode=report prints, on a strict UTF-8 terminal, for a run whose folder has this name."""

    def read(bench, folder):
        run = os.fsdecode(os.fsencode(folder) + b"/" + name)
        shutil.copytree(bench.run, run)
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            commands.main(["main.py", "--mode=report", f"--workdir={run}"])
            out.flush()
        (line,) = out.buffer.getvalue().decode().removeprefix(f"{folder}/").split("/report.html\n")[:-1]
        assert "report.html" in os.listdir(run)
        return line

    return read


RUNS = {"not UTF-8": (b"stra\xdfe", r"stra\udcdfe"), "markup": (b"<b>&amp;", "<b>&amp;")}
INPUTS = [Input("names", what, reader(make), expected) for what, (make, expected) in CASES.items()]
INPUTS += [Input("names", f"a run's folder, {what}", run_in(name), expected) for what, (name, expected) in RUNS.items()]
