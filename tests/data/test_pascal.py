"""VOC 2012 with SBD, PASCAL-Context and PASCAL-Person-Part, from small folders in their official layouts."""

import re
import shutil

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image

from ctxseg import data
from ctxseg.data import pipeline
from ctxseg.data.builders import pascal_context, pascal_person_part
from ctxseg.data.builders.labels import bit_palette
from ctxseg.errors import UserError

SHAPE = (3, 4)


def photograph(path, shape=SHAPE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*shape, 3), 90, np.uint8)).save(path)
    return path.read_bytes()


def palette_png(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.uint8(ids))
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(np.uint8(bit_palette(256)).tobytes())
    image.save(path)


def mat(path, **variables):
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, variables, do_compression=True)


def names(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def load(name, tree, tmp_path):
    builder = data.load(name, tmp_path / "cache", tree)
    return {split: list(pipeline.source(builder, split)) for split in builder.info.splits}, builder.info.metadata


VOC_PNG = [[0, 1, 255, 20], [15, 15, 255, 0], [0, 0, 0, 7]]
SBD_MAT = [[0, 3, 3, 0], [0, 3, 3, 0], [0, 0, 20, 20]]


@pytest.fixture
def voc(tmp_path):
    voc, sbd = tmp_path / "tree/VOCdevkit/VOC2012", tmp_path / "tree/benchmark_RELEASE/dataset"
    names(voc / "ImageSets/Segmentation/train.txt", "2007_b", "2007_a")
    names(voc / "ImageSets/Segmentation/val.txt", "2007_v", "2008_w")
    for name in ("2007_a", "2007_b", "2007_v", "2008_w"):
        palette_png(voc / f"SegmentationClass/{name}.png", VOC_PNG)
    names(sbd / "train.txt", "2008_z", "2007_a", "2008_w")  # SBD's lists overlap with VOC's
    names(sbd / "val.txt", "2008_y", "2007_v")
    for name in ("2007_a", "2007_v", "2008_w", "2008_y", "2008_z"):
        struct = {"Boundaries": np.zeros((20, 1), object), "Segmentation": np.uint8(SBD_MAT), "CategoriesPresent": 3.0}
        mat(sbd / f"cls/{name}.mat", GTcls=struct)
    for name in ("2007_a", "2007_b", "2007_v", "2008_w", "2008_x", "2008_y", "2008_z"):
        photograph(voc / f"JPEGImages/{name}.jpg")
    return tmp_path / "tree"


def test_voc2012(voc, tmp_path, capsys):
    splits, metadata = load("voc2012", voc, tmp_path)
    names_by_split = {split: [sample["name"] for sample in samples] for split, samples in splits.items()}
    assert names_by_split == {
        "train": ["2007_b", "2007_a"],
        "val": ["2007_v", "2008_w"],
        "train_aug": ["2007_b", "2007_a", "2008_y", "2008_z"],  # none of val
    }
    for split, index, label in (("train", 0, VOC_PNG), ("train_aug", 1, VOC_PNG), ("train_aug", 2, SBD_MAT)):
        np.testing.assert_array_equal(splits[split][index]["label"], label)
    assert splits["train"][0]["image"].shape == (*SHAPE, 3)

    colours = dict(zip(metadata["class_names"], metadata["palette"], strict=True))
    assert len(colours) == 21 and list(colours)[0] == "background" and list(colours)[20] == "tvmonitor"
    assert colours["background"] == [0, 0, 0] and colours["person"] == [192, 128, 128]  # from the development kit
    assert colours["aeroplane"] == [128, 0, 0] and colours["tvmonitor"] == [0, 64, 128]
    assert "voc2012 train has 2 images, 1462 fewer than the 1464 published" in capsys.readouterr().err


def test_voc2012_test_has_no_labels(voc, tmp_path):
    names(voc / "VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt", "2008_x", "2008_y")
    splits, _ = load("voc2012", voc, tmp_path)
    assert [sample["name"] for sample in splits["test"]] == ["2008_x", "2008_y"]
    for sample in splits["test"]:
        assert sample["image"].shape[:2] == sample["label"].shape == SHAPE and (sample["label"] == 255).all()


def test_voc2012_keeps_the_bytes_of_photographs(voc, tmp_path):
    builder = data.load("voc2012", tmp_path / "cache", voc)
    (record, _) = builder.as_data_source("val", decoders={"image": tfds.decode.SkipDecoding()})
    assert record["image"] == (voc / "VOCdevkit/VOC2012/JPEGImages/2007_v.jpg").read_bytes()


def test_voc2012_without_sbd(voc, tmp_path):
    shutil.rmtree(voc / "benchmark_RELEASE")
    splits, _ = load("voc2012", voc, tmp_path)
    assert list(splits) == ["train", "val"]


def spoil_sbd(tree, label=None, **variables):
    variables = variables or {"GTcls": {"Segmentation": np.uint8(label)}}
    mat(tree / "benchmark_RELEASE/dataset/cls/2008_y.mat", **variables)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-30])


