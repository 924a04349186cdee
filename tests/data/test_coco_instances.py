"""COCO 2017's objects: right values of every form, and all faults at once."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from ctxseg import data
from ctxseg.data import instance_transforms, instances
from ctxseg.data.builders import coco, coco_instances
from ctxseg.data.store import unprepared
from ctxseg.data.summary import count
from ctxseg.errors import UserError

PERSON, DOG, BANANA = 1, 18, 52  # category ids; classes 0, 16 and 46
HEIGHT, WIDTH = 6, 8
# A polygon's corners lie between pixels: this covers rows 1..3, columns 1..4.
RECTANGLE = [1, 1, 5, 1, 5, 4, 1, 4]
OBJECTS = [
    {"id": 11, "category_id": PERSON, "segmentation": [RECTANGLE, [2, 0, 5, 0]], "bbox": [1.25, 1, 3.5, 3], "area": 11.5},
    # In two pieces: row 5, columns 0..1, and row 5, columns 6..7.
    {"id": 12, "category_id": BANANA, "segmentation": [[0, 5, 2, 5, 2, 6, 0, 6], [6, 5, 8, 5, 8, 6, 6, 6]],
     "bbox": [0, 5, 8, 1], "area": 4},
    # Run lengths go down the columns: rows 1..2 of column 2, and row 0 of column 7.
    {"id": 13, "category_id": DOG, "segmentation": {"size": [6, 8], "counts": [13, 2, 27, 1, 5]}, "iscrowd": 1,
     "bbox": [2, 0, 6, 3], "area": 3},
]  # fmt: skip
MASKS = np.zeros((3, HEIGHT, WIDTH), np.uint8)
MASKS[0, 1:4, 1:5] = 1
MASKS[1, 5, [0, 1, 6, 7]] = 1
MASKS[2, 1:3, 2] = MASKS[2, 0, 7] = 1


def write(root, split, objects_by_image, folder=""):
    """Writes COCO's layout. objects_by_image: {image id: (height, width, objects)}."""
    images = root / folder / split
    images.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    categories = [{"id": i, "name": name} for i, name in coco.CATEGORIES.items()]
    content = {"info": {}, "images": [], "annotations": [], "categories": categories}
    for number, (height, width, objects) in objects_by_image.items():
        name = f"{number:012d}.jpg"
        Image.fromarray(np.full((height, width, 3), number, np.uint8)).save(images / name)
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        content["annotations"] += [{"iscrowd": 0, "image_id": number, **o} for o in objects]
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def tree(tmp_path):
    """Two training images, the second without objects, and a validation image."""
    write(tmp_path / "coco", "train2017", {9: (HEIGHT, WIDTH, OBJECTS), 4: (3, 5, [])})
    write(tmp_path / "coco", "val2017", {7: (HEIGHT, WIDTH, [OBJECTS[0]])})
    return tmp_path / "coco"


def test_objects(tree, tmp_path, capsys):
    builder = data.load("coco_instances", tmp_path / "cache", tree)
    assert (
        "warning: coco_instances train has 2 images, 118285 fewer than the 118287 published" in capsys.readouterr().err
    )
    train, val = (instances.InstanceSource(builder, split) for split in ("train", "val"))
    assert [train[i]["name"] for i in (0, 1)] == ["000000000004", "000000000009"]  # by id
    assert train[0]["masks"].shape == (0, 3, 5) and train[0]["id"] == 4
    sample = train[1]
    np.testing.assert_array_equal(sample["masks"], MASKS)
    np.testing.assert_array_equal(sample["boxes"], [(1.25, 1, 4.75, 4), (0, 5, 8, 6), (2, 0, 8, 3)])
    assert sample["classes"].tolist() == [0, 46, 16] and sample["crowd"].tolist() == [False, False, True]
    assert sample["areas"].tolist() == [11.5, 4, 3] and abs(int(sample["image"][0, 0, 0]) - 9) < 3
    stored = train.annotations(1)["annotations"]
    assert [a["id"] for a in stored] == [11, 12, 13] and stored[0]["bbox"] == [1.25, 1, 3.5, 3]
    assert (train.sizes.tolist(), train.counts.tolist()) == ([[3, 5], [6, 8]], [0, 2])
    np.testing.assert_array_equal(val[0]["masks"], MASKS[:1])
    counts = count(builder, "train")
    assert (counts.pixels[[0, 16, 46]].tolist(), counts.objects[[0, 16, 46]].tolist()) == ([12, 3, 4], [1, 0, 1])
    assert counts.images.sum() == 3


