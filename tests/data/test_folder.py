"""A user's own folders: what is read, and how errors are explained."""

import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.data import contents, images, pipeline
from ctxseg.data.builders import folder, folder_labels
from ctxseg.data.builders.pairs import names_in, require
from ctxseg.errors import UserError

LABEL = np.array([[0, 1, 2, 2], [2, 255, 1, 0]], np.uint8)


def write(root, label=LABEL, classes="road\ntree\nsky blue\n", count=12, where="{}", suffix=".png"):
    """Writes `count` images and labels; the first label is `label`, the others are `LABEL`."""
    for i in range(count):
        for kind, array in (("images", np.full((2, 4, 3), i, np.uint8)), ("labels", LABEL if i else label)):
            path = root / kind / (where.format(i) + (".jpg" if kind == "images" else suffix))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (root / "classes.txt").write_text(classes)
    return root


def load(root, tmp_path):
    return data.load("folder", tmp_path / "prepared", root)


def names(builder):
    """{split: names}."""
    return {split: [sample["name"] for sample in pipeline.source(builder, split)] for split in builder.info.splits}


def test_indexed_labels(tmp_path):
    builder = load(write(tmp_path / "mine"), tmp_path)
    assert builder.info.metadata["class_names"] == ["road", "tree", "sky blue"]
    train, val = (pipeline.source(builder, split) for split in ("train", "val"))
    assert len(train) + len(val) == 12 and 0 < len(val) < 6
    for source in (train, val):
        for i in range(len(source)):
            np.testing.assert_array_equal(source[i]["label"], LABEL)
            assert abs(int(source[i]["image"].mean()) - int(source[i]["name"])) <= 2
    # Read back without the folder: the classes are stored with the data.
    again = data.load("folder", tmp_path / "prepared")
    assert (
        again.info.metadata["class_names"] == ["road", "tree", "sky blue"] and len(again.info.metadata["palette"]) == 3
    )


def test_colours_and_an_ignored_colour(tmp_path):
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


COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
BY_COLOUR = "a 255 0 0\nb 0 255 0\nc 0 0 255\n"
BY_GREY = "a 0 0 0\nb 100 100 100\nc 200 200 200\n"
TWO = np.array([[0, 1, 1, 0]], np.uint8)


def colour_mask(values):
    return np.repeat(values[..., None], 3, axis=2)


def indexed(values, palette):
    image = Image.fromarray(np.asarray(values, np.uint8)).convert("P")
    image.putpalette(np.vstack([palette, np.zeros((256 - len(palette), 3), np.uint8)]).astype(np.uint8).tobytes())
    return image


