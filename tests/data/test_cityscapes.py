import re

import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.data import pipeline
from ctxseg.errors import UserError

# labelIds: unlabelled, road, sidewalk, parking; rail track, building, person, caravan; trailer, train, motorcycle, bicycle
IDS = np.uint8([[0, 7, 8, 9], [10, 11, 24, 29], [30, 31, 32, 33]])
CLASSES = np.uint8([[255, 0, 1, 255], [255, 2, 11, 255], [255, 16, 17, 18]])
FRAMES = {
    "train": ["aachen/aachen_000001_000019", "aachen/aachen_000000_000019", "zurich/zurich_000121_000019"],
    "val": ["lindau/lindau_000000_000019"],
    "test": ["berlin/berlin_000000_000019"],
}


def write(root, splits):
    for split in splits:
        for frame in FRAMES[split]:
            for kind, suffix, array in (
                ("leftImg8bit", "leftImg8bit", np.full((3, 4, 3), 7, np.uint8)),
                ("gtFine", "gtFine_labelIds", np.uint8(3 * np.ones((3, 4))) if split == "test" else IDS),
                ("gtFine", "gtFine_instanceIds", IDS.astype(np.uint16) * 1000),  # also in the archive
            ):
                path = root / kind / split / f"{frame}_{suffix}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root


@pytest.fixture
def tree(tmp_path):
    return write(tmp_path / "cityscapes", ("train", "val"))


def test_label_ids_become_train_ids(tree, tmp_path, capsys):
    builder = data.load("cityscapes", tmp_path / "cache", tree)
    assert "cityscapes train has 3 images, 2972 fewer than the 2975 published" in capsys.readouterr().err
    assert sorted(builder.info.splits) == ["train", "val"]
    train, val = (list(pipeline.source(builder, split)) for split in ("train", "val"))
    assert [sample["name"] for sample in train] == [
        *("aachen_000000_000019", "aachen_000001_000019", "zurich_000121_000019")
    ]
    for sample in train + val:
        np.testing.assert_array_equal(sample["label"], CLASSES)
        np.testing.assert_array_equal(sample["image"], np.full((3, 4, 3), 7))
    names, palette = builder.info.metadata["class_names"], builder.info.metadata["palette"]
    assert len(names) == len(palette) == 19
    assert [(names[i], palette[i]) for i in (0, 11, 16, 18)] == [
        *(("road", [128, 64, 128]), ("person", [220, 20, 60]), ("train", [0, 80, 100]), ("bicycle", [119, 11, 32]))
    ]


def test_the_test_split_is_void(tmp_path):
    tree = write(tmp_path / "cityscapes", FRAMES)
    (sample,) = pipeline.source(data.load("cityscapes", tmp_path / "cache", tree), "test")
    assert sample["name"] == "berlin_000000_000019" and (sample["label"] == 255).all()


LABEL = "gtFine/train/zurich/zurich_000121_000019_gtFine_labelIds.png"
IMAGE = "leftImg8bit/train/zurich/zurich_000121_000019_leftImg8bit.png"
BAD = {
    "no label": (lambda t: (t / LABEL).unlink(), rf"^\S*/{LABEL} is missing$"),
    "no image": (lambda t: (t / IMAGE).unlink(), rf"^\S*/{IMAGE} is missing$"),
    "no city": (lambda t: (t / LABEL).parent.rename(t / "zurich"), rf"^\S*/{LABEL} is missing$"),
    "no city of images": (lambda t: (t / IMAGE).parent.rename(t / "zurich"), rf"^\S*/{IMAGE} is missing$"),
    "no labels": (
        lambda t: (t / "gtFine").rename(t / "gtCoarse"),
        r"cityscapes/gtFine/train is missing; cityscapes .*leftImg8bit/ and gtFine/, each with train/ and val/",
    ),
    "id": (
        lambda t: Image.fromarray(IDS + np.uint8(1)).save(t / LABEL),
        rf"^\S*/{LABEL}: label id 34, but cityscapes has 7, 8, 11\.\.13, 17, .* and 0\.\.6, 9, 10, .* \(void\)$",
    ),
    "empty": (
        lambda t: [path.unlink() for path in t.glob("*/val/lindau/*")],
        r"^config.data.manual_dir: \S*/leftImg8bit/val/lindau has no images \(\*_leftImg8bit.png\)$",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_folders_are_reported(fault, tree, tmp_path):
    spoil, message = BAD[fault]
    spoil(tree)
    with pytest.raises(UserError) as raised:
        data.load("cityscapes", tmp_path / "cache", tree)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)
