import re

import numpy as np
import pytest
import scipy.io
from PIL import Image

from ctxseg import data
from ctxseg.data import pipeline
from ctxseg.data.builders import coco_stuff, coco_stuff10k
from ctxseg.data.builders.labels import map_ids
from ctxseg.errors import UserError

# By the ids of labels.txt: 1 person, 11 fire hydrant, 13 stop sign, 90 toothbrush, 92 banner, 182 wood, 0 unlabelled.
IDS = np.uint8([[0, 1, 11, 13], [90, 92, 182, 0], [1, 1, 92, 182]])
CLASSES = np.uint8([[255, 0, 10, 11], [79, 80, 170, 255], [0, 0, 80, 170]])  # 11 of the ids are unused


def photograph(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*IDS.shape, 3), 99, np.uint8)).save(path)


def write_map(path, ids=IDS):
    """Writes a label file, which has the ids minus one; 0 becomes 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids - np.uint8(1)).save(path)


def write_mat(path, ids=IDS, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.array(["person", "bicycle"], object)
    scipy.io.savemat(path, {"S": ids, "names": names, "captions": names, "regionMapStuff": ids}, **kwargs)


@pytest.fixture
def whole(tmp_path):
    """The 164K layout: two training images and a validation image."""
    for place in ("train2017/000000000009", "train2017/000000000025", "val2017/000000000139"):
        photograph(tmp_path / f"dataset/images/{place}.jpg")
        write_map(tmp_path / f"dataset/annotations/{place}.png")
    return tmp_path / "dataset"


@pytest.fixture
def small(tmp_path):
    """The 10K layout: two training images and a test image, in lists that are not sorted."""
    names = [f"COCO_train2014_{number:012d}" for number in (77, 36, 92)]
    for name in names:
        photograph(tmp_path / f"10k/images/{name}.jpg")
        write_mat(tmp_path / f"10k/annotations/{name}.mat", do_compression=name == names[0])
    (tmp_path / "10k/imageLists").mkdir()
    (tmp_path / "10k/imageLists/train.txt").write_text("\n".join(names[:2]) + "\n")
    (tmp_path / "10k/imageLists/test.txt").write_text(names[2])
    return tmp_path / "10k"


def test_label_files_of_164k(whole, tmp_path, capsys):
    photograph(whole / "annotations/train2017/000000000009_labelTrainIds.png")  # another tool's
    builder = data.load("coco_stuff", tmp_path / "cache", whole)
    assert "coco_stuff train has 2 images, 118285 fewer than the 118287 published" in capsys.readouterr().err
    train, val = (pipeline.source(builder, split) for split in ("train", "val"))
    assert [sample["name"] for sample in train] == ["000000000009", "000000000025"] and len(val) == 1
    for sample in [*train, *val]:
        np.testing.assert_array_equal(sample["label"], CLASSES)
    assert_classes(builder.info.metadata)


def test_mat_files_of_10k(small, tmp_path, capsys):
    write_mat(small / "annotations/COCO_train2014_000000000036.mat", IDS.astype(float))  # MATLAB's default type
    builder = data.load("coco_stuff10k", tmp_path / "cache", small)
    assert "coco_stuff10k val has 1 images, 999 fewer than the 1000 published" in capsys.readouterr().err
    train, val = (pipeline.source(builder, split) for split in ("train", "val"))
    assert [int(sample["name"][-3:]) for sample in [*train, *val]] == [77, 36, 92]  # in the lists' order
    for sample in [*train, *val]:
        np.testing.assert_array_equal(sample["label"], CLASSES)
    assert_classes(builder.info.metadata)


def assert_classes(metadata):
    names = metadata["class_names"]
    assert len(names) == len(set(names)) == len(set(map(tuple, metadata["palette"]))) == 171
    assert [names[i] for i in (0, 10, 11, 79, 80, 170)] == [
        *("person", "fire hydrant", "stop sign", "toothbrush", "banner", "wood")
    ]
    assert metadata["groups"]["things"] + metadata["groups"]["stuff"] == names
    assert [len(group) for group in metadata["groups"].values()] == [80, 91]


def test_every_id_has_its_class():
    assert len(coco_stuff10k.IDS) == 172 and sorted(set(range(183)) - set(coco_stuff10k.IDS)) == [
        *(12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # never annotated, by COCO-Stuff's README
    ]
    assert [coco_stuff.CLASSES[coco_stuff10k.IDS[number]] for number in (19, 67, 109, 157)] == [
        *("horse", "dining table", "curtain", "sky-other")
    ]


LABEL, MAT = "annotations/train2017/000000000009.png", "annotations/COCO_train2014_000000000036.mat"
BAD = {
    "no label": (lambda t: (t / LABEL).unlink(), r"^\S*/annotations/train2017/000000000009.png is missing$"),
    "no image": (
        lambda t: (t / "images/train2017/000000000009.jpg").unlink(),
        r"^\S*/images/train2017/000000000009.jpg is missing$",
    ),
    "no maps": (
        lambda t: (t / "annotations").rename(t / "stuffthingmaps"),
        r"dataset/annotations/train2017 is missing; coco_stuff .*COCO-Stuff's dataset folder: images/ and",
    ),
    "empty": (
        lambda t: [path.unlink() for path in t.glob("*/val2017/*")],
        r"^config.data.manual_dir: \S*/images/val2017 has no images \(\*.jpg\)$",
    ),
    "id": (lambda t: write_map(t / LABEL, IDS + (IDS == 11)), r"000000000009.png: label id 11, but coco_stuff has "),
    "16 bits": (lambda t: Image.fromarray(IDS.astype(np.uint16)).save(t / LABEL), r"09.png: .*kind I;16.* 8 bits$"),
}
BAD_10K = {
    "no list": (lambda t: (t / "imageLists/test.txt").unlink(), r"test.txt is missing; coco_stuff10k .*cocostuff-"),
    "listed": (lambda t: (t / MAT).unlink(), r"^\S*/annotations/COCO_train2014_000000000036.mat is missing$"),
    "cut": (lambda t: (t / MAT).write_bytes((t / MAT).read_bytes()[:150]), r"^\S*36.mat: .*read as a MATLAB file"),
    "no S": (lambda t: scipy.io.savemat(t / MAT, {"T": IDS}), r"^\S*000036.mat has no variable S$"),
    "version 1.0": (
        lambda t: write_mat(t / MAT, IDS + (IDS == 11)),
        r"^\S*000036.mat: label id 12, but coco_stuff10k, version 1.1, has ",
    ),
    "size": (lambda t: write_mat(t / MAT, IDS[:2]), r"^\S*000036.mat: label is 4x2, but its image is 4x3$"),
}


@pytest.mark.parametrize("fault", BAD | BAD_10K)
def test_bad_folders_are_reported(fault, request, tmp_path):
    name, fixture = ("coco_stuff", "whole") if fault in BAD else ("coco_stuff10k", "small")
    tree = request.getfixturevalue(fixture)
    spoil, message = (BAD | BAD_10K)[fault]
    spoil(tree)
    with pytest.raises(UserError) as raised:
        data.load(name, tmp_path / "cache", tree)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)
    assert not list(tmp_path.glob("cache/**/1.0.0*"))


def test_many_ids_are_shortened():
    with pytest.raises(
        ValueError, match=r"has 1\.\.11, 13\.\.25, 27, 28, 31\.\.44, …, 84\.\.90, 92\.\.182 and 0 \(void\)$"
    ):
        map_ids("coco_stuff10k", np.uint8([[12]]), coco_stuff10k.IDS)