BAD_VOC = {
    "no list": (
        lambda t: (t / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink(),
        r"^config.data.manual_dir: \S*/Segmentation/val.txt is missing; voc2012 .*the folder in which VOCtrainval",
    ),
    "no lists of SBD": (
        lambda t: (t / "benchmark_RELEASE/dataset/val.txt").unlink(),
        r"dataset/val.txt is missing; voc",
    ),
    "an empty list": (
        lambda t: (t / "benchmark_RELEASE/dataset/val.txt").write_text("\n"),
        r"val.txt lists no images$",
    ),
    "half unpacked": (
        lambda t: [path.unlink() for path in sorted(t.glob("VOCdevkit/VOC2012/JPEGImages/*.jpg"))[1:]],
        r"^config.data.manual_dir: 5 of 12 .*: \S*/2007_b.jpg is missing; ",
    ),
    "no label": (
        lambda t: (t / "benchmark_RELEASE/dataset/cls/2008_y.mat").unlink(),
        r"^\S*/cls/2008_y.mat is missing$",
    ),
    "truncated": (
        lambda t: truncate(t / "benchmark_RELEASE/dataset/cls/2008_y.mat"),
        r"^\S*/cls/2008_y.mat: .*read as a MATLAB file: .",
    ),
    "not a MATLAB file": (
        lambda t: (t / "benchmark_RELEASE/dataset/cls/2008_y.mat").write_text("hello, " * 40),
        r"^\S*/cls/2008_y.mat: .*read as a MATLAB file: .",
    ),
    "another variable": (lambda t: spoil_sbd(t, GTinst=1), r"^\S*/cls/2008_y.mat has no variable GTcls$"),
    "another struct": (lambda t: spoil_sbd(t, GTcls={"a": 1}), r"^\S*/cls/2008_y.mat .*field Segmentation"),
    "ids": (
        lambda t: spoil_sbd(t, [[0, 21, 40, 0]] * 3),
        r"2008_y.mat: label id 21, 40, but voc2012 has 0..20 and 255 \(v",
    ),
    "sizes": (lambda t: spoil_sbd(t, SBD_MAT[:2]), r"^\S*/2008_y.mat: label is 4x2, but its image is 4x3$"),
    "axes": (
        lambda t: spoil_sbd(t, [SBD_MAT] * 2),
        r"2008_y.mat: .*\(2, 3, 4\) of uint8.*two dimensions",
    ),
}


@pytest.mark.parametrize("fault", BAD_VOC)
def test_bad_folders_are_reported(fault, voc, tmp_path):
    spoil, message = BAD_VOC[fault]
    spoil(voc)
    with pytest.raises(UserError) as raised:
        data.load("voc2012", tmp_path / "cache", voc)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)


def test_the_right_folder_is_suggested(voc, tmp_path):
    for folder in (voc.parent, voc / "VOCdevkit", voc / "VOCdevkit/VOC2012"):
        with pytest.raises(UserError, match=rf"train.txt is missing; did you mean {voc}\?$"):
            data.load("voc2012", tmp_path / "cache", folder)


@pytest.fixture
def voc2010(tmp_path):
    tree = tmp_path / "VOC2010"
    names(tree / "ImageSets/Main/train.txt", "2008_a", "2008_b")
    names(tree / "ImageSets/Main/val.txt", "2008_c")
    for name in "abc":
        photograph(tree / f"JPEGImages/2008_{name}.jpg")
    return tree


def test_pascal_context(voc2010, tmp_path):
    # 2 aeroplane, 9 bag, 397 table, 458 wood; 1 accordion and 459 wool are none of the 59.
    mat_ids = np.uint16([[2, 9, 397, 458], [1, 459, 284, 284], [360, 0, 420, 23]])
    expected = [[1, 21, 11, 59], [0, 0, 15, 15], [51, 0, 54, 2]]
    for name in "abc":
        mat(voc2010 / f"trainval/2008_{name}.mat", LabelMap=mat_ids)
    splits, metadata = load("pascal_context", voc2010, tmp_path)
    assert [sample["name"] for sample in splits["train"]] == ["2008_a", "2008_b"] and len(splits["val"]) == 1
    np.testing.assert_array_equal(splits["val"][0]["label"], expected)
    assert len(metadata["class_names"]) == 60 == len(set(map(tuple, metadata["palette"])))
    class_names = [metadata["class_names"][i] for row in expected for i in row]
    assert class_names[:4] == ["aeroplane", "bag", "table", "wood"] and class_names[6] == "person"
    assert class_names[8] == "sky" and class_names[10:] == ["tree", "bicycle"]

    shutil.rmtree(voc2010 / "trainval")  # the usual conversion: ids in alphabetical order
    for name in "abc":
        palette_png(
            voc2010 / f"SegmentationClassContext/2008_{name}.png", [[1, 2, 50, 59], [0, 0, 37, 37], [47, 255, 53, 6]]
        )
    splits, _ = load("pascal_context", voc2010, tmp_path)
    expected[2][1] = 255
    np.testing.assert_array_equal(splits["val"][0]["label"], expected)

    shutil.rmtree(voc2010 / "SegmentationClassContext")
    with pytest.raises(UserError, match="VOC2010/trainval is missing.*pascal_context .* VOC2010 "):
        data.load("pascal_context", tmp_path / "cache", voc2010)


