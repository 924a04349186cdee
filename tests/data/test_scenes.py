"""`scenes` is deterministic, and each pair of classes can only be told apart by the kind of context that its group needs."""

import numpy as np
import pytest
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ctxseg import data
from ctxseg.data import scenes
from ctxseg.data.builders import scenes as builder
from ctxseg.data.scenes import BEACONS, CLASS_NAMES, GROUPS, SIZE, Answers, scene

ID = {name: i for i, name in enumerate(CLASS_NAMES)}
WINDOW = 11


@pytest.fixture(scope="module")
def drawn():
    """`[(image, label)]`: the first 400 training scenes of seed 0."""
    return [scene(0, "train", i) for i in range(400)]


def mask(label, *names):
    return np.isin(label, [ID[name] for name in names])


# The contents of a scene


def test_the_same_arguments_give_the_same_bytes_and_other_arguments_another_scene():
    first, again = scene(3, "train", 5), scene(3, "train", 5)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    arguments = ((3, "train", 5), (4, "train", 5), (3, "val", 5), (3, "train", 13))
    assert len({scene(*scene_arguments)[0].tobytes() for scene_arguments in arguments}) == 4


# For some scenes of seed 0: the mean of the image, and the pixels of each class. If these change, so must `FINGERPRINT`.
KNOWN = {
    ("train", 0): (105.48, [8654, 800, 800, 784, 0, 1682, 0, 1872, 0, 896, 896]),
    ("train", 1999): (112.13, [8590, 800, 800, 0, 784, 0, 1458, 0, 2160, 896, 896]),
    ("val", 1): (104.95, [8760, 800, 800, 0, 784, 0, 1576, 1872, 0, 896, 896]),
    ("val", 399): (110.63, [8535, 800, 800, 0, 784, 0, 1513, 0, 2160, 896, 896]),
}


def test_the_fingerprint_matches_the_scenes():
    assert (builder.FINGERPRINT, builder.SEED, scenes.SPLITS) == ("bdd4a2ecf9a1", 0, {"train": 2000, "val": 400})
    for (split, index), (mean, pixels) in KNOWN.items():
        image, label = scene(builder.SEED, split, index)
        assert abs(image.mean() - mean) < 0.05
        assert np.bincount(label.ravel(), minlength=len(CLASS_NAMES)).tolist() == pixels


def test_contents(drawn):
    for i, (image, label) in enumerate(drawn[:64]):
        assert image.shape == (SIZE, SIZE, 3) and label.shape == (SIZE, SIZE)
        assert image.dtype == label.dtype == np.uint8
        beacon, extent = BEACONS[i & 1], GROUPS["scale"][i >> 1 & 1]
        assert set(np.unique(label)) == {
            ID[name]
            for name in ("background", "grass", "gravel", "text at grass", "text at gravel")
            + (beacon, f"tissue with {beacon}", extent)
        }


def test_classes_of_a_pair_are_balanced(drawn):
    pixels = np.bincount(np.concatenate([label.ravel() for _, label in drawn]), minlength=len(CLASS_NAMES))
    assert pixels.argmax() == 0 and pixels.min() > 0.01 * pixels.sum()
    for group, limit in (("distant_cue", 1.1), ("scale", 1.25), ("neighbours", 1.001)):
        a, b = (pixels[ID[name]] for name in GROUPS[group])
        assert max(a, b) / min(a, b) < limit, group


def test_names_colours_and_groups_agree():
    assert list(GROUPS) == ["appearance", "distant_cue", "scale", "neighbours"]
    assert sorted(sum(GROUPS.values(), [])) == sorted(CLASS_NAMES)
    assert len(CLASS_NAMES) == len(scenes.PALETTE) == len({tuple(c) for c in scenes.PALETTE})


