import json
import re

import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.data import pipeline
from ctxseg.data.builders import coco, coco_subset, coco_voc
from ctxseg.data.builders.pairs import Pair
from ctxseg.data.store import unprepared
from ctxseg.errors import UserError

PERSON, BIRD, DOG, SHEEP, BANANA = 1, 16, 18, 20, 52  # category ids
HEIGHT, WIDTH = 6, 8
# A polygon's corners lie between pixels: this covers rows 1..3, columns 1..4.
RECTANGLE = [1, 1, 5, 1, 5, 4, 1, 4]
OBJECTS = [
    {"category_id": DOG, "segmentation": [[3, 2, 5, 2, 5, 4, 3, 4]]},  # rows 2..3, columns 3..4: over the person
    {"category_id": PERSON, "segmentation": [RECTANGLE, [2, 0, 5, 0]]},  # and a line, which has no area
    # Run lengths go down the columns: rows 1..2 of column 2, below the person though smaller; and row 0 of column 7.
    {"category_id": BIRD, "segmentation": {"size": [6, 8], "counts": [13, 2, 27, 1, 5]}, "iscrowd": 1},
    # In two pieces: row 5, columns 0..1, and row 5, columns 6..7.
    {"category_id": BANANA, "segmentation": [[0, 5, 2, 5, 2, 6, 0, 6], [6, 5, 8, 5, 8, 6, 6, 6]]},
]
CLASSES = np.uint8(  # the categories' places in COCO's list without gaps: person 1, bird 15, dog 17, banana 47
    [
        [0, 0, 0, 0, 0, 0, 0, 15],
        [0, 1, 1, 1, 1, 0, 0, 0],
        [0, 1, 1, 17, 17, 0, 0, 0],
        [0, 1, 1, 17, 17, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [47, 47, 0, 0, 0, 0, 47, 47],
    ]
)
VOC = np.select([CLASSES == 1, CLASSES == 15, CLASSES == 17], [15, 3, 12]).astype(np.uint8)  # VOC has no banana


def runs(*counts, size=(30, 40)):
    return {"size": list(size), "counts": list(counts)}


def write(root, split, objects_by_image, folder=""):
    """Writes COCO's layout. objects_by_image: {image id: (height, width, objects)}."""
    images = root / folder / split
    images.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    content = {"info": {}, "images": [], "annotations": [], "categories": []}
    for number, (height, width, objects) in objects_by_image.items():
        name = f"COCO_{split}_{number:012d}.jpg"
        Image.fromarray(np.full((height, width, 3), number, np.uint8)).save(images / name)
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        content["annotations"] += [{"iscrowd": 0, "image_id": number, "id": number, "bbox": [], **o} for o in objects]
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def tree(tmp_path):
    """Two training images, the second without objects, and a validation image."""
    write(tmp_path / "coco", "train2014", {9: (HEIGHT, WIDTH, OBJECTS), 4: (3, 5, [])})
    write(tmp_path / "coco", "val2014", {7: (HEIGHT, WIDTH, OBJECTS[1:2])})
    return tmp_path / "coco"


def test_objects_are_painted(tree, tmp_path, capsys):
    builder = data.load("coco_subset", tmp_path / "cache", tree)
    err = capsys.readouterr().err
    assert "warning: coco_subset train has 2 images, 9998 fewer than the 10000 published" in err
    assert "warning: coco_subset val has 1 images, 1499 fewer than the 1500 published" in err
    train, val = (pipeline.source(builder, split) for split in ("train", "val"))
    assert [s["name"] for s in train] == ["COCO_train2014_000000000004", "COCO_train2014_000000000009"]  # by id
    np.testing.assert_array_equal(train[0]["label"], np.zeros((3, 5)))
    np.testing.assert_array_equal(train[1]["label"], CLASSES)
    np.testing.assert_array_equal(np.argwhere(val[0]["label"] == 1), [(y, x) for y in (1, 2, 3) for x in (1, 2, 3, 4)])
    assert val[0]["label"].sum() == 12
    assert train[1]["image"].shape == (6, 8, 3) and abs(int(train[1]["image"][0, 0, 0]) - 9) < 3

    metadata = builder.info.metadata
    names = metadata["class_names"]
    assert len(names) == len(set(map(tuple, metadata["palette"]))) == 81
    assert [names[i] for i in (0, 1, 11, 12, 15, 47, 80)] == [
        *("background", "person", "fire hydrant", "stop sign", "bird", "banana", "toothbrush")
    ]


def test_images_may_be_in_the_folder_images(tree, tmp_path):
    other = tmp_path / "other"
    write(other, "train2014", {9: (HEIGHT, WIDTH, OBJECTS)}, folder="images")
    write(other, "val2014", {7: (HEIGHT, WIDTH, [])}, folder="images")
    source = pipeline.source(data.load("coco_subset", tmp_path / "cache", other), "train")
    np.testing.assert_array_equal(source[0]["label"], CLASSES)
    digest = coco_subset.COCOSubset.fingerprint(other)
    with open(next(other.glob("images/val2014/*.jpg")), "ab") as file:
        file.write(b"more")
    assert coco_subset.COCOSubset.fingerprint(other) != digest != coco_subset.COCOSubset.fingerprint(tree)


def test_the_drawn_images_depend_on_names_and_seed():
    pairs = [Pair(f"image{i}", None, None) for i in range(40)]
    drawn = coco.draw(pairs, 10, 0)
    assert len(drawn) == 10 and drawn == [p for p in pairs if p in drawn] and drawn != pairs[:10]
    assert drawn == coco.draw([p for p in pairs if p in drawn or p.name > "image2"], 10, 0)  # if others are missing
    assert drawn != coco.draw(pairs, 10, 1) and coco.draw(pairs, 50, 0) == pairs
    assert coco.draw(pairs[:3], 1, 0)[0].name == "image2"  # its digest is the smallest of the three; it never changes


def test_only_images_with_more_than_900_pixels_are_used(tmp_path, capsys, monkeypatch):
    small = {"category_id": SHEEP, "segmentation": runs(0, 900, 300)}
    large = {"category_id": SHEEP, "segmentation": runs(0, 901, 299)}
    objects_by_image = {
        1: (30, 40, [small]),
        2: (30, 40, [large]),
        3: (30, 40, [{"category_id": BANANA, "segmentation": runs(0, 1200)}]),  # none of VOC's classes
        4: (30, 40, [small, {"category_id": PERSON, "segmentation": runs(100, 700, 400)}]),  # 900 together
        5: (30, 40, [small, {"category_id": PERSON, "segmentation": runs(899, 2, 299)}]),  # 901
        6: (30, 40, []),
    }
    write(tmp_path / "coco", "train2014", objects_by_image)
    write(tmp_path / "coco", "val2014", {number + 10: image for number, image in objects_by_image.items()})
    monkeypatch.setitem(coco_voc.SPLITS, "val", 1)
    builder = data.load("coco_voc", tmp_path / "cache", tmp_path / "coco")
    numbers = {s: [int(x["name"][-3:]) for x in pipeline.source(builder, s)] for s in ("train", "val")}
    assert numbers["val"] in ([12], [15])
    assert numbers["train"] == [2, 5, *({12, 15} - set(numbers["val"]))]  # the rest of val2014
    label = pipeline.source(builder, "train")[1]["label"].T.ravel()
    assert label[898] == 17 and (label[899:901] == 15).all() and not label[901:].any()  # the smaller is on top
    assert "warning: coco_voc train has 3 images, 95182 fewer than the 95185 published" in capsys.readouterr().err


def test_coco_voc_has_vocs_classes(tree):
    label = coco.read(coco_voc.COCOVOC, tree, "train")[1].label
    np.testing.assert_array_equal(coco_voc.read_label(label), VOC)
    metadata = unprepared(data.DATASETS["coco_voc"]).info.metadata
    assert [metadata["class_names"][i] for i in (0, 1, 3, 12, 15, 20)] == [
        *("background", "aeroplane", "bird", "dog", "person", "tvmonitor")
    ]
    coco_names = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "sofa": "couch"}
    coco_names |= {"pottedplant": "potted plant", "tvmonitor": "tv"}
    for category, class_id in coco_voc.IDS.items():
        name = metadata["class_names"][class_id]
        assert coco.CATEGORIES[category] == coco_names.get(name, name)


