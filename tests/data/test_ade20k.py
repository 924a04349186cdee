import re

import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.data import pipeline
from ctxseg.errors import UserError

IDS = np.uint8([[0, 1, 2], [150, 149, 7]])
CLASSES = np.uint8([[255, 0, 1], [149, 148, 6]])
NAMES = {"training": ["ADE_train_00000002", "ADE_train_00000001"], "validation": ["ADE_val_00000001"]}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for folder, names in NAMES.items():
        for kind in ("images", "annotations"):
            (root / kind / folder).mkdir(parents=True)
        for name in names:
            Image.fromarray(np.full((2, 3, 3), 50, np.uint8)).save(root / f"images/{folder}/{name}.jpg")
            Image.fromarray(IDS).save(root / f"annotations/{folder}/{name}.png")
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n")
    return root


def test_samples_are_the_files(tree, tmp_path, capsys):
    (tree / "images/training/._ADE_train_00000001.jpg").write_text("written by macOS")
    Image.fromarray(np.full((2, 3), 50, np.uint8)).save(tree / "images/training/ADE_train_00000001.jpg")  # grey
    builder = data.load("ade20k", tmp_path / "cache", tree)
    err = capsys.readouterr().err
    assert "ade20k train has 2 images, 20208 fewer than the 20210" in err
    assert "ade20k val has 1 images, 1999 fewer than the 2000" in err
    train, val = (pipeline.source(builder, split) for split in ("train", "val"))
    assert [sample["name"] for sample in [*train, *val]] == [*sorted(NAMES["training"]), *NAMES["validation"]]
    for sample in [*train, *val]:
        np.testing.assert_array_equal(sample["label"], CLASSES)
        assert sample["image"].shape == (2, 3, 3) and abs(int(sample["image"].mean()) - 50) < 3

    names, palette = builder.info.metadata["class_names"], builder.info.metadata["palette"]
    assert len(names) == len(set(names)) == len(palette) == 150 and all(name == name.strip() for name in names)
    assert [(names[i], palette[i]) for i in (0, 12, 89, 149)] == [  # the colours in the benchmark's demonstration
        ("wall", [120, 120, 120]),
        ("person", [150, 5, 61]),
        ("television", [0, 255, 194]),
        ("flag", [92, 0, 255]),
    ]


def test_test_images_have_no_labels(tree, tmp_path):
    (tree / "images/testing").mkdir()
    Image.fromarray(np.full((4, 5, 3), 50, np.uint8)).save(tree / "images/testing/ADE_test_00000001.jpg")
    (sample,) = pipeline.source(data.load("ade20k", tmp_path / "cache", tree), "test")
    assert sample["name"] == "ADE_test_00000001" and (sample["label"] == np.full((4, 5), 255)).all()


BAD = {
    "no label": (
        lambda t: (t / "annotations/training/ADE_train_00000002.png").unlink(),
        r"^\S*00000002.png is missing$",
    ),
    "no image": (
        lambda t: (t / "images/validation/ADE_val_00000001.jpg").unlink(),
        r"^\S*val_00000001.jpg is missing$",
    ),
    "no folder": (
        lambda t: (t / "annotations/validation").rename(t / "annotations/val"),
        r"annotations/validation is missing; ade20k .*ADEChallengeData2016: images/ and annotations/, each with",
    ),
    "a label of the full data set": (
        lambda t: Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(
            t / "annotations/validation/ADE_val_00000001.png"
        ),
        r"ADE_val_00000001.png: .*kind RGB.*one channel of 8 bits$",
    ),
    "id": (
        lambda t: Image.fromarray(IDS + np.uint8(1)).save(t / "annotations/validation/ADE_val_00000001.png"),
        r"ADE_val_00000001.png: label id 151, but ade20k has 1..150 and 0 \(void\)$",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_folders_are_reported(fault, tree, tmp_path):
    spoil, message = BAD[fault]
    spoil(tree)
    with pytest.raises(UserError) as raised:
        data.load("ade20k", tmp_path / "cache", tree)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)


def test_the_right_folder_is_suggested(tree, tmp_path):
    with pytest.raises(UserError, match=rf"images/training is missing; did you mean {tree}\?"):
        data.load("ade20k", tmp_path / "cache", tree.parent)
