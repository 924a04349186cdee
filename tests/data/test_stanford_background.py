import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.data import pipeline
from ctxseg.data.builders import stanford_background
from ctxseg.errors import UserError


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "iccv09Data"
    (tree / "images").mkdir(parents=True)
    (tree / "labels").mkdir()
    for i in range(12):
        Image.fromarray(np.full((2, 3, 3), 20 * i, np.uint8)).save(tree / f"images/{i:07d}.jpg")
        (tree / f"labels/{i:07d}.regions.txt").write_text(f"0 -1 {i % 8}\n7 1 1\n")
        (tree / f"labels/{i:07d}.surfaces.txt").write_text("1 1 1\n1 1 1\n")
    return tree


def test_folds(tree, tmp_path):
    builder = data.load("stanford_background", tmp_path / "cache", tree)
    folds = [list(pipeline.source(builder, f"fold{i}")) for i in range(5)]
    assert [len(fold) for fold in folds] == [3, 3, 2, 2, 2]
    names = [[sample["name"] for sample in fold] for fold in folds]
    assert sorted(name for fold in names for name in fold) == [f"{i:07d}" for i in range(12)]
    assert sum(names, []) != sorted(sum(names, []))  # random, but always the same
    splits = stanford_background.list_pairs(tree)
    assert [[pair.name for pair in pairs] for pairs in splits.values()] == names
    for sample in sum(folds, []):
        i = int(sample["name"])
        np.testing.assert_array_equal(sample["label"], [[0, 255, i % 8], [7, 1, 1]])
        np.testing.assert_allclose(sample["image"], 20 * i, atol=3)

    rest = pipeline.source(builder, "fold1+fold2+fold3+fold4")  # the training split if fold0 is for testing
    assert [sample["name"] for sample in rest] == sum(names[1:], [])
    assert builder.info.metadata["class_names"][0] == "sky" and len(builder.info.metadata["class_names"]) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 2\n8 -2 0\n", r"3.regions.txt: label id -2, 8, but stanford_background has 0..7 and -1 \(void\)$"),
        ("0 1 2\n0 1\n", r"3.regions.txt: .*columns"),
        ("0 1 2\nsky 1 2\n", r"3.regions.txt: .*sky"),
        ("0 1\n0 1\n", r"3.regions.txt: label is 2x2, but its image is 3x2$"),
    ],
)
def test_bad_labels_are_reported(text, message, tree, tmp_path):
    (tree / "labels/0000003.regions.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        data.load("stanford_background", tmp_path / "cache", tree)


def test_bad_folders_are_reported(tree, tmp_path):
    with pytest.raises(UserError, match=rf"images is missing; did you mean {tree}\?$"):
        data.load("stanford_background", tmp_path / "cache", tree.parent)
    (tree / "labels/0000003.regions.txt").unlink()
    with pytest.raises(UserError, match="0000003.regions.txt is missing$"):
        data.load("stanford_background", tmp_path / "cache", tree)
    for path in sorted((tree / "images").iterdir())[4:]:
        path.unlink()
    with pytest.raises(UserError, match=r"images has 4 \*.jpg.* 5, one per fold$"):
        data.load("stanford_background", tmp_path / "cache", tree)
