"""--mode=prepare: the summary of a data set against independent counts; incomplete files never look complete."""

import contextlib
import errno
import json
import os
import re
import resource
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tensorflow_datasets.core import shuffle

from ctxseg import data
from ctxseg.commands import prepare
from ctxseg.data import store, summary
from ctxseg.data.builders import camvid
from ctxseg.errors import UserError
from ctxseg.views import data_summary


def section(data_dir, manual_dir=None, segments=0):
    return ConfigDict(
        {
            "name": "camvid",
            "data_dir": str(data_dir),
            "manual_dir": manual_dir and str(manual_dir),
            "superpixels": segments,
        }
    )


def tree(root, sizes, labels):
    """A CamVid folder whose training images have `sizes` and labels `labels(index, shape)`; validation labels are all void."""
    for split, count in (("train", len(sizes)), ("val", 2)):
        lines = []
        for i in range(count):
            shape = sizes[i] if split == "train" else (8, 9)
            label = labels(i, shape) if split == "train" else np.full(shape, 11, np.uint8)
            for folder, array in ((split, np.zeros((*shape, 3), np.uint8)), (f"{split}annot", label)):
                (root / folder).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(root / folder / f"{split}{i}.png")
            lines.append(f"{split}/{split}{i}.png {split}annot/{split}{i}.png\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return root


def test_the_summary_counts(tmp_path, capsys):
    # Pixels of class 2 in rows 0 and 1, void (11) in row 2, class 0 elsewhere; the third image is all class 5.
    def labels(i, shape):
        label = np.zeros(shape, np.uint8)
        label[:2], label[2] = 2, 11
        return np.full(shape, 5, np.uint8) if i == 2 else label

    folder = prepare.prepare(section(tmp_path / "dd", tree(tmp_path / "cv", [(10, 20), (10, 20), (4, 6)], labels)))
    printed = capsys.readouterr()
    summary = json.loads((Path(folder) / "summary.json").read_text())
    train, val = summary["splits"]["train"], summary["splits"]["val"]
    assert (train["images"], train["sizes"], train["ignored"]) == (3, 2, pytest.approx(40 / 424))
    assert train["height"] == {"min": 4, "median": 10, "max": 10}
    assert train["width"] == {"min": 6, "median": 20, "max": 20}
    names = list(camvid.CLASSES)
    assert train["classes"][names[0]] == {"share": pytest.approx(280 / 384), "pixels": 280, "images": 2, "area": 360}
    assert train["classes"][names[2]] == {"share": pytest.approx(80 / 384), "pixels": 80, "images": 2, "area": 360}
    assert train["classes"][names[5]] == {"share": pytest.approx(24 / 384), "pixels": 24, "images": 1, "area": 24}
    assert val["ignored"] == 1 and val["classes"][names[0]] == {"share": None, "pixels": 0, "images": 0, "area": 0}
    frequencies = {name: (80 / 360, 280 / 360, 1.0)[i] for i, name in enumerate((names[2], names[0], names[5]))}
    builder = data.load("camvid", str(tmp_path / "dd"), None)
    for _ in range(2):  # from the summary, and from the labels
        assert data.summary.frequencies(builder, "train+val") == dict.fromkeys(names, 0.0) | frequencies
        (Path(folder) / "summary.json").unlink(missing_ok=True)
    assert re.search("warning: camvid .*no pixel of Building, Road.* any split", printed.err)
    assert re.search("warning: camvid val .*no labelled pixel", printed.err)
    lines = printed.out.splitlines()
    assert lines[0].split() == ["camvid", "train", "val"] and lines[1].split() == ["images", "3", "2"]
    assert lines[2].split() == ["height", "4..10..10", "8"]
    assert lines[6].split() == ["Sky", "72.9", "%", "2", "img", "-", "0", "img"]
    assert min(Image.open(Path(folder) / "summary.png").size) > 300


def test_one_warning_for_a_class_that_is_in_no_split():
    pixels = {"train": (1, 0, 0), "val": (1, 2, 0)}
    splits = {
        split: {"classes": {name: {"pixels": n} for name, n in zip("abc", counts, strict=True)}}
        for split, counts in pixels.items()
    }
    first, second = summary.warnings({"data": "folder", "splits": splits})
    assert re.match("folder train .*no pixel of b", first) and re.match("folder .*no pixel of c in any split", second)


def test_an_existing_summary_is_read(street, tmp_path, monkeypatch, capsys):
    folder = prepare.prepare(section(tmp_path, street))
    first = capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr(summary, "count", lambda *_: pytest.fail("counted again"))
        assert prepare.prepare(section(tmp_path)) == folder
    assert capsys.readouterr().out == first
    path = Path(folder) / "summary.json"
    complete = path.read_bytes()
    for damaged in (complete[:200], b"[]", b'{"splits": {"train": {}, "val": {}}}'):
        path.write_bytes(damaged)
        prepare.prepare(section(tmp_path))
        assert path.read_bytes() == complete


def test_a_long_list_of_classes_is_shortened():
    counts = summary.Counts(np.ones((3, 2), int), np.arange(256)[::-1], np.ones(256, int), np.ones(256, int))
    names = [f"c{i}" for i in range(100)]
    shortened = {"data": "d", "splits": {"train": summary._of_split(counts, names)}}
    lines = summary.table(shortened).splitlines()
    assert len(lines) == 6 + 15 + 1 + 15
    assert lines[6].startswith("c0 ") and lines[-1].startswith("c99 ") and lines[21] == "… 70 more …"


# 130 classes are drawn in columns; only the first has a bar.
@pytest.mark.parametrize("classes", [3, 130])
def test_a_picture_without_pixels_raises_no_warning(classes, recwarn):
    names, pixels = [f"c{i}" for i in range(classes)], np.zeros(256, int)
    pixels[0] = classes > 3
    counts = summary.Counts(np.ones((3, 2), int), pixels, pixels, pixels)
    empty = {"data": "d", "splits": {split: summary._of_split(counts, names) for split in ("train", "val")}}
    sizes = {split: counts.sizes for split in empty["splits"]}
    data_summary.draw(empty, sizes, [[1, 2, 3]] * classes).canvas.draw()
    assert not [str(w.message) for w in recwarn]


def test_data_without_labelled_pixels(tmp_path):
    root = tree(tmp_path / "cv", [(4, 5)], lambda i, shape: np.full(shape, 11, np.uint8))
    with pytest.raises(UserError, match="^camvid train .*label.*delete .*1.0.0 .*prepare"):
        prepare.prepare(section(tmp_path / "dd", root))


def test_folds_are_checked_for_labels(street, tmp_path, monkeypatch):
    builder = data.load("camvid", tmp_path, street)
    folds = summary.summarise(builder, data_summary.draw)
    folds["splits"] = {f"fold{i}": folds["splits"]["train"] for i in range(2)}
    monkeypatch.setattr(prepare, "summarise", lambda *_: folds)
    assert prepare.prepare(section(tmp_path, street)) == str(builder.data_dir)


@contextlib.contextmanager
def full(size):
    """Limits files to `size` bytes. A larger file is an error of the system, as on a full disk, but with another number."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("what", ["records", "summary", "superpixels"])
def test_a_full_disk_is_reported(what, street, tmp_path):
    if what != "records":
        builder = data.load("camvid", tmp_path, street)
    if what == "superpixels":
        summary.summarise(builder, data_summary.draw)
    with full(4_000 if what == "summary" else 40_000), pytest.raises(UserError) as error:
        prepare.prepare(section(tmp_path, street, 9))
    assert re.search(r"config.data.data_dir.*File too large.*another", str(error.value))
    assert "\n" not in str(error.value)
    names = {path.name for path in tmp_path.glob("**/*")}
    assert ("dataset_info.json" in names) == (what != "records")
    assert ("summary.json" in names) == (what == "superpixels")
    assert not [name for name in names if "incomplete" in name or name.startswith("train-0")]
    folder = Path(prepare.prepare(section(tmp_path, street, 9)))
    assert (folder / "summary.json").exists() and len(list(folder.glob("superpixels-9-*/*.array_record"))) == 2


def test_a_writer_that_fails_silently(street, tmp_path, monkeypatch):
    fsync = os.fsync

    def truncate(descriptor):  # as if the last blocks had not been written
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if "array_record" in path:
            os.truncate(path, 1000)
        fsync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="camvid-.*written"):
        patch.setattr(os, "fsync", truncate)
        data.load("camvid", tmp_path, street)
    assert not list(tmp_path.glob("**/dataset_info.json"))
    assert len(data.load("camvid", tmp_path, street).as_data_source("train")) == 6


def test_large_splits_need_little_memory(street, tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100)  # the default is 1 GB, above which TFDS needs TensorFlow
    monkeypatch.setattr(store, "SHARD", 4)
    builder = data.load("camvid", tmp_path, street)
    assert builder.info.splits["train"].shard_lengths == [4, 2]
    records = builder.as_data_source("train")
    assert [records[i]["name"] for i in range(6)] == [f"train{i}".encode() for i in range(6)]


def test_all_faults_are_listed(tmp_path, capsys):
    root = tree(tmp_path / "cv", [(4, 5)] * 8, lambda i, shape: np.zeros(shape, np.uint8))
    for i in range(7):
        (root / f"train/train{i}.png").write_bytes(b"")
    (root / "trainannot/train0.png").write_bytes(b"text")
    with pytest.raises(UserError, match=r"^camvid: 7 of 10 .*train0.png.*empty.*6 more") as error:
        prepare.prepare(section(tmp_path / "dd", root))
    assert "train1.png" not in str(error.value)
    lines = capsys.readouterr().err.partition("all 7 faults:\n")[2].splitlines()
    assert len(lines) == 8 and "train/train0.png: the file is empty; " in lines[0]
    assert lines[0].endswith("trainannot/train0.png: not an image")
    assert lines[1].strip() == "6 times: the file is empty"  # listed once
    assert lines[2].startswith("    /") and lines[7].endswith("train6.png")
    assert not list((tmp_path / "dd").glob("**/dataset_info.json"))


def test_archives_must_be_unpacked(tmp_path):
    (tmp_path / "CamVid.tar.gz").touch()
    with pytest.raises(UserError, match="CamVid.tar.gz.*unpack.*camvid .*SegNet's"):
        prepare.prepare(section(tmp_path / "dd", tmp_path))


@pytest.mark.parametrize("place", ["manual_dir", "data_dir"])
def test_folders_without_permission_are_reported(place, street, tmp_path, monkeypatch):
    def denied(*args, **kwargs):  # root, who may run the tests, has all permissions
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")

    monkeypatch.setattr(Path, "iterdir" if place == "manual_dir" else "mkdir", denied)
    with pytest.raises(UserError, match=f"config.data.{place}.*/somewhere: Permission denied.*access"):
        data.load("camvid", tmp_path / "dd", street)
