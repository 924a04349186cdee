import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.data import pipeline
from ctxseg.data.store import unprepared
from ctxseg.errors import UserError

LABEL = np.uint8([[0, 1, 10], [14, 15, 19]])
LIP = {"train": ["77_471474", "100034_483681"], "val": ["100034_1266234"]}
CIHP = {"train": ["0000009", "0000006"], "val": ["0000007"]}


def write(image, label):
    for path, array in ((image, np.full((2, 3, 3), 80, np.uint8)), (label, LABEL)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def write_lip(images, labels):
    for split, names in LIP.items():
        for name in names:
            write(images / f"{split}_images/{name}.jpg", labels / f"{split}_segmentations/{name}.png")
        (images / f"{split}_id.txt").write_text("".join(f"{name}\n" for name in names))


@pytest.fixture
def lip(tmp_path):
    """The unpacked archives, which have folders of their own."""
    write_lip(tmp_path / "LIP/TrainVal_images/TrainVal_images", tmp_path / "LIP/TrainVal_parsing_annotations")
    return tmp_path / "LIP"


@pytest.fixture
def cihp(tmp_path):
    root = tmp_path / "instance-level_human_parsing"
    for split, folder in (("train", "Training"), ("val", "Validation")):
        for name in CIHP[split]:
            write(root / folder / f"Images/{name}.jpg", root / folder / f"Category_ids/{name}.png")
        (root / folder / f"{split}_id.txt").write_text("\n".join(CIHP[split]))
    return root


def assert_samples(builder, splits):
    for split, names in splits.items():
        source = pipeline.source(builder, split)
        assert [sample["name"] for sample in source] == names  # in the list's order
        for sample in source:
            np.testing.assert_array_equal(sample["label"], LABEL)
            assert abs(int(sample["image"].mean()) - 80) < 3


def test_lip(lip, tmp_path, capsys):
    builder = data.load("lip", tmp_path / "cache", lip)
    assert "lip train has 2 images, 30460 fewer than the 30462 published" in capsys.readouterr().err
    assert_samples(builder, LIP)
    names, palette = builder.info.metadata["class_names"], builder.info.metadata["palette"]
    assert len(names) == len(set(names)) == len(set(map(tuple, palette))) == 20
    assert [names[i] for i in (0, 1, 10, 14, 15, 19)] == [
        *("background", "hat", "jumpsuits", "left-arm", "right-arm", "right-shoe")
    ]
    assert palette[13] == [0, 0, 255]


def test_lip_in_one_folder(tmp_path):
    write_lip(tmp_path / "LIP", tmp_path / "LIP")
    assert_samples(data.load("lip", tmp_path / "cache", tmp_path / "LIP"), LIP)


def test_cihp(cihp, tmp_path, capsys):
    builder = data.load("cihp", tmp_path / "cache", cihp)
    assert "cihp val has 1 images, 4999 fewer than the 5000 published" in capsys.readouterr().err
    assert_samples(builder, CIHP)
    names, lip = (
        builder.info.metadata["class_names"],
        unprepared(data.DATASETS["lip"]).info.metadata["class_names"],
    )
    assert [(i, a, b) for i, (a, b) in enumerate(zip(names, lip, strict=True)) if a != b] == [
        (10, "torso-skin", "jumpsuits")
    ]


TRAIN = "TrainVal_images/TrainVal_images/train"
BAD_LIP = {
    "no list": (
        lambda t: (t / f"{TRAIN}_id.txt").unlink(),
        r"TrainVal_images/train_id.txt is missing; lip .*train_images",
    ),
    "no labels": (
        lambda t: shutil.rmtree(t / "TrainVal_parsing_annotations"),
        r"LIP/train_segmentations is missing; lip .*train_images/, val_images/, train_segmentations/ and val_",
    ),
    "an image": (lambda t: (t / f"{TRAIN}_images/77_471474.jpg").unlink(), r"^\S*/77_471474.jpg is missing$"),
    "empty list": (lambda t: (t / f"{TRAIN}_id.txt").write_text("\n"), r"train_id.txt lists no images$"),
    "id": (
        lambda t: Image.fromarray(LABEL + np.uint8(1)).save(
            t / "TrainVal_parsing_annotations/train_segmentations/77_471474.png"
        ),
        r"^\S*/77_471474.png: label id 20, but lip has 0..19$",
    ),
}
BAD_CIHP = {
    "no ids": (
        lambda t: (t / "Training/Category_ids").rename(t / "Training/Categories"),  # CIHP's name for coloured labels
        r"Training/Category_ids is missing; cihp .*instance-level_human_parsing: Training/ and Validation/, each",
    ),
    "a label": (lambda t: (t / "Validation/Category_ids/0000007.png").unlink(), r"^\S*/0000007.png is missing$"),
    "cut image": (
        lambda t: (t / "Validation/Images/0000007.jpg").write_bytes(b"\xff\xd8\xff"),
        r"^\S*/Validation/Images/0000007.jpg: not an image$",
    ),
}


@pytest.mark.parametrize("fault", BAD_LIP | BAD_CIHP)
def test_bad_folders_are_reported(fault, request, tmp_path):
    name = "lip" if fault in BAD_LIP else "cihp"
    tree = request.getfixturevalue(name)
    spoil, message = (BAD_LIP | BAD_CIHP)[fault]
    spoil(tree)
    with pytest.raises(UserError) as raised:
        data.load(name, tmp_path / "cache", tree)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)
