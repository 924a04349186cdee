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
    {"category_id": DOG, "segmentation": [[3, 2, 5, 2, 5, 4, 3, 4]]},  # rows 2..3, columns 3..4: on the person
    {"category_id": PERSON, "segmentation": [RECTANGLE, [2, 0, 5, 0]]},  # and a line, which has no area
    # Run lengths go down the columns: rows 1..2 of column 2, under the person though smaller; and row 0 of column 7.
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
VOC = np.select([CLASSES == 1, CLASSES == 15, CLASSES == 17], [15, 3, 12]).astype(np.uint8)  # and no banana


def runs(*counts, size=(30, 40)):
    return {"size": list(size), "counts": list(counts)}


def write(root, split, pictures, folder=""):
    """COCO's layout. pictures: {image id: (height, width, objects)}."""
    images = root / folder / split
    images.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    content = {"info": {}, "images": [], "annotations": [], "categories": []}
    for number, (height, width, objects) in pictures.items():
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


def test_images_may_be_in_a_folder_of_their_own(tree, tmp_path):
    other = tmp_path / "other"
    write(other, "train2014", {9: (HEIGHT, WIDTH, OBJECTS)}, folder="images")
    write(other, "val2014", {7: (HEIGHT, WIDTH, [])}, folder="images")
    source = pipeline.source(data.load("coco_subset", tmp_path / "cache", other), "train")
    np.testing.assert_array_equal(source[0]["label"], CLASSES)
    digest = coco_subset.COCOSubset.fingerprint(other)
    with open(next(other.glob("images/val2014/*.jpg")), "ab") as file:
        file.write(b"more")
    assert coco_subset.COCOSubset.fingerprint(other) != digest != coco_subset.COCOSubset.fingerprint(tree)


def test_the_draw_depends_on_names_and_seed():
    pairs = [Pair(f"image{i}", None, None) for i in range(40)]
    drawn = coco.draw(pairs, 10, 0)
    assert len(drawn) == 10 and drawn == [p for p in pairs if p in drawn] and drawn != pairs[:10]
    assert drawn == coco.draw([p for p in pairs if p in drawn or p.name > "image2"], 10, 0)  # others may be missing
    assert drawn != coco.draw(pairs, 10, 1) and coco.draw(pairs, 50, 0) == pairs
    assert coco.draw(pairs[:3], 1, 0)[0].name == "image2"  # its digest is the first of the three; the same for ever


def test_images_with_more_than_900_pixels_count(tmp_path, capsys, monkeypatch):
    small = {"category_id": SHEEP, "segmentation": runs(0, 900, 300)}
    large = {"category_id": SHEEP, "segmentation": runs(0, 901, 299)}
    pictures = {
        1: (30, 40, [small]),
        2: (30, 40, [large]),
        3: (30, 40, [{"category_id": BANANA, "segmentation": runs(0, 1200)}]),  # none of VOC's classes
        4: (30, 40, [small, {"category_id": PERSON, "segmentation": runs(100, 700, 400)}]),  # 900 together
        5: (30, 40, [small, {"category_id": PERSON, "segmentation": runs(899, 2, 299)}]),  # 901
        6: (30, 40, []),
    }
    write(tmp_path / "coco", "train2014", pictures)
    write(tmp_path / "coco", "val2014", {number + 10: picture for number, picture in pictures.items()})
    monkeypatch.setitem(coco_voc.SPLITS, "val", 1)
    builder = data.load("coco_voc", tmp_path / "cache", tmp_path / "coco")
    numbers = {s: [int(x["name"][-3:]) for x in pipeline.source(builder, s)] for s in ("train", "val")}
    assert numbers["val"] in ([12], [15])
    assert numbers["train"] == [2, 5, *({12, 15} - set(numbers["val"]))]  # those of val2014 that are not kept
    label = pipeline.source(builder, "train")[1]["label"].T.ravel()
    assert label[898] == 17 and (label[899:901] == 15).all() and not label[901:].any()  # the smaller is on top
    assert "warning: coco_voc train has 3 images, 95182 fewer than the 95185 published" in capsys.readouterr().err


def test_voc_has_its_own_classes(tree):
    picture = coco.read(coco_voc.COCOVOC, tree, "train")[1].label
    np.testing.assert_array_equal(coco_voc.read_label(picture), VOC)
    metadata = unprepared(data.DATASETS["coco_voc"]).info.metadata
    assert [metadata["class_names"][i] for i in (0, 1, 3, 12, 15, 20)] == [
        *("background", "aeroplane", "bird", "dog", "person", "tvmonitor")
    ]
    same = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "sofa": "couch"}
    same |= {"pottedplant": "potted plant", "tvmonitor": "tv"}
    for category, class_id in coco_voc.IDS.items():
        name = metadata["class_names"][class_id]
        assert coco.CATEGORIES[category] == same.get(name, name)


def edit(tree, change, split="train2014"):
    path = tree / f"annotations/instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def damage(part):
    return lambda tree: edit(tree, lambda content: content["annotations"][0].update(part))