READ = {  # classes.txt, label, expected class ids
    "ids": ("a\nb\nc\n", Image.fromarray(LABEL), LABEL),
    "ids of 16 bits": ("a\nb\nc\n", Image.fromarray(LABEL.astype(np.uint16)), LABEL),
    "grey with alpha": ("a\nb\nc\n", Image.fromarray(LABEL).convert("LA"), LABEL),
    "three equal channels": ("a\nb\nc\n", Image.fromarray(colour_mask(LABEL)), LABEL),
    "1 bit": ("a\nb\n", Image.fromarray(TWO * 255).convert("1"), TWO),
    "1 bit, by colour": ("a 255 255 255\nb 0 0 0\n", Image.fromarray(TWO * 255).convert("1"), 1 - TWO),
    "0 and 255, by colour": ("a 255 255 255\nb 0 0 0\n", Image.fromarray(TWO * 255), 1 - TWO),
    "grey colours": (BY_GREY, Image.fromarray(np.array([[0, 100, 200, 255]], np.uint8)), [[0, 1, 2, 255]]),
    "grey colours, but ids": ("a 1 1 1\nb 0 0 0\n", Image.fromarray(TWO), TWO),
    "RGBA": (BY_COLOUR, Image.fromarray(COLOURS[TWO]).convert("RGBA"), TWO),
    "a palette in the order of the ids": (BY_COLOUR, indexed([[0, 1, 2, 255]], COLOURS), [[0, 1, 2, 255]]),
    "a palette in another order": (BY_COLOUR, indexed([[0, 1, 2, 255]], COLOURS[[2, 0, 1]]), [[2, 0, 1, 255]]),
    "a palette of other colours": (BY_COLOUR, indexed([[0, 1, 2]], COLOURS // 2), [[0, 1, 2]]),
    "a palette, no colours": ("a\nb\nc\n", indexed([[0, 1, 2]], COLOURS[[2, 0, 1]]), [[0, 1, 2]]),
}


@pytest.mark.parametrize("case", READ)
def test_labels(case, tmp_path):
    classes, label, expected = READ[case]
    (tmp_path / "classes.txt").write_text(classes)
    label.save(tmp_path / "label.png")
    assert Image.open(tmp_path / "label.png").mode in (label.mode, "I;16")
    read = folder_labels.LabelReader(folder_labels.read_classes(tmp_path / "classes.txt"))
    read(tmp_path / "label.png")
    read.settle()
    np.testing.assert_array_equal(read(tmp_path / "label.png"), expected)


def test_grey_values_mean_the_same_in_all_labels(tmp_path):
    # Black may be the id of a or the colour of c: other labels show that it is the colour.
    (tmp_path / "classes.txt").write_text("a 100 100 100\nb 200 200 200\nc 0 0 0\n")
    read = folder_labels.LabelReader(folder_labels.read_classes(tmp_path / "classes.txt"))
    for name, values in (("dark", [[0, 0]]), ("all", [[0, 100]]), ("ids", [[0, 1]])):
        Image.fromarray(np.array(values, np.uint8)).save(tmp_path / f"{name}.png")
    read(tmp_path / "dark.png"), read(tmp_path / "all.png")
    read.settle()
    assert read(tmp_path / "dark.png").tolist() == [[2, 2]]
    read = folder_labels.LabelReader(folder_labels.read_classes(tmp_path / "classes.txt"))
    read(tmp_path / "all.png"), read(tmp_path / "ids.png")
    with pytest.raises(UserError, match="all.png: label id 100.* other labels"):
        read.settle()


def masks(root, *labels, classes="background\nobject\n"):
    """Writes a folder of 12 images. The first labels are `labels`, the others have 0 and 1."""
    write(root, classes=classes)
    for i in range(12):
        label = labels[i] if i < len(labels) else [[0, 1, 0, 1], [0, 0, 0, 1]]
        Image.fromarray(np.array(label, np.uint8)).save(root / f"labels/{i}.png")
    return root


WHITE = [[0, 255, 0, 255], [0, 0, 0, 255]]


@pytest.mark.parametrize("count", [1, 8])
def test_masks_with_a_white_object_among_labels_with_ids(count, tmp_path):
    root = masks(tmp_path / "mine", *[WHITE] * count)
    are = "1 label is a 0/255 mask" if count == 1 else "/labels/2.png and 5 more: 8 labels are 0/255 masks"
    with pytest.raises(
        UserError, match=rf"/labels/0.png.*{are}, .*save the object as 1 .*if 255 is void.*'ignore'.*classes.txt"
    ):
        load(root, tmp_path)
    assert not list((tmp_path / "prepared").rglob("dataset_info.json"))


VOID = {  # {why 255 may be void: (labels, classes.txt)}
    "beside the object": ([WHITE, [[0, 255, 1, 255]]], "background\nobject\n"),
    "little": ([np.pad([[255]], 4), [[0, 1]]], "background\nobject\n"),
    "declared": ([WHITE, [[0, 1]]], "background\nobject\nignore\n"),
}


@pytest.mark.parametrize("why", VOID)
def test_a_label_of_only_background_and_void(why, tmp_path):
    labels, classes = VOID[why]
    (tmp_path / "classes.txt").write_text(classes)
    read = folder_labels.LabelReader(folder_labels.read_classes(tmp_path / "classes.txt"))
    for i, label in enumerate(labels):
        Image.fromarray(np.array(label, np.uint8)).save(tmp_path / f"{i}.png")
        read(tmp_path / f"{i}.png")
    (warning,) = read.settle()
    assert re.search("/0.png: 1 label is a 0/255 mask, .*save the object as 1 .*unless it is void$", warning)


def test_the_void_warning_is_printed(tmp_path, capsys):
    load(masks(tmp_path / "mine", WHITE, [[0, 255, 1, 255], [0, 0, 0, 0]]), tmp_path)
    assert re.search("^warning: .*/0.png: 1 label is a 0/255 mask", capsys.readouterr().err, re.MULTILINE)


def test_no_void_warning_with_many_classes(tmp_path, capsys):
    load(masks(tmp_path / "mine", WHITE, classes="background\na\nb\n"), tmp_path)
    assert "0/255" not in capsys.readouterr().err


def test_training_labels_without_any_class_are_an_error(tmp_path):
    root = write(tmp_path / "mine", count=3, classes="ignore\nroad\ntree\n")
    for i in range(3):
        Image.fromarray(np.full((2, 4), i == 2, np.uint8)).save(root / f"labels/{i}.png")
    lists(root, train="0\n1\n", val="2\n")
    with pytest.raises(
        UserError, match="/labels/0.png: every pixel of this .*is ignored.*255.*'ignore' in .*classes.txt"
    ):
        load(root, tmp_path)
    lists(root, train="0\n2\n", val="1\n")
    load(root, tmp_path)


CLASSES = {  # {classes.txt: [(name, colour)]}; colour is None if the file has none
    b"a,255,0,0\nb, 0, 255, 0\nc: 0 0 255": [("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))],
    b"\xef\xbb\xbfignore\r\nroad\r\nsky blue\r\n": [("road", None), ("sky blue", None)],
    b"# mine\nroad\n\n#sky\nsky\n": [("road", None), ("sky", None)],
    b"0: road\n1: sky\n": [("road", None), ("sky", None)],
    b"0 road 1 2 3\n1 ignore 4 5 6\n2 sky 7 8 9\n": [("road", (1, 2, 3)), ("sky", (7, 8, 9))],
    b"1 euro\n2 euro\n": [("1 euro", None), ("2 euro", None)],
    b"road 1 2 3\nsky 7 8 9\nignore\n": [("road", (1, 2, 3)), ("sky", (7, 8, 9))],
    "0,stra\u00dfe\n1,b".encode(): [("stra\u00dfe", None), ("b", None)],
    b"Pixel Value, Class\n 0, background\n 1, road\n": [("background", None), ("road", None)],
    b"class,pixel_value\nbackground,0\nroad,1\n": [("background", None), ("road", None)],
    b"# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128:a,b:c\n": [
        ("background", (0, 0, 0)),
        ("road", (128, 64, 128)),
    ],
    b"label:color_rgb:parts:actions\na:::\nb:::\n": [("a", None), ("b", None)],
    b"name;r;g;b\na;1;2;3\nb;4;5;6\n": [("a", (1, 2, 3)), ("b", (4, 5, 6))],
    b"name r g b\na 1 2 3\nb 4 5 6\n": [("a", (1, 2, 3)), ("b", (4, 5, 6))],
    b"red\ngreen\nblue\n": [("red", None), ("green", None), ("blue", None)],
    b"lane\n2 lanes\n": [("lane", None), ("2 lanes", None)],
    b'"name","r","g","b"\n"sea, blue","1","2","3"\nsky,4,5,6\n': [("sea, blue", (1, 2, 3)), ("sky", (4, 5, 6))],
    b"road #804080\nsky: #0000fF\n": [("road", (128, 64, 128)), ("sky", (0, 0, 255))],
    b"void\n1: road\n": [("void", None), ("road", None)],
}


@pytest.mark.parametrize("text", CLASSES)
def test_classes(text, tmp_path):
    (tmp_path / "classes.txt").write_bytes(text)
    classes = folder_labels.read_classes(tmp_path / "classes.txt")
    actual = [(n, c if classes.colours else None) for n, c in zip(classes.names, classes.palette, strict=True)]
    assert actual == CLASSES[text]


@pytest.mark.parametrize(
    "name, text",
    [("_classes.csv", "Pixel Value, Class\n 0, a\n 1, b\n 2, c\n"), ("labelmap.txt", "a:::\nb:::\nc:::\n")],
)
def test_class_files_of_other_tools(name, text, tmp_path):
    root = write(tmp_path / "mine", count=2)
    (root / "classes.txt").rename(root / name).write_text(text)
    builder = load(root, tmp_path)
    assert builder.info.metadata["class_names"] == ["a", "b", "c"]
    np.testing.assert_array_equal(pipeline.source(builder, "val")[0]["label"], LABEL)


def test_unused_class_files_give_a_warning(tmp_path, capsys):
    root = write(tmp_path / "mine", count=2)
    (root / "labelmap.txt").write_text("a:::\nb:::\n")
    load(root, tmp_path)
    assert re.search(f"warning: {root}/labelmap.txt is not used: .*classes.txt\n", capsys.readouterr().err)


@pytest.mark.parametrize("kind, name", [("images", "JPEGImages"), ("labels", "SegmentationClass"), ("labels", "masks")])
def test_folder_names_of_other_tools(kind, name, tmp_path):
    root = write(tmp_path / "mine", count=2)
    (root / kind).rename(root / name)
    with pytest.raises(UserError, match=f"mine/{name} .*/mine/{kind}.*rename"):
        load(root, tmp_path)


def test_a_folder_above_is_suggested_only_if_it_is_complete(tmp_path):
    write(tmp_path / "mine", count=2)
    (tmp_path / "mine/deep/er").mkdir(parents=True)
    (tmp_path / "mine/deep/er/x").touch()
    with pytest.raises(UserError, match=f"did you mean {tmp_path}/mine\\?"):
        load(tmp_path / "mine/deep/er", tmp_path)
    shutil.rmtree(tmp_path / "mine/labels")
    with pytest.raises(UserError, match="er/images is missing.*images/.*labels/.*classes.txt"):
        load(tmp_path / "mine/deep/er", tmp_path)


def test_an_invalid_folder_leaves_no_build(tmp_path):
    with pytest.raises(UserError, match="label id 6, 7, 8, 9"):
        load(write(tmp_path / "mine", LABEL + 7), tmp_path)
    assert not [path for path in (tmp_path / "prepared/folder").iterdir() if path.is_dir()]


def photos(root, *names, shape=(2, 4, 3), suffix=".png", **options):
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(root / f"images/{name}{suffix}", **options)


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def lists(root, **names):
    for split, text in names.items():
        (root / f"{split}.txt").write_text(text, encoding="utf-8")


WRONG = {  # {message: function that makes the folder invalid}
    "mine/images is missing; folder .* images/, labels/ and classes.txt": lambda r: (r / "images").rename(r / "x"),
    "/labels/0.png: label id 3, .*classes.txt has 3 lines, .* 0 to 2: .*if 3 is void, .*'ignore'": lambda r: write(
        r, np.where(LABEL == 255, 0, LABEL + 1)
    ),
    "/labels/0.png: label id 9, .*classes.txt has 3 lines": lambda r: write(r, np.full((2, 4), 9, np.uint8)),
    r"/labels/0.png: .*RGB mask \(of \(0, 0, 255\), .*classes.txt has no colours: .*'name R G B'": lambda r: write(
        r, COLOURS[LABEL % 3]
    ),
    r"/labels/0.png: .*colour \(2, 2, 2\) and 1 more, .*classes.txt.*: add a line 'name 2 2 2', or 'ignore 2 2 2'": lambda r: write(
        r, colour_mask(LABEL), "a 0 0 0\nb 1 1 1\n", 1
    ),
    "/labels/0.png: label is 6x5, but its image is 4x2": lambda r: write(r, np.zeros((5, 6), np.uint8)),
    "/labels/3.png: not an image": lambda r: (r / "labels/3.png").write_text("x"),
    "/images/5.jpg has no label .*/labels/5.png": lambda r: (r / "labels/5.png").unlink(),
    "/labels/5.png has no image below": lambda r: (r / "images/5.jpg").unlink(),
    "/labels/0.jpg: .*cannot be .jpg.* PNG": lambda r: [p.rename(p.with_suffix(".jpg")) for p in (r / "labels").iterdir()],
    "classes.txt line 2: 'road' .*twice": lambda r: (r / "classes.txt").write_text("road\nroad\n"),
    "classes.txt line 1: .*300.* not a colour.* 0 to 255": lambda r: (r / "classes.txt").write_text("road 1 2 300\n"),
    "classes.txt line 1: 'Wort, Farbe' has no colour: add one, .*, or remove .* heading$": lambda r: (
        (r / "classes.txt").write_text("Wort, Farbe\nroad,1,2,3\nsky,4,5,6\nignore\n")
    ),
    "classes.txt: 3 of 4 .*: .* line 1: .*not a colour.* line 2: .*not a colour.* line 4: 'a' .*twice": lambda r: (
        (r / "classes.txt").write_text("a 1 2 300\nb 1 256 3\nc 1 2 3\na 4 5 6\n")
    ),
    "classes.txt line 1: 'Class' looks like a heading: remove it, or": lambda r: (r / "classes.txt").write_text("Class\na\nb\n"),
    "classes.txt line 1: 'Wert, Wort' has no id, .*: remove it": lambda r: (r / "classes.txt").write_text("Wert, Wort\n0, a\n1, b\n"),
    "classes.txt line 2: id 1.*expected 0.*: sort the lines, .*'ignore'": lambda r: (r / "classes.txt").write_text(
        "Pixel Value, Class\n1, a\n2, b\n"
    ),
    "classes.txt line 2: id 2.*expected 1": lambda r: (r / "classes.txt").write_text("a,0\nb,2\n"),
    "classes.txt has only one class, 'crack': add .*'background'": lambda r: (
        (r / "classes.txt").write_text("crack 255 255 255\nignore 0 0 0\n")
    ),
    "classes.txt has 0 classes": lambda r: (r / "classes.txt").write_text("\n"),
    "train.txt line 1: .*no image '77'": lambda r: [(r / f"{s}.txt").write_text("77\n") for s in ("train", "val")],
    "mine/val.txt is missing, .*train.txt: give both .*, or neither": lambda r: (r / "train.txt").write_text("0\n"),
    "no image 'images/0.jpg labels/0.png' below .*; expected the path of one image .*, such as 0": lambda r: lists(
        r, train="images/0.jpg labels/0.png\n", val="1\n"
    ),
    "lists.*: 2 of 3 .*train.txt line 2: .*no image '77' .*: 0 is in both train.txt and val.txt": lambda r: lists(
        r, train="0\n77\n", val="0\n"
    ),
    "mine/train/images should be .*/mine/images/train: move .* into images/ and labels/": lambda r: [
        (r / kind).rename((r / "train" / kind, (r / "train").mkdir(exist_ok=True))[0]) for kind in ("images", "labels")
    ],
    "train.txt line 3: '0.jpg' .* line 1": lambda r: lists(r, train="0\n1\n0.jpg\n", val="2\n"),
    "mine/val.txt lists no images": lambda r: lists(r, train="0\n", val="\n"),
    "/labels/[0-9]*.png: all labels are 0/255 masks, .*: save the object as 1 .*, or use RGB colours": lambda r: [
        Image.fromarray(np.uint8(LABEL != 2) * 255).save(p) for p in (r / "labels").iterdir()
    ],
    "labels/0.png: .*palette gives index 0 the colour .* index 1 .*0, 127, 0.*add it, or save .* grey": lambda r: [
        (r / "classes.txt").write_text(BY_COLOUR),
        indexed(LABEL, [[0, 0, 255], [0, 127, 0], [255, 0, 0]]).save(r / "labels/0.png"),
    ],
    "classes.txt is not UTF-8: save it as UTF-8": lambda r: (r / "classes.txt").write_bytes("stra\u00dfe".encode("latin-1")),
    "classes.txt is not UTF-8: ": lambda r: (r / "classes.txt").write_bytes("a".encode("utf-16")),
    "classes.txt is not plain text: save it as UTF-8": lambda r: (r / "classes.txt").write_bytes("a".encode("utf-16-le")),
    "train.txt is not UTF-8: save it": lambda r: [(r / f"{s}.txt").write_bytes(b"\xff") for s in ("train", "val")],
    "/images has only one image, .*: add another, or list": lambda r: [shutil.rmtree(r), write(r, count=1)],
    "/images has a folder for train, but none for val .*: name it val or valid": lambda r: [shutil.rmtree(r), write(r, where="train/{}")],
    "/labels/0.png: label is 2x4, .* is 4x2 with EXIF orientation 6: .* upright.* save the image upright": lambda r: [
        photos(r, "0", suffix=".jpg", exif=exif(6)),
        Image.fromarray(LABEL.T).save(r / "labels/0.png"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG)
def test_errors_are_explained(message, tmp_path):
    root = write(tmp_path / "mine")
    WRONG[message](root)
    with pytest.raises(UserError, match=message) as error:
        load(root, tmp_path)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "prepared").rglob("dataset_info.json"))


def test_every_fault_is_reported_at_once(tmp_path):
    root = write(tmp_path / "mine")
    for i in (1, 4):
        (root / f"labels/{i}.png").write_text("x")
    with pytest.raises(UserError, match="folder: 2 of 12 .*/labels/1.png.*/labels/4.png"):
        load(root, tmp_path)


@pytest.mark.parametrize("void", [False, True])
def test_ids_from_one(void, tmp_path, capsys):
    root = write(tmp_path / "mine")
    for i in range(12):
        Image.fromarray(np.where(LABEL == 255, 4 if void else 255, LABEL + 1).astype(np.uint8)).save(
            root / f"labels/{i}.png"
        )
    last = ", and as the last" if void else ""
    message = f"start at 1: .* 1 to {3 + void}, .*classes.txt has 0 to 2: add 'ignore' as the first line{last}$"
    with pytest.raises(UserError, match=f"^{root}/labels/[0-9]+.png: label ids {message}"):
        load(root, tmp_path)
    assert "faults" not in capsys.readouterr().err
    (root / "labels/3.png").write_text("x")  # another fault is named too
    with pytest.raises(UserError, match="folder: 2 of 12 .*label ids start at 1: .*/labels/3.png: not an image"):
        load(root, tmp_path)
    Image.fromarray(np.where(LABEL == 255, 255, LABEL + 1).astype(np.uint8)).save(root / "labels/3.png")
    (root / "classes.txt").write_text("ignore\na\nb\nc\n" + "ignore\n" * void)  # the remedy in the message
    assert load(root, tmp_path).info.metadata["class_names"] == ["a", "b", "c"]


def test_images_keep_their_split_when_others_are_added():
    stems = [f"img{i}" for i in range(200)]
    few, many = (folder._by_name(folder.Path("/nowhere"), stems[:n]) for n in (100, 200))
    assert set(few["val"]) == set(many["val"]) & set(stems[:100])
    assert 20 <= len(many["val"]) <= 60


@pytest.mark.parametrize("train, val", [("Train", "Validation"), ("TRAINING", "valid")])
def test_common_names_of_split_folders(train, val, tmp_path):
    root = write(tmp_path / "mine", count=3, where=f"{train}/{{}}")
    write(root, count=2, where=f"{val}/{{}}")
    write(root, count=1, where="Testing/{}")
    (root / "labels" / train).rename(root / "labels/train")  # images and labels need not use the same name
    expected = {"train": ["train/0", "train/1", "train/2"], "val": ["val/0", "val/1"], "test": ["test/0"]}
    assert names(load(root, tmp_path)) == expected


def test_common_names_of_split_lists(tmp_path):
    root = write(tmp_path / "mine", count=3)
    (root / "Training.txt").write_text("0\n2\n")
    (root / "validation.TXT").write_text("1\n")
    assert names(load(root, tmp_path)) == {"train": ["0", "2"], "val": ["1"]}
    lists(root, train="0\n")
    with pytest.raises(UserError, match="mine has two lists for train, Training.txt and train.txt: keep one"):
        load(root, tmp_path)


SPLIT_FOLDERS = {
    r"/(images|labels) has two folders for train, \w+ and \w+: merge them": ("train", "Training", "val"),
    "/images has a folder for test, but none for train with images: name it train or training": ("test", "more"),
    "/images has folders that look like splits, train2017, val2017: name them train and val .*, or list": (
        "train2017",
        "val2017",
    ),
    "/images has folders that look like splits, all/dev, all/train: ": ("all/train", "all/dev"),
}


@pytest.mark.parametrize("message", SPLIT_FOLDERS)
def test_unclear_split_folders(message, tmp_path):
    for name in SPLIT_FOLDERS[message]:
        write(tmp_path / "mine", count=2, where=f"{name}/{{}}")
    with pytest.raises(UserError, match=message):
        load(tmp_path / "mine", tmp_path)


def test_folders_that_are_not_splits(tmp_path):
    for name in ("valley", "trains", "contest", "train_station"):
        write(tmp_path / "mine", count=2, where=f"{name}/{{}}")
    assert sum(map(len, names(load(tmp_path / "mine", tmp_path)).values())) == 8


def test_no_split_is_empty():
    hashes = {stem: folder.zlib.crc32(stem.encode()) for stem in (f"img{i}" for i in range(200))}
    for stems in ([s for s in hashes if hashes[s] % 5], [s for s in hashes if not hashes[s] % 5]):
        for count in (2, 5):
            splits = folder._by_name(folder.Path("/nowhere"), stems[:count])
            assert splits["val"] == [min(stems[:count], key=hashes.get)] and len(splits["train"]) == count - 1


def test_images_in_no_split_are_left_out(tmp_path, capsys):
    root = write(tmp_path / "mine", count=3, where="train/{}")
    write(root, count=2, where="val/{}")
    photos(root, "test/z", "extra/x", "extra/y")
    assert names(load(root, tmp_path)) == {"train": ["train/0", "train/1", "train/2"], "val": ["val/0", "val/1"]}
    warnings = capsys.readouterr().err
    assert re.search("split test has no labels", warnings)
    assert re.search(r"/images/extra/x\.png and 1 more .*\(train, val\)", warnings)

    (root / "labels/test").mkdir()
    Image.fromarray(LABEL).save(root / "labels/test/z.png")
    assert names(load(root, tmp_path))["test"] == ["test/z"]
    photos(root, "test/unlabelled")
    with pytest.raises(UserError, match="/images/test/unlabelled.png has no label"):
        load(root, tmp_path)


def test_lists_that_overlap_and_leave_out_images(tmp_path, capsys):
    root = write(tmp_path / "mine", count=4)
    photos(root, "unlabelled")
    lists(root, train="\ufeff0\n1\n", val="\ufeff1\n2\n")
    assert names(load(root, tmp_path)) == {"train": ["0", "1"], "val": ["1", "2"]}
    warnings = capsys.readouterr().err
    assert re.search("mine: 1 .*train.txt .*val.txt", warnings)
    assert re.search(r"/images/3\.jpg and 1 more .*\(train, val\)", warnings)


def test_links_and_endings(tmp_path):
    real = write(tmp_path / "real", count=2)
    root = tmp_path / "mine"
    for path in (real / "labels").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        for split in ("train", "val"):
            (root / kind / split).symlink_to(real / kind)
        (root / kind / ".ipynb_checkpoints").mkdir()
        (root / kind / ".ipynb_checkpoints/x.png").touch()
    (root / "classes.txt").write_text("a\nb\nc\n")
    assert names(load(root, tmp_path)) == {"train": ["train/0", "train/1"], "val": ["val/0", "val/1"]}


def test_images_that_exif_rotates_give_a_warning(tmp_path, capsys):
    root = write(tmp_path / "mine", count=2)
    photos(root, "square", "other", shape=(3, 3, 3), suffix=".jpg", exif=exif(6))
    photos(root, "wide", suffix=".jpg", exif=exif(6))
    photos(root, "upright", shape=(3, 3, 3), suffix=".jpg", exif=exif(1))
    for name, shape in (("square", (3, 3)), ("other", (3, 3)), ("wide", (2, 4)), ("upright", (3, 3))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(root / f"labels/{name}.png")
    load(root, tmp_path)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "EXIF" in line]
    assert re.search("^warning: .* and 1 more have an EXIF orientation: .* image as stored", line)


def test_images_that_exif_rotates_are_stored_upright(tmp_path):
    """So are their labels, which fit the pixels as stored in the file."""
    root, image = write(tmp_path / "mine", count=2), np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for i in range(2):
        Image.fromarray(image).save(root / f"images/{i}.png", exif=exif(6))
        (root / f"images/{i}.jpg").unlink()
    (sample,) = pipeline.source(load(root, tmp_path), "val")
    np.testing.assert_array_equal(sample["image"], np.rot90(image, -1))
    np.testing.assert_array_equal(sample["label"], np.rot90(LABEL, -1))


def test_images_are_read_as_in_predictions(tmp_path):
    """The colours of transparent pixels are not used; 32-bit numbers are read."""
    root = write(tmp_path / "mine", count=2)
    alpha = np.zeros((2, 4, 4), np.uint8)
    alpha[:, 2:] = (9, 99, 199, 255)
    (root / "images/1.jpg").unlink()
    for suffix, file, expected in (
        (".png", Image.fromarray(alpha), np.where(alpha[..., 3:] > 0, alpha[..., :3], 255)),
        (".tif", Image.fromarray(np.full((2, 4), 0.2, np.float32)), np.full((2, 4, 3), 51)),
    ):
        file.save(root / f"images/1{suffix}")
        samples = [s for split in ("train", "val") for s in pipeline.source(load(root, tmp_path), split)]
        (image,) = [s["image"] for s in samples if s["name"] == "1"]
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(image, images.read(root / f"images/1{suffix}")[0])
        (root / f"images/1{suffix}").unlink()


def test_damaged_exif(tmp_path):
    """An image with damaged EXIF is valid. A text is not an orientation, so a label of the upright image has the wrong size."""
    root = write(tmp_path / "mine", count=2)
    photos(root, "0", exif=b"Exif\0\0garbage")
    (root / "images/0.jpg").unlink()
    load(root, tmp_path)
    text = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x02\0\0\x006\0\0\0" + bytes(4)
    photos(root, "1", suffix=".jpg", exif=text)
    Image.fromarray(LABEL.T).save(root / "labels/1.png")
    with pytest.raises(UserError, match="/labels/1.png: .*2x4.* image .*4x2$"):
        load(root, tmp_path)


def test_large_images(tmp_path, monkeypatch):
    """Images over Pillow's limit are prepared; images and labels over ours are named."""
    root = write(tmp_path / "mine", count=2)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    load(root, tmp_path)
    Image.fromarray(LABEL[::-1]).save(root / "labels/1.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 7)
    with pytest.raises(
        UserError, match="/images/0.jpg: 4×2 is more than 0 megapixels: .*smaller; .*/labels/0.png: 4×2"
    ):
        load(root, tmp_path)


@pytest.mark.parametrize("where", ["{}", "train/{}"])
def test_names_that_are_not_utf_8(where, tmp_path):
    root = write(tmp_path / "mine", count=2, where=where)
    if "/" in where:
        write(root, count=1, where="val/{}")
    name = os.fsdecode(b"stra\xdfe")
    for kind, suffix in (("images", ".jpg"), ("labels", ".png")):
        (root / kind / f"{where.format(0)}{suffix}").rename(root / kind / f"{where.format(name)}{suffix}")
    splits = names(load(root, tmp_path))
    assert where.format(r"stra\xdfe") in splits["train"] + splits["val"]


def test_names_in_two_unicode_normal_forms(tmp_path):
    root = write(tmp_path / "mine", count=3)
    (root / "images/0.jpg").rename(root / "images/caf\u00e9.jpg")
    (root / "labels/0.png").rename(root / "labels/cafe\u0301.png")
    lists(root, train="cafe\u0301\n1\n", val="2\n")
    assert names(load(root, tmp_path)) == {"train": ["caf\u00e9", "1"], "val": ["2"]}


def test_circular_links(tmp_path):
    root = write(tmp_path / "mine", count=2)
    for kind in ("images", "labels"):
        (root / kind / "again").symlink_to(root / kind)
    (root / "images/._0.jpg").write_bytes(b"\0\5\x16\7")
    assert sorted(sum(names(load(root, tmp_path)).values(), [])) == ["0", "1"]


def test_the_fingerprint_changes_with_a_label_but_not_in_a_copy(tmp_path):
    root = write(tmp_path / "mine", count=2, suffix=".bmp")
    before = folder.Folder.fingerprint(root)
    assert folder.Folder.fingerprint(shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copy)) == before
    Image.fromarray(2 - LABEL % 3).save(root / "labels/1.bmp")
    assert folder.Folder.fingerprint(root) != before


def test_only_a_file_changed_in_place_is_read_again(tmp_path, monkeypatch):
    """Even with the same size and modification time. Other files are read once, when their last change is old enough."""
    root, read, digest = write(tmp_path / "mine", count=2), [], contents._digest
    monkeypatch.setattr(contents, "_digest", lambda path: read.append(path) or digest(path))
    image = (root / "images/1.jpg").rename(root / "images/1.bmp")
    Image.fromarray(np.zeros((2, 4, 3), np.uint8)).save(image)
    first = load(root, tmp_path)
    before = image.stat()
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load(root, tmp_path).data_dir != first.data_dir  # changed too recently to trust their times: all are read
    assert len(read) == 8
    monkeypatch.setattr(contents, "SETTLED", -(10**18))  # as if years had passed
    next((tmp_path / "prepared/folder").glob("files-*.json")).write_text("[")  # damaged, so it is not used
    second = load(root, tmp_path)
    assert len(read) == 12 and load(root, tmp_path).data_dir == second.data_dir and len(read) == 12
    image.write_bytes(image.read_bytes()[:-1] + b"y")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load(root, tmp_path).data_dir != second.data_dir and read[12:] == [str(image)]


def test_a_corrected_folder_is_one_data_set(tmp_path, capsys):
    root = write(tmp_path / "mine", count=2)
    prepared, first = tmp_path / "prepared", load(root, tmp_path)
    Image.fromarray(2 - LABEL % 3).save(root / "labels/1.png")
    capsys.readouterr()
    second = load(root, tmp_path)
    assert re.search(f"{first.data_path.parent} .*{root}: it can be deleted", capsys.readouterr().err)
    assert data.load("folder", prepared).data_dir == second.data_dir != first.data_dir
    Image.fromarray(LABEL).save(root / "labels/1.png")  # undone: the first build is the last again
    load(root, tmp_path)
    assert data.load("folder", prepared).data_dir == first.data_dir

    other = write(tmp_path / "other", count=3)
    capsys.readouterr()
    load(other, tmp_path)
    assert "deleted" not in capsys.readouterr().err
    with pytest.raises(UserError, match="config.data.manual_dir .*several.*: give one, or delete") as error:
        data.load("folder", prepared)
    assert f"{root} in {first.data_path.parent}" in str(error.value) and f"{other} in " in str(error.value)


def test_builds_without_a_record_of_their_folder(tmp_path):
    root, prepared = write(tmp_path / "mine", count=2), tmp_path / "prepared"
    first = load(root, tmp_path)
    for damaged in (None, b"{", b"[]"):  # None: a build of an earlier version
        (first.data_path / "source.json").unlink()
        if damaged:
            (first.data_path / "source.json").write_bytes(damaged)
        assert data.load("folder", prepared).data_dir == first.data_dir
        load(root, tmp_path)  # records it
        assert str(root) in (first.data_path / "source.json").read_text()
    (first.data_path / "source.json").unlink()
    other = write(tmp_path / "other", count=3)
    load(other, tmp_path)
    with pytest.raises(UserError, match=f"an unknown folder in {first.data_path.parent}"):
        data.load("folder", prepared)


def test_a_folder_that_was_moved_or_copied(tmp_path, monkeypatch):
    root = write(tmp_path / "mine", count=2)
    record = load(root, tmp_path).data_path / "source.json"
    copy = shutil.copytree(root, tmp_path / "copy")
    load(copy, tmp_path)
    assert str(root) in record.read_text()
    shutil.rmtree(root)
    monkeypatch.chdir(tmp_path)
    load("copy", tmp_path)
    assert str(copy) in record.read_text()  # an absolute path

    Image.fromarray(LABEL[::-1]).save(copy / "labels/1.png")
    corrected = load(copy, tmp_path)
    os.rename(copy, tmp_path / "moved")
    load(tmp_path / "moved", tmp_path)
    assert data.load("folder", tmp_path / "prepared").data_dir == corrected.data_dir  # all builds have moved


def test_folders_without_permission(tmp_path, monkeypatch):
    def denied(*args):  # simulated, as the tests may run as root
        raise PermissionError(13, "Permission denied", "/somewhere")

    root = write(tmp_path / "mine", count=2)
    for module in ("scandir", "listdir"):
        monkeypatch.setattr(os, module, denied)
    with pytest.raises(PermissionError):
        names_in(root / "images", ".jpg")
    with pytest.raises(PermissionError):
        folder.list_pairs(root)
    monkeypatch.setattr(folder.Path, "stat", denied)
    with pytest.raises(PermissionError):
        require(folder.Folder, root, "images")


@pytest.mark.parametrize("what", ["records", "info"])
def test_a_damaged_build(what, tmp_path):
    root = write(tmp_path / "mine", count=2)
    builder = load(root, tmp_path)
    if what == "records":
        os.unlink(builder.info.splits["val"].filepaths[0])
    else:
        (builder.data_path / "dataset_info.json").write_text("{\n")
    with pytest.raises(UserError, match=f"{builder.data_dir} .*delete"):
        data.load("folder", tmp_path / "prepared")
    if what == "records":  # given its folder, it is prepared again
        assert len(names(load(root, tmp_path))["val"]) == 1
