"""A user's own folders: what is read, and what is explained."""

import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.data import pipeline
from ctxseg.data.builders import folder
from ctxseg.errors import UserError

LABEL = np.array([[0, 1, 2, 2], [2, 255, 1, 0]], np.uint8)


def write(root, label=LABEL, classes="road\ntree\nsky blue\n", count=12, where="{}", suffix=".png"):
    """`count` images and labels; the first label is `label`, the others `LABEL`."""
    for i in range(count):
        for kind, array in (("images", np.full((2, 4, 3), i, np.uint8)), ("labels", LABEL if i else label)):
            path = root / kind / (where.format(i) + (".jpg" if kind == "images" else suffix))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (root / "classes.txt").write_text(classes)
    return root


def load(root, tmp_path):
    return data.load("folder", tmp_path / "prepared", root)


def test_indexed_labels(tmp_path):
    builder = load(write(tmp_path / "mine"), tmp_path)
    assert builder.info.metadata["class_names"] == ["road", "tree", "sky blue"]
    train, val = (pipeline.source(builder, split) for split in ("train", "val"))
    assert len(train) + len(val) == 12 and 0 < len(val) < 6
    for source in (train, val):
        for i in range(len(source)):
            np.testing.assert_array_equal(source[i]["label"], LABEL)
            assert abs(int(source[i]["image"].mean()) - int(source[i]["name"])) <= 2
    # Read back without the folder: classes are kept with the data.
    again = data.load("folder", tmp_path / "prepared")
    assert (
        again.info.metadata["class_names"] == ["road", "tree", "sky blue"] and len(again.info.metadata["palette"]) == 3
    )


def test_colours_and_an_ignored_one(tmp_path):
    colours = np.array([[10, 0, 0], [0, 20, 0], [0, 0, 30], [9, 9, 9]], np.uint8)
    label = np.array([[0, 1, 2, 3], [3, 3, 1, 0]])
    root = tmp_path / "mine"
    for split in ("train", "val"):
        for kind, array in (("images", np.zeros((2, 4, 3), np.uint8)), ("labels", colours[label])):
            (root / kind / split / "deep").mkdir(parents=True)
            Image.fromarray(array).save(root / kind / split / "deep" / "a.png")
    (root / "classes.txt").write_text("ignore 9, 9, 9\nroad 10 0 0\ntree 0 20 0\n\nsky blue 0 0 30\n")
    builder = load(root, tmp_path)
    assert builder.info.metadata["palette"] == [[10, 0, 0], [0, 20, 0], [0, 0, 30]]
    (sample,) = pipeline.source(builder, "val")
    np.testing.assert_array_equal(sample["label"], np.array([0, 1, 2, 255])[label])
    assert sample["name"] == "val/deep/a"


def test_lists_and_an_ignored_id(tmp_path):
    root = write(tmp_path / "mine", classes="ignore\na\nb\n", count=3)
    (root / "train.txt").write_text("0\n2.jpg\n")
    (root / "val.txt").write_text("1\n")
    builder = load(root, tmp_path)
    assert [s["name"] for s in pipeline.source(builder, "train")] == ["0", "2"]
    (sample,) = pipeline.source(builder, "val")
    np.testing.assert_array_equal(sample["label"], np.array([255, 0, 1] + [255] * 253)[LABEL])


def colour_mask(values):
    return np.repeat(values[..., None], 3, axis=2)


WRONG = {
    "mine/images is missing; folder wants .* images/, labels/ and classes.txt": lambda r: (r / "images").rename(r / "x"),
    "/labels/0.png: label id 3, but .* 3 lines, for ids 0 to 2: if 0 is .* first; if 3 is void, write 'ignore' last": lambda r: write(
        r, np.where(LABEL == 255, 0, LABEL + 1)
    ),
    "/labels/0.png: label id 9, but classes.txt has 3 lines": lambda r: write(r, np.full((2, 4), 9, np.uint8)),
    r"/labels/0.png: label is an RGB mask \(of \(0, 0, 0\), .* has no colours: write 'name R G B'": lambda r: write(
        r, colour_mask(LABEL)
    ),
    r"/labels/0.png: label has the colour \(2, 2, 2\) and 1 more that classes.txt does not have": lambda r: write(
        r, colour_mask(LABEL), "a 0 0 0\nb 1 1 1\n", 1
    ),
    "/labels/0.png: label is 6x5, but its image is 4x2": lambda r: write(r, np.zeros((5, 6), np.uint8)),
    "/labels/3.png: not an image": lambda r: (r / "labels/3.png").write_text("x"),
    "/images/5.jpg has no label .*/labels/5.png": lambda r: (r / "labels/5.png").unlink(),
    "/labels/5.png has no image below": lambda r: (r / "images/5.jpg").unlink(),
    "/labels/0.jpg: labels cannot be .jpg, which changes values: save them as PNG": lambda r: [
        p.rename(p.with_suffix(".jpg")) for p in (r / "labels").iterdir()
    ],
    "classes.txt line 2: 'road' is there twice": lambda r: (r / "classes.txt").write_text("road\nroad\n"),
    "classes.txt line 1: .*300.* is no colour": lambda r: (r / "classes.txt").write_text("road 1 2 300\n"),
    "classes.txt: 1 of 2 lines have no colour": lambda r: (r / "classes.txt").write_text("road 1 2 3\nsky\n"),
    "classes.txt has 0 classes": lambda r: (r / "classes.txt").write_text("\n"),
    "train.txt line 1: there is no image '77'": lambda r: [(r / f"{s}.txt").write_text("77\n") for s in ("train", "val")],
    "mine/val.txt is missing": lambda r: (r / "train.txt").write_text("0\n"),
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_explained(message, tmp_path):
    root = write(tmp_path / "mine")
    WRONG[message](root)
    with pytest.raises(UserError, match=message) as error:
        load(root, tmp_path)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "prepared").rglob("dataset_info.json"))


def test_every_fault_is_named_at_once(tmp_path):
    root = write(tmp_path / "mine")
    for i in (1, 4):
        (root / f"labels/{i}.png").write_text("x")
    with pytest.raises(UserError, match="2 of 12 faulty: .*/labels/1.png.*/labels/4.png"):
        load(root, tmp_path)


def test_splits_do_not_move_when_images_are_added():
    stems = [f"img{i}" for i in range(200)]
    few, many = (folder._split(folder.Path("/nowhere"), stems[:n]) for n in (100, 200))
    assert set(few["val"]) == set(many["val"]) & set(stems[:100])
    assert 20 <= len(many["val"]) <= 60
