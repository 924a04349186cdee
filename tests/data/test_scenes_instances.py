"""`scenes_instances` is deterministic, its masks are those of visible objects, and context alone decides some of its classes."""

import cv2
import numpy as np
import pytest

from ctxseg import data
from ctxseg.data import instances, scenes_instances
from ctxseg.data.builders import scenes_instances as builder
from ctxseg.data.scenes_instances import CLASS_NAMES, GROUPS, SIZE, SIZES, Answers, layout, scene, visible

ID = {name: i for i, name in enumerate(CLASS_NAMES)}


@pytest.fixture(scope="module")
def drawn():
    """`[(image, masks, classes)]`: the first 150 training images of seed 0."""
    return [scene(0, "train", i) for i in range(150)]


def grown(mask, pixels=1):
    return cv2.dilate(mask.view(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)).view(bool)


def test_the_same_arguments_give_the_same_bytes_and_other_arguments_another_scene():
    first, again = scene(3, "train", 5), scene(3, "train", 5)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    arguments = ((3, "train", 5), (4, "train", 5), (3, "val", 5), (3, "train", 9))
    assert len({scene(*scene_arguments)[0].tobytes() for scene_arguments in arguments}) == 4


# For some images of seed 0: their mean, and the classes and visible pixels of their objects. If these change, so must `FINGERPRINT`.
KNOWN = {
    ("train", 0): (68.77, [2, 4, 0, 0, 0], [274, 564, 160, 281, 144]),
    ("train", 1999): (66.62, [3, 5, 5, 7, 1, 0, 1, 1], [1744, 167, 162, 315, 194, 248, 286, 132]),
    ("val", 1): (107.98, [3, 5, 0, 1, 1], [116, 560, 961, 1634, 214]),
    ("val", 399): (116.65, [3, 5, 7, 1, 0, 0], [271, 282, 274, 288, 2112, 1682]),
}


def test_the_fingerprint_matches_the_images():
    assert (builder.FINGERPRINT, builder.SEED) == ("29d37c526b66", 0)
    assert scenes_instances.SPLITS == {"train": 2000, "val": 400}
    for (split, index), (mean, classes, pixels) in KNOWN.items():
        image, masks, actual = scene(builder.SEED, split, index)
        assert abs(image.mean() - mean) < 0.05
        assert actual.tolist() == classes and masks.sum((1, 2)).tolist() == pixels


def test_contents(drawn):
    counts, touching, same = set(), 0, 0
    for i, (image, masks, classes) in enumerate(drawn):
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8 and masks.dtype == bool
        assert masks.shape == (len(classes), SIZE, SIZE) and masks.sum(0).max() == 1
        assert masks.sum((1, 2)).min() >= scenes_instances.SMALLEST
        beacon = scenes_instances.BEACONS[i & 1]
        present = {CLASS_NAMES[c] for c in classes}
        assert {beacon, f"tissue with {beacon}"} <= present and (classes == ID[beacon]).sum() == 1
        assert not present & {f"tissue with {other}" for other in scenes_instances.BEACONS if other != beacon}
        pairs = [(a, b) for a in range(len(classes)) for b in range(a) if (grown(masks[a]) & masks[b]).any()]
        touching += bool(pairs)
        same += any(classes[a] == classes[b] for a, b in pairs)
        counts.add(len(classes))
    assert counts == set(range(3, 9)) and touching > 75 and same > 45


def test_objects_have_three_sizes_and_some_are_partly_hidden():
    hidden, sides = [], []
    for seed in range(100):
        placed = layout(np.random.default_rng(seed))
        whole = np.array([o.mask.sum() for o in placed])
        shares = visible(placed).sum((1, 2)) / whole
        assert shares.min() >= scenes_instances.VISIBLE
        hidden += (shares < 0.85).tolist()
        sides += [np.sqrt(n) for n in whole]
    assert 0.08 < np.mean(hidden) < 0.4
    histogram = np.histogram(sides, [0, 18, 29, SIZES[2][1]])[0] / len(sides)
    assert histogram.min() > 0.12


def test_a_strip_touches_only_blocks_of_its_class(drawn):
    for _, masks, classes in drawn:
        strips = [k for k, c in enumerate(classes) if CLASS_NAMES[c] in GROUPS["neighbours"]]
        assert len({classes[k] for k in strips}) == len(strips) <= 2
        for k in strips:
            texture = CLASS_NAMES[classes[k]].removeprefix("text at ")
            near = [j for j in range(len(classes)) if j != k and (grown(masks[k], 2) & masks[j]).any()]
            assert near and {CLASS_NAMES[classes[j]] for j in near} == {texture}


@pytest.mark.parametrize("index", range(12))
def test_answers_change_classes_but_not_the_pixels_that_they_classify(index):
    image, masks, classes = scene(1, "val", index, Answers(0, 0))
    for field, group, deciders in (
        ("beacon", "distant_cue", scenes_instances.BEACONS),
        ("block", "neighbours", scenes_instances.BLOCKS),
    ):
        other_image, other_masks, other = scene(1, "val", index, Answers(0, 0)._replace(**{field: 1}))
        np.testing.assert_array_equal(masks, other_masks)
        decided = np.isin(classes, [ID[name] for name in GROUPS[group]])
        assert (classes != other)[decided].all()
        changed = (image != other_image).any(-1)
        assert not (changed & masks[decided].any(0)).any()
        allowed = masks[np.isin(classes, [ID[name] for name in deciders])].any(0)
        assert not (changed & ~allowed).any()


def test_builder_keeps_every_pixel(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes_instances, "SPLITS", {"train": 4, "val": 3})
    prepared = data.load("scenes_instances", tmp_path)
    metadata = prepared.info.metadata
    assert (metadata["class_names"], metadata["palette"], metadata["groups"]) == (
        CLASS_NAMES,
        scenes_instances.PALETTE,
        GROUPS,
    )
    assert metadata["category_ids"] == list(range(1, 9))
    for split, count in scenes_instances.SPLITS.items():
        source = instances.InstanceSource(prepared, split)
        assert len(source) == count
        for i in range(count):
            image, masks, classes = scene(0, split, i)
            sample = source[i]
            np.testing.assert_array_equal(sample["image"], image)
            np.testing.assert_array_equal(sample["masks"], masks)
            np.testing.assert_array_equal(sample["classes"], classes)
            np.testing.assert_array_equal(sample["areas"], masks.sum((1, 2)))
            for mask, (left, top, right, bottom) in zip(masks, sample["boxes"], strict=True):
                rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
                assert (left, top) == (columns[0], rows[0]) and (right, bottom) == (columns[-1] + 1, rows[-1] + 1)
            assert (sample["name"], sample["id"], source.counts[i]) == (f"{split}_{i:04d}", i, len(classes))