def edit(tree, change, split="train2014"):
    path = tree / f"annotations/instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def damage(fields):
    return lambda tree: edit(tree, lambda content: content["annotations"][0].update(fields))


NAME = r"^\S*/annotations/instances_train2014.json: COCO_train2014_000000000009: "
BAD = {
    "no annotations": (
        lambda t: (t / "annotations/instances_val2014.json").unlink(),
        r"^config.data.manual_dir: \S*/instances_val2014.json is missing; coco_subset .*COCO 2014: annotations/inst",
    ),
    "no images": (lambda t: (t / "val2014").rename(t / "val"), r"coco/val2014 is missing; coco_subset .*COCO 2014"),
    "an image": (
        lambda t: (t / "train2014/COCO_train2014_000000000009.jpg").unlink(),
        r"^\S*/train2014/COCO_train2014_000000000009.jpg: No such file or directory$",
    ),
    "cut JSON": (
        lambda t: (t / "annotations/instances_train2014.json").write_text('{"images": ['),
        r"^\S*/instances_train2014.json: damaged.* JSON: ",
    ),
    "captions": (
        lambda t: edit(t, lambda content: content["annotations"][0].pop("category_id")),
        r"instances_train2014.json: .*COCO's images \(.*\) and annotations \(.*\); .*'category_id'$",
    ),
    "other JSON": (
        lambda t: (t / "annotations/instances_train2014.json").write_text("[]"),
        r"instances_train2014.json: .*COCO's images \(.*\) and annotations \(",
    ),
    "no image": (
        lambda t: edit(t, lambda content: content["annotations"][0].update(image_id=99)),
        r"instances_train2014.json: .* 99$",
    ),
    "empty": (lambda t: edit(t, lambda c: c.update(images=[], annotations=[])), r"train2014.json: lists no images$"),
    "size": (
        lambda t: edit(t, lambda content: content["images"][0].update(height=5), "val2014"),
        r"^\S*/instances_val2014.json: COCO_val2014_000000000007: label is 8x5, but its image is 8x6$",
    ),
    "category": (damage({"category_id": 12}), NAME + r"category id 12 .*COCO's 80$"),
    "infinity": (
        damage({"segmentation": [[1, 1, 5, 1, 5, float("nan")]]}),
        NAME + r".*polygon.* numbers x, y, x, y, …$",
    ),
    "odd polygon": (damage({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}), NAME + r".*polygon.* numbers x, y"),
    "words": (damage({"segmentation": [["a"] * 6]}), NAME + r".*polygon.* numbers x, y"),
    "nothing": (damage({"segmentation": []}), NAME + r".*neither polygons nor run lengths$"),
    "run lengths": (damage({"segmentation": runs(1, 90, size=(6, 8))}), NAME + r".*run lengths.* do not add up"),
    "fractions": (damage({"segmentation": runs(1.5, 46.5, size=(6, 8))}), NAME + r".*run lengths.* do not add up"),
    "negative": (damage({"segmentation": runs(-2, 50, size=(6, 8))}), NAME + r".*run lengths.* do not add up"),
    "run size": (
        damage({"segmentation": runs(1200)}),
        NAME + r".*\[30, 40\] \(height, width\), but its image is \[6, 8\]$",
    ),
    "compact": (
        damage({"segmentation": {"size": [6, 8], "counts": "oooo"}}),
        NAME + r".*run lengths.* not in COCO's compressed form$",
    ),
    "compact, too short": (
        damage({"segmentation": {"size": [6, 8], "counts": "237"}}),
        NAME + r".*run lengths.* do not add up",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_folders_are_reported(fault, tree, tmp_path):
    spoil, message = BAD[fault]
    spoil(tree)
    with pytest.raises(UserError) as raised:
        data.load("coco_subset", tmp_path / "cache", tree)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)
    assert not list(tmp_path.glob("cache/**/1.0.0*"))


def test_bad_objects_are_reported_when_images_are_selected(tree, tmp_path):
    damage({"segmentation": []})(tree)
    with pytest.raises(UserError, match=NAME + ".*polygons.*run lengths"):
        data.load("coco_voc", tmp_path / "cache", tree)


def test_an_object_without_area_is_not_painted():
    assert not coco.paint(coco.ImageAnnotations(6, 8, [(PERSON, False, [[1, 1, 5, 5]])]), {PERSON: 1}).any()


def test_compact_run_lengths():
    crowd = (PERSON, True, {"size": [3, 4], "counts": "237"})  # run lengths 2, 3 and 7
    label = coco.paint(coco.ImageAnnotations(3, 4, [crowd]), {PERSON: 5})
    np.testing.assert_array_equal(label, [[0, 5, 0, 0], [0, 5, 0, 0], [5, 0, 0, 0]])
    # Numbers of more than one character: long runs, and runs much shorter than the one before the last. Packed by pycocotools.
    mask = np.asfortranarray(np.random.default_rng(0).random((50, 70)) < 0.01)
    mask[:, 30:50] = True
    packed = coco.mask.encode(mask.view(np.uint8))["counts"].decode()
    edges = np.flatnonzero(np.diff(np.r_[False, mask.ravel("F")]))
    assert coco._unpacked(packed) == np.diff([0, *edges, mask.size]).tolist()