def test_classes():
    metadata = unprepared(data.DATASETS["coco_instances"]).info.metadata
    assert len(metadata["class_names"]) == 80 == len(set(map(tuple, metadata["palette"])))
    assert metadata["category_ids"] == sorted(coco.CATEGORIES) and metadata["groups"] == {}
    assert [metadata["class_names"][i] for i in (0, 16, 46, 79)] == ["person", "dog", "banana", "toothbrush"]
    assert coco_instances.RULES.classes[90] == 79


def test_compressed_run_lengths_and_images_in_the_folder_images(tmp_path):
    mask = np.asfortranarray(np.random.default_rng(0).random((50, 70)) < 0.3)
    encoded = run_lengths.encode(mask.view(np.uint8))
    segmentation = {"size": [50, 70], "counts": encoded["counts"].decode()}
    item = {"id": 1, "category_id": PERSON, "segmentation": segmentation, "bbox": [0, 0, 70, 50], "area": 1000}
    write(tmp_path / "coco", "train2017", {9: (50, 70, [item])}, folder="images")
    write(tmp_path / "coco", "val2017", {7: (6, 8, [])}, folder="images")
    source = instances.InstanceSource(data.load("coco_instances", tmp_path / "cache", tmp_path / "coco"), "train")
    np.testing.assert_array_equal(source[0]["masks"][0], mask)


def edit(root, change, split="train2017"):
    path = root / f"annotations/instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_published_objects_are_kept(tree, tmp_path, capsys):
    """Scores are comparable: boxes and objects stay, even if a mask has no pixel; what cannot be an object is left out."""

    def change(content):
        first, second, crowd = content["annotations"]
        first |= {"segmentation": [[2, 2, 3, 3]]}  # two points
        second |= {"bbox": [0, 5, 3, 0]}  # no area
        crowd |= {"segmentation": [[2, 2, 3, 3]], "bbox": [2, 2, 0, 1]}

    edit(tree, change)
    source = instances.InstanceSource(data.load("coco_instances", tmp_path / "cache", tree), "train")
    sample = source[1]
    np.testing.assert_array_equal(sample["boxes"], [(1.25, 1, 4.75, 4), (0, 5, 8, 6)])
    assert not sample["masks"][0].any() and sample["masks"][1].sum() == 4
    err = capsys.readouterr().err
    assert re.search("coco_instances: objects without a pixel .*: 1, the first is .* annotation 13", err)
    assert re.search("coco_instances: boxes without area .*: 1, the first is .* annotation 12", err)
    assert instance_transforms.crop(sample, 0, 0, (6, 8))["classes"].tolist() == [46]  # training does not use the first


def test_all_faults_at_once(tree, tmp_path, capsys):
    def change(content):
        first, second, crowd = content["annotations"]
        first |= {"category_id": 12}
        second |= {"segmentation": [[0, 0, 1, 1, float("nan"), 2]]}
        crowd |= {"segmentation": {"size": [8, 6], "counts": [48]}}
        content["annotations"].append({"id": 14, "image_id": 5, "category_id": 1, "segmentation": [RECTANGLE]})
        content["annotations"].append({"id": 13, "image_id": 9, "category_id": 1, "segmentation": [RECTANGLE]})
        content["images"].append({"id": 3, "file_name": "gone.jpg", "height": 6, "width": 8})

    edit(tree, change)
    (tree / "annotations/instances_val2017.json").write_text("[1, 2")
    with pytest.raises(UserError) as raised:
        data.load("coco_instances", tmp_path / "cache", tree)
    assert re.search("^coco_instances: 7 faults: .*; and 6 more, listed above$", str(raised.value))
    err = capsys.readouterr().err
    for fault in (
        r"instances_train2017.json annotation 11: there is no category 12",
        r"annotation 12: an object has a polygon that is not a list of numbers",
        r"annotation 13: an object's mask is \[8, 6\] \(height, width\), but its image is \[6, 8\]",
        r"annotation 14: there is no image 5",
        r"two entries for annotation 13: ids must differ",
        r"gone.jpg: No such file",
        r"instances_val2017.json: damaged, or not JSON",
    ):
        assert re.search(fault, err), fault
    assert not list(tmp_path.glob("cache/**/1.0.0*"))


def test_missing_files_are_named(tree, tmp_path):
    (tree / "annotations/instances_val2017.json").unlink()
    with pytest.raises(
        UserError, match="instances_val2017.json is missing; coco_instances expects COCO 2017: annotations"
    ):
        data.load("coco_instances", tmp_path / "cache", tree)