def test_builder_keeps_every_pixel(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SPLITS", {"train": 5, "val": 3})
    builder = data.load("scenes", tmp_path)
    for split, count in scenes.SPLITS.items():
        source = builder.as_data_source(split)
        assert len(source) == count
        for i, sample in enumerate(source):
            image, label = scene(0, split, i)
            np.testing.assert_array_equal(sample["image"], image)
            np.testing.assert_array_equal(sample["label"][..., 0], label)
    assert sample["name"] == b"val_0002"
    metadata = builder.info.metadata
    assert (metadata["class_names"], metadata["palette"], metadata["groups"]) == (CLASS_NAMES, scenes.PALETTE, GROUPS)


# What decides a class is where its group says


def test_the_beacon_is_more_than_48_pixels_from_every_tissue_pixel(drawn):
    for _, label in drawn:
        ((rows, columns),) = ndimage.find_objects(mask(label, *BEACONS).astype(int))
        assert (rows.stop - rows.start, columns.stop - columns.start) == (
            scenes.BEACON,
        ) * 2  # a single, complete beacon
        tissue = mask(label, "tissue with retina", "tissue with galaxies")
        assert 2 * scenes.TISSUE[0] ** 2 <= tissue.sum() <= 2 * scenes.TISSUE[1] ** 2
        reach = np.zeros((SIZE, SIZE), bool)
        reach[tuple(slice(max(s.start - 48, 0), s.stop + 48) for s in (rows, columns))] = True
        assert not (reach & tissue).any()


def test_a_strip_only_touches_its_block_with_one_end(drawn):
    for _, label in drawn:
        for texture in ("grass", "gravel"):
            name = f"text at {texture}"
            strip = mask(label, name)
            (bounding_box,) = ndimage.find_objects(strip.astype(int))
            shape = tuple(s.stop - s.start for s in bounding_box)
            assert sorted(shape) == [16, 56] and strip.sum() == 16 * 56
            touching = ndimage.binary_dilation(strip) & ~mask(label, "background", name)
            assert touching.sum() == 16 and mask(label, texture)[touching].all()  # a complete end
            assert len(np.unique(np.nonzero(touching)[np.argmax(shape)])) == 1  # across the strip's length
            near = ndimage.binary_dilation(strip, np.ones((3, 3)), iterations=2)
            assert set(np.unique(label[near])) <= {0, ID[name], ID[texture]}
            _, blocks = ndimage.label(mask(label, texture))
            assert blocks == 2  # one at the strip, and a free one


def test_walls_have_two_extents(drawn):
    for i, (_, label) in enumerate(drawn):
        walls, n = ndimage.label(mask(label, *GROUPS["scale"]))
        shapes = [sorted(s.stop - s.start for s in bounding_box) for bounding_box in ndimage.find_objects(walls)]
        assert shapes == ([[18, 120]] if i >> 1 & 1 else [[18, 52]] * 2)


# By construction, the answers do not change the pixels of the objects that they classify


@pytest.mark.parametrize("index", range(20))
def test_answers_do_not_change_the_pixels_of_their_objects(index):
    answers = Answers(0, 0, 0)
    image, label = scene(1, "val", index, answers)

    for field, group, deciders in (
        ("beacon", "distant_cue", BEACONS),
        ("block", "neighbours", scenes.BLOCKS),
        ("extent", "scale", ()),
    ):
        other_image, other_label = scene(1, "val", index, answers._replace(**{field: 1}))
        inside = mask(label, *GROUPS[group])
        assert mask(other_label, *GROUPS[group])[inside].all() and (label != other_label)[inside].all()
        np.testing.assert_array_equal(image[inside], other_image[inside])
        changed = (image != other_image).any(-1)
        assert changed.any()
        if group == "scale":  # only the cut
            assert (mask(other_label, "long wall") & ~inside)[changed].all()
        else:
            np.testing.assert_array_equal(inside, mask(other_label, *GROUPS[group]))
            assert mask(label, *deciders)[changed].all()


# The same, tested by a classifier without knowledge of the construction


def windows(image, label, name, rng, count=12):
    """`[count, features]` of random windows inside class `name`: colour, contrast and edges."""
    inside = ndimage.minimum_filter(mask(label, name), WINDOW, mode="constant")
    centres = np.argwhere(inside)
    rows = []
    for y, x in centres[rng.integers(0, len(centres), count)]:
        crop = image[y - WINDOW // 2 : y + WINDOW // 2 + 1, x - WINDOW // 2 : x + WINDOW // 2 + 1].astype(float)
        edges = [np.abs(np.diff(crop, axis=axis)).mean((0, 1)) for axis in (0, 1)]
        thirds = crop[1:-1, 1:-1].reshape(3, 3, 3, 3, 3).mean((1, 3)).ravel()
        rows.append(np.concatenate([crop.mean((0, 1)), crop.std((0, 1)), *edges, thirds]))
    return np.array(rows)


def place(image, label, name, rng):
    """`[1, features]`: the centre of class `name`, and its squared distance from the image's centre."""
    positions = np.argwhere(mask(label, name)) / SIZE
    centre = (positions.min(0) + positions.max(0)) / 2
    return np.concatenate([centre, (centre - 0.5) ** 2])[None]


def accuracy(drawn, pair, features=windows):
    """The accuracy of a classifier of the classes of `pair` by `features` on unseen images, and the number of cases.

    A case is a class in an image, scored by the mean over its windows, which share their crop and brightness.
    """
    rng = np.random.default_rng(0)
    objects = [
        (i, k, features(image, label, name, rng))
        for i, (image, label) in enumerate(drawn)
        for k, name in enumerate(pair)
        if mask(label, name).any()
    ]
    train, test = ([o for o in objects if (o[0] < len(drawn) // 2) == first_half] for first_half in (True, False))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(np.concatenate([f for _, _, f in train]), np.concatenate([[k] * len(f) for _, k, f in train]))
    correct = [(model.decision_function(f).mean() > 0) == k for _, k, f in test]
    return np.mean(correct), len(correct)


def chance(n):
    """The 99.9 % quantile of the accuracy of `n` guesses between two equally likely classes."""
    return 0.5 + 3.1 * 0.5 / np.sqrt(n)


def leaky(drawn, name):
    """The data, with objects of class `name` 15 % darker."""
    dark = [np.where(mask(label, name)[..., None], image * 0.85, image) for image, label in drawn]
    return [(image, label) for image, (_, label) in zip(dark, drawn, strict=True)]


@pytest.mark.parametrize("group", ["distant_cue", "scale", "neighbours"])
def test_small_windows_do_not_distinguish_the_classes_of_a_pair(drawn, group):
    actual, n = accuracy(drawn, GROUPS[group])
    assert actual < chance(n)
    with_leak, n = accuracy(leaky(drawn, GROUPS[group][1]), GROUPS[group])
    assert with_leak > chance(n)


@pytest.mark.parametrize("pair", [("grass", "gravel"), BEACONS, ("background", "grass")])
def test_small_windows_distinguish_appearance_classes(drawn, pair):
    assert accuracy(drawn[:100], pair)[0] > 0.95


@pytest.mark.parametrize("group", ["distant_cue", "scale", "neighbours"])
def test_position_does_not_distinguish_the_classes_of_a_pair(drawn, group):
    actual, n = accuracy(drawn, GROUPS[group], place)
    assert actual < chance(n)


def test_the_position_test_finds_a_leak(drawn):
    moved = [(image, np.roll(label, 24 * mask(label, "tissue with retina").any(), 1)) for image, label in drawn]
    with_leak, n = accuracy(moved, GROUPS["distant_cue"], place)
    assert with_leak > chance(n)


def test_one_class_of_the_rare_scenes_is_rare():
    """In training, galaxies are in 1 of 50 scenes; the other answers are balanced. `val` is that of `scenes`, without the tissue."""
    rare = builder.ScenesRare
    answers = np.array([rare.answers("train", i) for i in range(2000)])
    assert answers.sum(0).tolist() == [40, 1000, 1000]
    rare_scenes = answers[answers[:, 0] == 1]
    assert rare_scenes.sum(0).tolist() == [40, 20, 20]
    assert rare.answers("val", 0) is None
    assert len(rare.CLASS_NAMES) == 9 and not set(rare.CLASS_NAMES) & set(GROUPS["distant_cue"])