NAME = r"^\S*/annotations/instances_train2014.json: COCO_train2014_000000000009: "
BAD = {
    "no annotations": (
        lambda t: (t / "annotations/instances_val2014.json").unlink(),
        r"^config.data.manual_dir: \S*/instances_val2014.json is missing; coco_subset wants COCO 2014: annotations/inst",
    ),
    "no images": (lambda t: (t / "val2014").rename(t / "val"), r"coco/val2014 is missing; coco_subset wants COCO 2014"),
    "an image": (
        lambda t: (t / "train2014/COCO_train2014_000000000009.jpg").unlink(),
        r"^\S*/train2014/COCO_train2014_000000000009.jpg: No such file or directory$",
    ),
    "cut JSON": (
        lambda t: (t / "annotations/instances_train2014.json").write_text('{"images": ['),
        r"^\S*/instances_train2014.json: damaged, or no JSON: ",
    ),
    "captions": (
        lambda t: edit(t, lambda content: content["annotations"][0].pop("category_id")),
        r"instances_train2014.json: wants COCO's images \(.*\) and annotations \(.*\); stumbled over 'category_id'$",
    ),
    "other JSON": (
        lambda t: (t / "annotations/instances_train2014.json").write_text("[]"),
        r"instances_train2014.json: wants COCO's images",
    ),
    "no image": (
        lambda t: edit(t, lambda content: content["annotations"][0].update(image_id=99)),
        r"stumbled over 99$",
    ),
    "empty": (lambda t: edit(t, lambda c: c.update(images=[], annotations=[])), r"train2014.json: lists no images$"),
    "size": (
        lambda t: edit(t, lambda content: content["images"][0].update(height=5), "val2014"),
        r"^\S*/instances_val2014.json: COCO_val2014_000000000007: label is 8x5, but its image is 8x6$",
    ),
    "category": (damage({"category_id": 12}), NAME + r"category id 12 is none of COCO's 80$"),
    "infinity": (
        damage({"segmentation": [[1, 1, 5, 1, 5, float("nan")]]}),
        NAME + r"an object has a polygon that is no list of numbers x, y, x, y, …$",
    ),
    "odd polygon": (damage({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}), NAME + r"an object has a polygon that is no"),
    "words": (damage({"segmentation": [["a"] * 6]}), NAME + r"an object has a polygon that is no list"),
    "nothing": (damage({"segmentation": []}), NAME + r"an object has neither polygons nor run lengths$"),
    "run lengths": (damage({"segmentation": runs(1, 90, size=(6, 8))}), NAME + r"the run lengths of an object do not"),
    "negative": (damage({"segmentation": runs(-2, 50, size=(6, 8))}), NAME + r"the run lengths of an object do not"),
    "run size": (
        damage({"segmentation": runs(1200)}),
        NAME + r"an object is \[30, 40\] \(height, width\), but its image",
    ),
    "compact": (
        damage({"segmentation": {"size": [6, 8], "counts": "oooo"}}),
        NAME + r"the run lengths of an object are not",
    ),
    "compact, too short": (
        damage({"segmentation": {"size": [6, 8], "counts": "237"}}),
        NAME + r"the run lengths .* do not add up",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_folders_are_named(fault, tree, tmp_path):
    spoil, message = BAD[fault]
    spoil(tree)
    with pytest.raises(UserError) as raised:
        data.load("coco_subset", tmp_path / "cache", tree)
    assert re.search(message, str(raised.value)) and "\n" not in str(raised.value)
    assert not list(tmp_path.glob("cache/**/1.0.0*"))


def test_bad_objects_are_named_where_images_are_chosen(tree, tmp_path):
    damage({"segmentation": []})(tree)
    with pytest.raises(UserError, match=NAME + "an object has neither polygons nor run lengths$"):
        data.load("coco_voc", tmp_path / "cache", tree)


def test_an_object_without_area_is_not_there():
    assert not coco.paint(coco.Picture(6, 8, [(PERSON, False, [[1, 1, 5, 5]])]), {PERSON: 1}).any()


def test_compact_run_lengths():
    picture = coco.Picture(3, 4, [(PERSON, True, {"size": [3, 4], "counts": "237"})])  # 2, 3 and 7
    np.testing.assert_array_equal(coco.paint(picture, {PERSON: 5}), [[0, 5, 0, 0], [0, 5, 0, 0], [5, 0, 0, 0]])
    # Long runs, and shorter ones than two before, of more than one character: pycocotools packs, we count.
    mask = np.asfortranarray(np.random.default_rng(0).random((50, 70)) < 0.01)
    mask[:, 30:50] = True
    packed = coco.mask.encode(mask.view(np.uint8))["counts"].decode()
    edges = np.flatnonzero(np.diff(np.r_[False, mask.ravel("F")]))
    assert coco._unpacked(packed) == np.diff([0, *edges, mask.size]).tolist()
