import fcntl
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.data import pipeline, store
from ctxseg.data.builders import camvid, records
from ctxseg.data.builders.labels import map_ids
from ctxseg.data.builders.records import pair_examples
from ctxseg.errors import UserError

LABEL = np.uint8([[0, 1, 11, 2], [10, 5, 3, 11], [4, 6, 7, 8]])
CLASSES = np.uint8([[0, 1, 255, 2], [10, 5, 3, 255], [4, 6, 7, 8]])  # LABEL with void ignored
SPLITS = {"train": ["b", "a", "c"], "val": ["d"]}


def picture(name):
    return np.random.default_rng(ord(name)).integers(0, 256, (*LABEL.shape, 3)).astype(np.uint8)


def write_tree(root, splits=SPLITS):
    """Writes the official layout, with the official prefix in its lists."""
    for split, names in splits.items():
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
        for name in names:
            Image.fromarray(picture(name)).save(root / split / f"{name}.png")
            Image.fromarray(LABEL).save(root / f"{split}annot" / f"{name}.png")
        lines = [f"/SegNet/CamVid/{split}/{name}.png /SegNet/CamVid/{split}annot/{name}.png\n" for name in names]
        (root / f"{split}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def tree(tmp_path):
    return write_tree(tmp_path / "CamVid")


def test_samples_are_the_files(tree, tmp_path, capsys):
    builder = data.load("camvid", tmp_path / "cache", tree)
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {"train": 3, "val": 1}
    for split, names in SPLITS.items():
        source = pipeline.source(builder, split)
        assert [sample["name"] for sample in source] == names  # in the list's order
        for index, name in enumerate(names):
            np.testing.assert_array_equal(source[index]["image"], picture(name))
            np.testing.assert_array_equal(source[index]["label"], CLASSES)
            assert source[index]["image"].dtype == source[index]["label"].dtype == np.uint8
            assert source.size(index) == (3, 4)

    metadata = builder.info.metadata
    assert len(metadata["class_names"]) == len(metadata["palette"]) == 11
    assert metadata["class_names"][:4] == ["Sky", "Building", "Pole", "Road"] and metadata["palette"][8] == [64, 0, 128]
    assert metadata["groups"] == {} and metadata["fingerprint"] in str(builder.data_dir)
    assert "tensorflow" not in sys.modules
    assert capsys.readouterr().out == ""  # stdout is for results


def test_an_existing_test_split_is_used(tmp_path):
    tree = write_tree(tmp_path / "CamVid", SPLITS | {"test": ["e", "f"]})
    source = pipeline.source(data.load("camvid", tmp_path / "cache", str(tree)), "test")
    assert [sample["name"] for sample in source] == ["e", "f"]


def test_builds_of_several_folders_are_kept_apart(tree, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    with pytest.raises(UserError, match="config.data.manual_dir .*camvid .*cache"):
        data.load("camvid", cache)
    first = data.load("camvid", cache, tree)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_build", None)  # building would fail
        assert data.load("camvid", cache).data_dir == first.data_dir
        assert data.load("camvid", cache, None).info.metadata == first.info.metadata
        moved = shutil.move(tree, tmp_path / "elsewhere")
        assert data.load("camvid", cache, moved).data_dir == first.data_dir

    with monkeypatch.context() as patch:
        patch.chdir(moved)
        assert camvid.CamVid.fingerprint(Path(".")) == first.info.metadata["fingerprint"]

    second = data.load("camvid", cache, write_tree(tmp_path / "other", {"train": ["x"], "val": ["y"]}))
    assert second.data_dir != first.data_dir
    assert [sample["name"] for sample in pipeline.source(second, "val")] == ["y"]
    assert [sample["name"] for sample in pipeline.source(data.load("camvid", cache, moved), "val")] == ["d"]
    with pytest.raises(UserError, match="config.data.manual_dir .*several folders of camvid .*delete"):
        data.load("camvid", cache)
    with open(moved / "valannot/d.png", "ab") as file:
        file.write(b"more")  # a file of another size is another data set
    assert camvid.CamVid.fingerprint(moved) != first.info.metadata["fingerprint"]
    with pytest.raises(UserError, match="config.data.name is 'camvit'.*scenes, .*camvid, "):
        data.load("camvit", cache)


def edit_label(tree, value):
    label = LABEL.copy()
    label[1, 1] = value
    Image.fromarray(label).save(tree / "trainannot/a.png")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


BAD = {
    "no folder": (shutil.rmtree, r"^config.data.manual_dir: \S*/CamVid does not exist; camvid .*SegNet's CamVid"),
    "empty folder": (lambda t: (shutil.rmtree(t), t.mkdir()), r"manual_dir: .*CamVid is empty; camvid .*Seg"),
    "a file": (lambda t: (shutil.rmtree(t), t.write_text("")), r"manual_dir: .*CamVid is not a folder; camvid .*Seg"),
    "no list": (lambda t: (t / "val.txt").unlink(), r"manual_dir: .*CamVid/val.txt is missing; camvid .*Seg"),
    "empty list": (lambda t: (t / "val.txt").write_text("\n"), r"CamVid/val.txt lists no images"),
    "bad line": (
        lambda t: (t / "val.txt").write_text("val/d.png\n"),
        r"val.txt line 1: .*'folder/image.png folder/label.png'.*'val/d.png'",
    ),
    "no label": (lambda t: (t / "trainannot/a.png").unlink(), r"^\S*/trainannot/a.png is missing$"),
    "no labels": (
        lambda t: shutil.rmtree(t / "trainannot"),
        r"^config.data.manual_dir: 3 of 8 .*: \S*/trainannot/b.png is missing; .*a.png is .*; .*c.png is missing$",
    ),
    "id": (lambda t: edit_label(t, 37), r"^\S*/trainannot/a.png: label id 37, but camvid has 0\.\.10 and 11 \(void\)$"),
    "truncated image": (lambda t: truncate(t / "val/d.png"), r"^\S*/val/d.png: .*[Tt]runcated"),
    "truncated label": (lambda t: truncate(t / "valannot/d.png"), r"^\S*/valannot/d.png: "),
    "not an image": (lambda t: (t / "val/d.png").write_text("hello"), r"^\S*/val/d.png: not an image$"),
    "sizes": (
        lambda t: Image.fromarray(LABEL[:2]).save(t / "valannot/d.png"),
        r"^\S*/valannot/d.png: label is 4x2, but its image is 4x3$",
    ),
    "colour label": (
        lambda t: Image.fromarray(picture("d")).save(t / "valannot/d.png"),
        r"^\S*/valannot/d.png: .*kind RGB.*one channel of 8 bits$",
    ),
    "16-bit label": (
        lambda t: cv2.imwrite(str(t / "valannot/d.png"), LABEL.astype(np.uint16)),
        r"^\S*/valannot/d.png: .*kind I;16.*one channel of 8 bits$",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_folders_are_reported(fault, tree, tmp_path):
    spoil, message = BAD[fault]
    spoil(tree)
    with pytest.raises(UserError) as raised:
        data.load("camvid", tmp_path / "cache", tree)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)
    assert not list(tmp_path.glob("cache/**/1.0.0*")), "a faulty build must leave nothing behind"


def test_faults_of_all_splits_are_counted(tmp_path):
    tree = write_tree(tmp_path / "CamVid", {"train": list("abcdef"), "val": list("gh")})
    for path in [*tree.glob("trainannot/*"), tree / "valannot/g.png"]:
        Image.fromarray(np.full_like(LABEL, 99)).save(path)
    fault = r"\S*/trainannot/a\.png: label id 99, but camvid has [^;]*"
    with pytest.raises(UserError, match=rf"^camvid: 7 of 8 .*: {fault}; and 6 more.*above$"):
        data.load("camvid", tmp_path / "cache", tree)


def test_the_right_folder_is_suggested(tree, tmp_path):
    with pytest.raises(UserError, match=rf"train.txt is missing; did you mean {tree}\?"):
        data.load("camvid", tmp_path / "cache", tree.parent)


def test_an_interrupted_build_starts_over(tree, tmp_path, monkeypatch):
    cache = tmp_path / "cache"

    def interrupted(*args):
        yield from list(examples(*args))[:1]
        raise KeyboardInterrupt

    examples = pair_examples
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(records, "pair_examples", interrupted)
        data.load("camvid", cache, tree)
    assert not list(cache.glob("**/*array_record*"))
    with pytest.raises(UserError, match="config.data.manual_dir .*camvid"):
        data.load("camvid", cache)

    leftover = cache / "camvid" / camvid.CamVid.fingerprint(tree) / "incomplete.ABC123_1.0.0"  # left by SIGKILL
    leftover.mkdir(parents=True)
    (leftover / "camvid-train.array_record-00000-of-00001").write_bytes(b"half")
    with pytest.raises(UserError, match="config.data.manual_dir .*camvid"):
        data.load("camvid", cache)
    assert len(pipeline.source(data.load("camvid", cache, tree), "train")) == 3
    assert not leftover.exists()


def test_a_second_process_waits_for_the_first(tree, tmp_path):
    folder = tmp_path / "cache" / "camvid" / camvid.CamVid.fingerprint(tree)
    folder.mkdir(parents=True)
    thread = threading.Thread(target=data.load, args=("camvid", tmp_path / "cache", tree))
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread.start()
        time.sleep(0.3)
        assert thread.is_alive() and not list(folder.glob("*1.0.0"))
    thread.join()
    assert (folder / "1.0.0/dataset_info.json").exists()


def test_an_unwritable_cache_is_reported(tree, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match="camvid .*config.data.data_dir=.*cache: "):
        data.load("camvid", tmp_path / "cache", tree)


def test_unusual_files_decode_correctly(tree, tmp_path):
    palette = Image.fromarray(LABEL).convert("P")
    palette.putdata(LABEL.ravel().tolist())
    palette.putpalette([7, 8, 9] * 256)
    palette.save(tree / "trainannot/b.png")  # ids with a palette
    Image.fromarray(picture("a")[..., 0]).save(tree / "train/a.png")  # a grey photograph
    exif = Image.Exif()
    exif[0x0112] = 6  # a rotated camera; the label fits the pixels as stored
    Image.fromarray(np.full((3, 4, 3), (250, 10, 10), np.uint8)).save(tree / "train/c.png", format="JPEG", exif=exif)

    source = pipeline.source(data.load("camvid", tmp_path / "cache", tree), "train")
    np.testing.assert_array_equal(source[0]["label"], CLASSES)
    np.testing.assert_array_equal(source[1]["image"], np.repeat(picture("a")[..., :1], 3, axis=2))
    assert source[2]["image"].shape == (4, 3, 3)  # upright, like its label
    np.testing.assert_array_equal(source[2]["label"], np.rot90(CLASSES, -1))
    np.testing.assert_allclose(source[2]["image"][1, 1], (250, 10, 10), atol=6)


def test_ids_of_any_number_type():
    ids = {-1: 255, 0: 7, 300: 0}
    for values in (np.int16([[-1, 300, 0]]), np.float64([[-1, 300, 0]])):
        np.testing.assert_array_equal(map_ids("x", values, ids), [[255, 0, 7]])
    np.testing.assert_array_equal(map_ids("x", np.uint8([[0, 0]]), ids), [[7, 7]])
    for values in (np.uint8([[0, 255]]), np.uint64([[0, 2**63]]), [[0, 0.5]], [[0, np.nan]], [[0, 301]], [[0, -2]]):
        unknown = str(np.asarray(values)[0, 1])
        with pytest.raises(ValueError, match=rf"label id {unknown}, but x has 0, 300 and -1 \(void\)$"):
            map_ids("x", np.asarray(values), ids)


def test_a_damaged_record_is_reported(tree, tmp_path):
    builder = data.load("camvid", tmp_path / "cache", tree)
    (path,) = (tmp_path / "cache").glob("**/*train*array_record*")
    content = bytearray(path.read_bytes())
    start = content.index(b"PNG", content.index(b"PNG") + 1)  # in the second record, or the first's label
    content[start : start + 20] = b"\x55" * 20
    path.write_bytes(content)
    with pytest.raises(UserError, match="camvid train: record [0-2] .*delete .*1.0.0"):
        list(pipeline.source(builder, "train"))