def test_pascal_context_is_in_alphabetical_order_among_the_459():
    in_order = sorted(list(pascal_context.CLASSES)[1:])
    assert [pascal_context.CLASSES[name] for name in in_order] == sorted(list(pascal_context.CLASSES.values())[1:])


def mask(*pixels):
    mask = np.zeros(SHAPE, np.uint8)
    for y, x in pixels:
        mask[y, x] = 1
    return mask


def thing(name, pixels, **parts):
    """An object in PASCAL-Part's format; without parts, it has an empty array in their place."""
    parts = [{"part_name": part, "mask": mask(*where)} for part, where in parts.items()]
    return {"class": name, "class_ind": 15.0, "mask": mask(*pixels), "parts": structs(parts)}


def structs(dicts):
    """A MATLAB struct array 1×n."""
    array = np.empty((1, len(dicts)), [(key, object) for key in dicts[0]] if dicts else float)
    for i, fields in enumerate(dicts):
        array[0, i] = tuple(fields.values())
    return array


@pytest.fixture
def person_part(voc2010):
    body = [(y, x) for y in range(3) for x in range(3)]
    person = thing(
        "person",
        body,
        head=[(0, 0), (0, 1)],
        reye=[(0, 1)],
        neck=[(0, 2)],
        luarm=[(1, 0)],
        rhand=[(1, 1)],
        ruleg=[(2, 0)],
        lfoot=[(2, 1)],
    )
    horse = thing("horse", [(0, 3)], head=[(0, 3)])
    small = thing("person", [(2, 3)])
    other = thing("person", [(1, 3)], torso=[(1, 3), (2, 0)])  # in front of the first one's leg
    for name, things in (("a", [person, horse, small, other]), ("b", [small]), ("c", [horse, other])):
        mat(voc2010 / f"Annotations_Part/2008_{name}.mat", anno={"imname": f"2008_{name}", "objects": structs(things)})
    for split, found in (("train", "ba"), ("val", "c")):
        lines = [f"/JPEGImages/2008_{name}.jpg /pascal_person_part_gt/2008_{name}.png" for name in found]
        names(voc2010 / pascal_person_part.LISTS / f"{split}.txt", *lines)
    return voc2010


def test_pascal_person_part(person_part, tmp_path):
    splits, metadata = load("pascal_person_part", person_part, tmp_path)
    assert [sample["name"] for sample in splits["train"]] == ["2008_b", "2008_a"]
    assert metadata["class_names"] == [
        "background", "head", "torso", "upper arms", "lower arms", "upper legs", "lower legs"
    ]  # fmt: skip
    np.testing.assert_array_equal(splits["train"][0]["label"], np.zeros(SHAPE))
    np.testing.assert_array_equal(splits["train"][1]["label"], [[1, 1, 2, 0], [3, 4, 0, 2], [2, 6, 0, 0]])
    np.testing.assert_array_equal(splits["val"][0]["label"], [[0, 0, 0, 0], [0, 0, 0, 2], [2, 0, 0, 0]])


def test_pascal_person_part_has_the_24_parts_of_persons():
    assert len(pascal_person_part.PARTS) == 24


@pytest.mark.parametrize(
    ("things", "message"),
    [
        ([thing("person", [(0, 0)], wheel=[(0, 0)])], "2008_c.mat: a person .*'wheel'.* head, "),
        ([], "2008_c.mat: .*no objects$"),
        ([{"class": "person", "mask": mask()}], "2008_c.mat .*field parts$"),
    ],
)
def test_bad_parts_are_reported(things, message, person_part, tmp_path):
    mat(person_part / "Annotations_Part/2008_c.mat", anno={"objects": structs(things)})
    with pytest.raises(UserError, match=message):
        data.load("pascal_person_part", tmp_path / "cache", person_part)
