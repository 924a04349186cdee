"""A user's own objects: the layouts of labelling tools, and how errors are explained."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.commands.prepare import prepare
from ctxseg.data import instances
from ctxseg.data.builders import folder_instances
from ctxseg.errors import UserError

HEIGHT, WIDTH = 12, 16
SQUARE = [2, 3, 8, 3, 8, 9, 2, 9]  # rows 3..8, columns 2..7
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog", "supercategory": "animal"}]


def square(number, image, **fields):
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "segmentation": [SQUARE],
        "bbox": [2, 3, 6, 6],
        "area": 36,
        "iscrowd": 0,
        **fields,
    }


def content(images, annotations, categories=CATEGORIES):
    listed = [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in images.items()]
    return {"images": listed, "annotations": annotations, "categories": categories}


def save(root, *paths, value=100, size=(HEIGHT, WIDTH), **options):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*size, 3), value, np.uint8)).save(root / path, **options)


def dump(root, path, content):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(json.dumps(content))


@pytest.fixture
def mine(tmp_path):
    """A folder with annotations.json and 10 images in images/, each with one object but the last; `edit` changes the JSON."""
    root = tmp_path / "mine"
    names = {i: f"{i}.png" for i in range(10)}
    save(root, *(f"images/{name}" for name in names.values()))
    dump(root, "annotations.json", content(names, [square(i, i) for i in range(9)]))
    return root


def edit(root, change, path="annotations.json"):
    value = json.loads((root / path).read_text())
    change(value)
    (root / path).write_text(json.dumps(value))


def load(root, tmp_path):
    return data.load("folder_instances", tmp_path / "prepared", root)


def samples(builder):
    """{name: sample} of all splits."""
    sources = [instances.InstanceSource(builder, split) for split in builder.info.splits]
    return {sample["name"]: sample for source in sources for sample in (source[i] for i in range(len(source)))}


def names(builder):
    return {split: [s["name"] for s in map(instances.InstanceSource(builder, split).__getitem__, range(n.num_examples))]
            for split, n in builder.info.splits.items()}  # fmt: skip


def test_a_class_without_objects_is_told(mine, tmp_path, capsys):
    edit(mine, lambda c: c["categories"].append({"id": 9, "name": "owl"}))
    assert load(mine, tmp_path).info.metadata["class_names"] == ["cat", "dog", "owl"]
    assert "classes without objects in train cannot be learnt: 2, the first is dog" in capsys.readouterr().err


def test_one_json_for_all_images(mine, tmp_path, capsys):
    builder = load(mine, tmp_path)
    metadata = builder.info.metadata
    assert (metadata["class_names"], metadata["category_ids"], len(metadata["palette"])) == (["cat", "dog"], [1, 4], 2)
    found = samples(builder)
    assert set(found) == set("0123456789")
    mask = np.zeros((HEIGHT, WIDTH))
    mask[3:9, 2:8] = 1
    np.testing.assert_array_equal(found["3"]["masks"], mask[None])
    np.testing.assert_array_equal(found["3"]["boxes"], [(2, 3, 8, 9)])
    assert (found["3"]["id"], found["3"]["classes"].tolist(), found["9"]["masks"].shape) == (3, [0], (0, HEIGHT, WIDTH))
    splits = names(builder)
    assert 0 < len(splits["val"]) < 5 and len(splits["train"]) + len(splits["val"]) == 10
    assert "images without objects are used, as background: 1, the first is" in capsys.readouterr().err
    # Read back without the folder; and the same splits when an image is added.
    assert data.load("folder_instances", tmp_path / "prepared").info.metadata["class_names"] == ["cat", "dog"]
    save(mine, "images/new.png")
    edit(mine, lambda c: c["images"].append({"id": 77, "file_name": "new.png", "height": HEIGHT, "width": WIDTH}))
    more = names(load(mine, tmp_path))
    assert {split: [n for n in listed if n != "new"] for split, listed in more.items()} == splits


def test_prepare_prints_a_summary(mine, tmp_path, capsys):
    from ml_collections import ConfigDict

    config = {"name": "folder_instances", "data_dir": str(tmp_path / "p"), "manual_dir": str(mine), "superpixels": 0}
    prepare(ConfigDict(config))
    out, err = capsys.readouterr()
    assert re.search(r"^objects +\d+ +\d+$", out, re.MULTILINE) and re.search(r"^cat +100 % +\d obj +\d img", out, re.M)
    assert "folder_instances has no pixel of dog in any split" in err


A, B, C = square(1, 1), square(2, 2), square(3, 3)
LAYOUTS = {  # images; {JSON: (its images, its annotations)}; expected names by split
    "CVAT": (
        ["images/a.png", "images/b.png"],
        {"annotations/instances_default.json": ({1: "a.png", 2: "b.png"}, [A, B])},
        None,
    ),
    "CVAT, with subsets": (
        ["images/Train/a.png", "images/Validation/a.png"],
        {
            "annotations/instances_Train.json": ({1: "a.png"}, [A]),
            "annotations/instances_Validation.json": ({2: "a.png"}, [B]),
        },
        {"train": ["Train/a"], "val": ["Validation/a"]},
    ),
    "Label Studio": (
        ["images/0a-x.png", "images/1b-y.png"],
        {"result.json": ({1: "images\\0a-x.png", 2: "../../media/upload/1/1b-y.png"}, [A, B])},
        None,
    ),
    "Roboflow": (
        ["train/a.png", "valid/b.png", "test/c.png"],
        {
            "train/_annotations.coco.json": ({1: "a.png"}, [A]),
            "valid/_annotations.coco.json": ({2: "b.png"}, [B]),
            "test/_annotations.coco.json": ({3: "c.png"}, [C]),
        },
        {"train": ["train/a"], "val": ["valid/b"], "test": ["test/c"]},
    ),
    "labelme": (
        ["JPEGImages/a.png", "JPEGImages/b.png"],
        {"annotations.json": ({1: "JPEGImages/a.png", 2: "JPEGImages/b.png"}, [A, B])},
        None,
    ),
    "COCO": (
        ["train2017/a.png", "val2017/b.png"],
        {
            "annotations/instances_train2017.json": ({1: "a.png"}, [A]),
            "annotations/instances_val2017.json": ({2: "b.png"}, [B]),
            "annotations/captions_val2017.json": ({}, []),
        },
        {"train": ["train2017/a"], "val": ["val2017/b"]},
    ),
    "FiftyOne": (["data/a.png", "data/b.png"], {"labels.json": ({1: "a.png", 2: "b.png"}, [A, B])}, None),
    "another name, in the folder itself": (
        ["a.png", "a.jpg"],
        {"labels_my-project_2024.json": ({1: "a.png", 2: "a.jpg"}, [A, B])},
        None,
    ),
    "no val": (
        ["images/a.png", "images/b.png", "images/c.png"],
        {"train.json": ({1: "a.png", 2: "b.png"}, [A, B]), "test.json": ({3: "c.png"}, [C])},
        None,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_tools(layout, tmp_path):
    images, jsons, expected = LAYOUTS[layout]
    root = tmp_path / "mine"
    save(root, *images)
    for path, (listed, annotations) in jsons.items():
        dump(root, path, content(listed, annotations))
    builder = load(root, tmp_path)
    splits = names(builder)
    if expected is not None:
        assert splits == expected
    assert len(samples(builder)) == len(images) and splits["train"] and splits["val"]
    assert all(sample["masks"].sum() == 36 for sample in samples(builder).values())


@pytest.mark.parametrize(
    "categories,expected",
    [
        (
            [{"id": 0, "name": "pets", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "pets"}],
            ["cat"],
        ),
        ([{"id": 0, "name": "_background_"}, {"id": 1, "name": "cat"}], ["cat"]),
        (
            [{"id": 1, "name": "cat", "supercategory": "cat"}, {"id": 0, "name": "eel", "supercategory": ""}],
            ["eel", "cat"],
        ),
    ],
)
def test_categories_that_are_no_classes(categories, expected, mine, tmp_path):
    edit(mine, lambda c: c.update(categories=categories))
    metadata = load(mine, tmp_path).info.metadata
    assert metadata["class_names"] == expected and metadata["category_ids"][-1] == 1


def test_what_tools_write_is_repaired_and_counted(mine, tmp_path, capsys):
    changes = [
        {"segmentation": [[2, 3, 8, 3]]},  # two points
        {"segmentation": [[-9, 3, -2, 3, -2, 9]]},  # outside
        {"bbox": [2, 3, 0, 6]},  # no area
        {"bbox": [100, 3, 6, 6]},  # outside
        {"bbox": [2, 3, 8, 9], "segmentation": [[2, 2, 11, 2, 11, 11, 2, 11]]},  # fits well enough
        {"bbox": [8, 8, 16, 12], "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]},  # corners in place of a size
        {"bbox": [-3, 3, 9, 6]},  # partly outside
        {"bbox": None, "area": 0, "segmentation": [SQUARE, [0, 0, 1, 1]]},
    ]
    edit(mine, lambda c: [a.update(change) for a, change in zip(c["annotations"], changes, strict=False)])
    found = samples(load(mine, tmp_path))
    assert [len(found[str(i)]["boxes"]) for i in range(10)] == [0, 0, *[1] * 7, 0]
    boxes = {i: found[str(i)]["boxes"][0].tolist() for i in range(2, 9)}
    assert boxes[2] == boxes[3] == boxes[7] == [2, 3, 8, 9]  # of the mask
    assert boxes[4] == [2, 3, 10, 12] and boxes[5] == [0, 0, 9, 9] and boxes[6] == [0, 3, 6, 9]
    assert found["7"]["areas"].tolist() == [36]
    err = capsys.readouterr().err
    for number, what in ((2, "without a pixel"), (2, "without area"), (1, "do not fit"), (1, "reach out")):
        assert re.search(rf"warning: folder_instances: .*{what}.*: {number}, the first is .* annotation \d", err), what


def test_exif_turns_objects_that_fit_the_stored_pixels(mine, tmp_path, capsys):
    """The size in the JSON tells which pixels the objects fit; where it does not, the upright ones, which tools show."""
    exif = Image.Exif()
    exif[0x0112] = (
        6  # turned clockwise to be upright: row r, column c of the stored image is row c, column HEIGHT - 1 - r
    )
    save(mine, "images/0.png", "images/1.png", exif=exif)
    exif[0x0112] = 3
    save(mine, "images/2.png", exif=exif)
    edit(mine, lambda c: c["images"][1].update(height=WIDTH, width=HEIGHT))
    found = samples(load(mine, tmp_path))
    assert found["0"]["image"].shape == found["1"]["image"].shape == (WIDTH, HEIGHT, 3)
    stored = np.zeros((HEIGHT, WIDTH), np.uint8)
    stored[3:9, 2:8] = 1
    np.testing.assert_array_equal(found["0"]["masks"][0], np.rot90(stored, -1))
    np.testing.assert_array_equal(found["0"]["boxes"], [(HEIGHT - 9, 2, HEIGHT - 3, 8)])
    np.testing.assert_array_equal(found["1"]["boxes"], [(2, 3, 8, 9)])
    np.testing.assert_array_equal(found["2"]["boxes"], [(2, 3, 8, 9)])
    assert re.search(r"EXIF orientation .* upright image: 1, the first is .*2\.png", capsys.readouterr().err)


@pytest.mark.parametrize("turn", range(2, 9))
def test_boxes_turn_with_masks(turn):
    mask = np.zeros((6, 9), np.uint8, order="F")
    mask[1:3, 4:8] = 1
    counts = folder_instances.objects.run_lengths.encode(mask)["counts"].decode()
    found = {"bbox": [4.0, 1.0, 4.0, 2.0], "segmentation": {"size": [6, 9], "counts": counts}}
    turned = folder_instances.objects._turned(found, turn)
    decoded = folder_instances.objects.run_lengths.decode(turned["segmentation"])
    rows, columns = decoded.nonzero()
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert turned["bbox"] == box and decoded.sum() == 8 and decoded.shape == ((9, 6) if turn > 4 else (6, 9))


def test_all_faults_at_once(mine, tmp_path, capsys):
    bad = [
        {"category_id": 7},
        {"image_id": 99},
        {"segmentation": []},
        {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
        {"segmentation": [[float("nan"), 2, 3, 4, 5, 6]]},
        {"segmentation": {"size": [30, 40], "counts": [1200]}},
        {"segmentation": [[0, 0, 900, 0, 900, 900]]},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, float("inf"), 4]},
    ]

    def change(c):
        for annotation, fields in zip(c["annotations"], bad, strict=True):
            annotation.update(fields)
        c["annotations"] += [square(3, 9), square("a", 9)]
        c["images"] += [{"id": 9, "file_name": "9.png"}, {"id": 10, "file_name": "gone.png"}, {"id": 11}]
        c["categories"] += [{"id": 5, "name": "cat"}, {"id": 6}]

    edit(mine, change)
    (mine / "images/7.png").write_bytes(b"")
    (mine / "images/8.png").write_text("no image")
    save(mine, "images/9.png", size=(5, 7))
    with pytest.raises(UserError) as raised:
        load(mine, tmp_path)
    assert re.search(r"^folder_instances: \d+ faults: .* more, listed above$", str(raised.value))
    err = capsys.readouterr().err
    for fault in (
        r"annotations.json annotation 0: there is no category 7",
        r"annotations.json annotation 1: there is no image 99",
        r"annotation 2: it has no mask: export polygons or masks .* \(image 2.png\)",
        r"annotation 3: an object has a polygon that is not a list of numbers",
        r"annotation 4: an object has a polygon that is not a list of numbers",
        r"annotation 5: an object's mask is \[30, 40\] \(height, width\), but its image is \[12, 16\]",
        r"annotation 6: a polygon has the point \(900, 0\), but the image is 16x12",
        r"annotations.json: two entries for annotation 3: ids must differ",
        r"annotations.json: two entries for image 9: ids must differ",
        r"annotation at position 10: its id is 'a'; expected a whole number",
        r"images/7.png: the file is empty",
        r"images/8.png: not an image",
        r"images/9.png: the image is 7x5, but annotations.json says 16x12",
        r"image 10: gone.png is missing",
        r"image 11: it has no file_name",
        r"category 5: its name 'cat' is also that of category 1",
        r"category 6: it has no name",
    ):
        assert re.search(fault, err), fault
    assert not list(tmp_path.glob("prepared/**/1.0.0*"))
    # The images of the last two annotations cannot be read: their boxes are checked once they can.
    edit(mine, lambda c: [a.update(image_id=6) for a in c["annotations"][7:9]])
    with pytest.raises(UserError):
        load(mine, tmp_path)
    err = capsys.readouterr().err
    assert re.search(r"annotation 7: its box is \[1, 2, 3\]; expected four finite numbers x, y, width, height", err)
    assert re.search(r"annotation 8: its box is \[1, 2, inf, 4\]", err)


WRONG = {
    "not JSON": (lambda t: (t / "annotations.json").write_text("{"), r"annotations.json: damaged, or not JSON"),
    "empty file": (lambda t: (t / "annotations.json").write_text(""), r"annotations.json: the file is empty$"),
    "other JSON": (lambda t: (t / "annotations.json").write_text("[]"), r"expected COCO's JSON .*missing: images, ann"),
    "no categories": (lambda t: edit(t, lambda c: c.pop("categories")), r"expected COCO's JSON .*missing: categories$"),
    "no images": (
        lambda t: edit(t, lambda c: c.update(images=[], annotations=[])),
        r"annotations.json: lists no images$",
    ),
    "one image": (
        lambda t: edit(t, lambda c: c.update(images=c["images"][:1], annotations=[])),
        r"annotations.json: lists only one image",
    ),
    "no objects": (lambda t: edit(t, lambda c: c.update(annotations=[])), r"no image of the split train has an object"),
    "no JSON": (lambda t: (t / "annotations.json").unlink(), r"has no JSON file of objects: .* expects a folder with"),
    "a JSON for each image": (
        lambda t: [(t / "annotations.json").unlink(), dump(t, "images/1.json", {}), dump(t, "images/2.json", {})],
        r"has 2 JSON files, but none named like annotations.json .* as \S*images/1.json, .* labelme2coco.py",
    ),
    "two for a split": (
        lambda t: [dump(t, path, {}) for path in ("train.json", "annotations/instances_train.json")],
        r"two JSON files for the split train, annotations/instances_train.json and train.json: keep one",
    ),
    "one for all and one for a split": (
        lambda t: dump(t, "train.json", {}),
        r"a JSON file of all images and others of splits, annotations.json and train.json",
    ),
    "only val": (
        lambda t: (t / "annotations.json").rename(t / "val.json"),
        r"has val.json, but no JSON file for the split train",
    ),
    "other categories": (
        lambda t: [
            dump(t, "train.json", content({1: "1.png"}, [A])),
            dump(t, "val.json", content({2: "2.png"}, [B], [{"id": 1, "name": "dog"}, {"id": 4, "name": "cat"}])),
            (t / "annotations.json").unlink(),
        ],
        r"val.json category 1: it is 'dog', but 'cat' in \S*train.json; \S*val.json category 4",
    ),
    "several images of the name": (
        lambda t: [save(t, "x/0.png", "y/0.png"), (t / "images/0.png").unlink()],
        r"image 0: 0.png is missing, and 2 images have its name, such as \S*x/0.png$",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_folders_are_reported(fault, mine, tmp_path):
    spoil, message = WRONG[fault]
    spoil(mine)
    with pytest.raises(UserError) as raised:
        load(mine, tmp_path)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)


def test_semantic_segmentation_says_that_it_needs_labels(mine, tmp_path):
    for path in ("annotations.json", "annotations/instances_default.json"):
        with pytest.raises(UserError, match=rf"{path} has objects for instance segmentation.*mask_rcnn.py.*labels"):
            data.load("folder", tmp_path / "prepared", mine)
        (mine / "annotations").mkdir(exist_ok=True)
        if (mine / "annotations.json").exists():
            (mine / "annotations.json").rename(mine / "annotations/instances_default.json")


def test_changes_are_prepared_again(mine, tmp_path):
    first = folder_instances.FolderInstances.fingerprint(mine)
    assert first == folder_instances.FolderInstances.fingerprint(mine)
    save(mine, "images/3.png", value=101)
    second = folder_instances.FolderInstances.fingerprint(mine)
    edit(mine, lambda c: c["annotations"][0].update(category_id=4))
    assert len({first, second, folder_instances.FolderInstances.fingerprint(mine)}) == 3
    save(mine, "images/unused.png")
    assert second != folder_instances.FolderInstances.fingerprint(mine) != first
