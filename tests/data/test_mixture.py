"""Mixtures of data sets: the shares of the drawn images, their order, the labels, and the errors of `config.data.mixture`."""

import json
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from ctxseg import data
from ctxseg.commands import command_line
from ctxseg.data import mixture, pipeline
from ctxseg.data.builders import camvid
from ctxseg.errors import UserError
from ctxseg.evaluation import splits
from ctxseg.tasks import semantic
from ctxseg.training import checks

FCN = "--config=configs/fcn.py:camvid"


class Samples:
    """`count` images of one pixel. Its channels are the number of the data set, the index of the sample, and 0."""

    def __init__(self, number, count):
        self.number, self.count = number, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": np.full((1, 1, 3), (self.number, index, 0), np.uint8), "label": np.zeros((1, 1), np.uint8)}


def noisy(sample, rng):
    """The sample with a random last channel and label."""
    image = sample["image"].copy()
    image[..., 2], label = rng.integers(0, 256, 2)
    return {"image": image, "label": np.full((1, 1), label, np.uint8)}


COUNT = 250  # Grain's shuffling is slow with few samples
SHARES = (Fraction(1, 2), Fraction(1, 5))  # of the data sets 1 and 2; data set 0 has 3/10


def iterator(seed=0, batch_size=4, **kwargs):
    others = [(Samples(i, COUNT), share) for i, share in enumerate(SHARES, 1)]
    return pipeline.train_iterator(Samples(0, COUNT), noisy, batch_size, seed, threads=0, others=others, **kwargs)


def drawn(batches, count):
    """[(data set, index)] of the next `count` batches."""
    images = np.concatenate([next(batches)["image"][:, 0, 0] for _ in range(count)])
    return [(int(number), int(index)) for number, index, _ in images]


def test_shares_over_ten_thousand_images():
    images = drawn(iterator(batch_size=100), 100)
    counts = np.cumsum([[number == i for i in range(3)] for number, _ in images], axis=0)
    assert counts[-1].tolist() == [3000, 5000, 2000]
    expected = np.arange(1, 10_001)[:, None] * np.array([0.3, 0.5, 0.2])
    assert np.abs(counts - expected).max() < 2
    orders = []
    for i in range(3):
        indices = [index for number, index in images if number == i]
        epochs = [tuple(indices[start:][:COUNT]) for start in range(0, len(indices), COUNT)]
        assert all(sorted(epoch) == list(range(COUNT)) for epoch in epochs)
        orders += epochs
    assert len(set(orders)) == len(orders)  # in every epoch of every data set another one


@pytest.mark.parametrize("shares", [(0.889,), (0.001,), (1 / 3, 1 / 3), (0.05, 0.9, 0.02), (0.3, 0.3, 0.3)])
def test_any_shares_are_exact_and_no_image_is_left_out(shares):
    shares = [Fraction(share).limit_denominator(mixture.PRECISION) for share in shares]
    shares.insert(0, 1 - sum(shares))
    positions, seen = pipeline.Shares(shares), [0] * len(shares)
    for n in range(1, 3001):
        index, position = positions[n - 1]
        assert position == seen[index]
        seen[index] += 1
        assert all(abs(count - n * share) < len(shares) - 1 for count, share in zip(seen, shares, strict=True))


def test_the_order_depends_on_the_seed_and_batches_resume():
    first, second = drawn(iterator(), 9), drawn(iterator(seed=1), 9)
    assert [number for number, _ in first] == [number for number, _ in second] and first != second
    batches = iterator()
    for _ in range(7):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    expected = [next(batches) for _ in range(5)]
    resumed = iterator()
    resumed.set_state(state)
    for batch in expected:
        np.testing.assert_equal(next(resumed), batch)


def test_threads_and_processes_draw_the_same_batches():
    together, parts = iterator(), [iterator(process_index=i, process_count=2) for i in range(2)]
    others = [(Samples(i, COUNT), share) for i, share in enumerate(SHARES, 1)]
    threads = pipeline.train_iterator(Samples(0, COUNT), noisy, 4, 0, threads=2, others=others)
    for _ in range(8):
        batch, halves = next(together), [next(part) for part in parts]
        np.testing.assert_equal(next(threads), batch)
        for key in batch:
            np.testing.assert_array_equal(np.concatenate([half[key] for half in halves]), batch[key])


def test_the_other_data_sets_do_not_change_the_order_of_the_main_one():
    alone = drawn(pipeline.train_iterator(Samples(0, COUNT), noisy, 1, 0, threads=0), 36)
    assert [image for image in drawn(iterator(), 30) if image[0] == 0] == alone


# Classes of a data set, of the main one, the main one's ids, and the lines.
LABELS = {
    "the same in another order": (["a", "b", "background"], ["background", "a", "b"], [1, 2, 0], []),
    "a class that the main one lacks": (
        ["a", "c", "background"], ["background", "a"], [1, 255, 0],
        ["x: 1 of 3 classes is not in main, and ignored: c"],
    ),
    "classes that it lacks, with a background": (
        ["background", "a"], ["background", "a", "b", "c"], [255, 1],
        ["x: 2 of 4 classes of main are not labelled: b, c; its background may show them, and is ignored"],
    ),
    "classes that both lack": (
        ["a", "d", "e"], ["a", "b"], [0, 255, 255],
        ["x: 2 of 3 classes are not in main, and ignored: d, e", "x: 1 of 2 classes of main is not labelled: b"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_translated_by_name(case):
    names, main_names, expected, lines = LABELS[case]
    ids = mixture.translation(names, main_names)
    assert ids.dtype == np.uint8 and ids.tolist() == expected + [255] * (256 - len(names))
    assert mixture.remarks(mixture.Part("x", "train", Fraction(1, 2)), names, "main", main_names) == lines


@pytest.fixture(scope="module")
def prepared(street, tmp_path_factory):
    """Flags of a segmenter on CamVid, where a data set `folder` is prepared: its labels are Road and Dog in turn."""
    root, place = tmp_path_factory.mktemp("mixture") / "mine", tmp_path_factory.mktemp("prepared")
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for i in range(8):
        image = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(image).save(root / f"images/{i}.png")
        Image.fromarray(np.full((32, 32), i % 2, np.uint8)).save(root / f"labels/{i}.png")
    (root / "classes.txt").write_text("Road\nDog\n")
    data.load("folder", place, root)
    return [FCN, f"--config.data.manual_dir={street}", f"--config.data.data_dir={place}", "--config.data.crop=32,32"]


def config_of(*arguments):
    return command_line.parse(["main.py", *map(str, arguments)]).config


def sources_of(config):
    builder = data.load(config.data.name, config.data.data_dir, config.data.manual_dir)
    return semantic.training_source(config, builder, splits.load_mixture(config, builder))


def test_batches_of_two_data_sets(prepared):
    given = (
        "data.mixture=folder/train+val=0.75",
        "train.batch_size=8",
        "data.scale_range=(1.0, 1.0)",
        "data.rotate=none",
    )
    config = config_of(*prepared, *(f"--config.{change}" for change in given))
    source = sources_of(config)
    ((other, share),) = source.others
    road = list(camvid.CLASSES).index("Road")
    assert share == Fraction(3, 4) and len(source) == 6 + 8
    assert sorted(int(np.unique(other[i]["label"]).item()) for i in range(8)) == [road] * 4 + [255] * 4
    batches = semantic.training_batches(config, source, list(camvid.CLASSES))
    labels = [np.unique(label).tolist() for _ in range(4) for label in next(batches)["label"]]
    assert sum(label == [255] for label in labels) == 12  # three times eight images, half of them Dog
    config.data.superpixels = 4
    source = sources_of(config)
    assert source.main[0]["regions"].shape == source.others[0][0][0]["regions"].shape == (32, 32)


def test_another_split_of_the_main_data_set(prepared):
    source = sources_of(config_of(*prepared, "--config.data.mixture=camvid/val=0.5"))
    assert len(source) == 6 + 3 and len(source.others[0][0]) == 3


NO_DATA = {
    "coco_voc=0.5": "'coco_voc=0.5'.*NAME/SPLIT=SHARE.* coco_voc/train=0.5",
    "coco_voc/train": "'coco_voc/train'.*NAME/SPLIT=SHARE",
    "/train=0.5": "'/train=0.5'.*NAME/SPLIT=SHARE",
    "coco_voc/=0.5": "'coco_voc/=0.5'.*NAME/SPLIT=SHARE",
    "coco_voc/train=half": "'coco_voc/train=half'.*between 0 and 1",
    "coco_voc/train=0": "'coco_voc/train=0'.*between 0 and 1",
    "coco_voc/train=-0.5": "'coco_voc/train=-0.5'.*between 0 and 1",
    "coco_voc/train=1": "'coco_voc/train=1'.*between 0 and 1",
    "coco_voc/train=nan": "'coco_voc/train=nan'.*between 0 and 1",
    "coco_voc/train=1e-9": "'coco_voc/train=1e-9'.*between 0 and 1",
    "coco_voc/train=0.6,scenes/train=0.4": "1 in all.*less than 1.*camvid",
    "coco_voc/train=0.2,coco_voc/train=0.3": "'coco_voc/train' twice.*sum",
    "coco_voc/train+val=0.2,coco_voc/val+train=0.3": r"'coco_voc/val\+train' twice",
    "camvid/train=0.5": "'camvid/train'.*config.data.name with config.train.split.*remove",
    "coco/train=0.5": "is 'coco'.*expected one of scenes, ",
    "scenes_instances/train=0.5": "is scenes_instances.*has objects.*mask_rcnn",
}


@pytest.mark.parametrize("value", NO_DATA)
def test_errors_that_need_no_data(value):
    with pytest.raises(UserError, match=f"^config.data.mixture.* {NO_DATA[value]}"):
        checks.check_fields(config_of(FCN, f"--config.data.mixture={value}"))


WITH_DATA = {
    "folder/trian=0.5": "split of folder is 'trian'.*train, val",
    "cityscapes/train=0.5": "cityscapes.* not prepared in .*--mode=prepare --config.data.name=cityscapes",
    "folder/train=0.5": None,
}


@pytest.mark.parametrize("value", WITH_DATA)
def test_errors_of_the_data(value, prepared):
    def load(classes=None):
        config = config_of(*prepared, f"--config.data.mixture={value}")
        builder = data.load(config.data.name, config.data.data_dir, config.data.manual_dir)
        builder.info.metadata["class_names"] = classes or builder.info.metadata["class_names"]
        return splits.load_mixture(config, builder)

    if WITH_DATA[value]:
        with pytest.raises(UserError, match=f"^config.data.mixture.* {WITH_DATA[value]}"):
            load()
    else:
        assert [part.name for part, _ in load()] == ["folder"]
        with pytest.raises(UserError, match="config.data.mixture has folder.* no class of camvid.*Road, Dog.*cat, cow"):
            load(["cat", "cow"])


def test_a_common_background_is_no_common_class():
    part = mixture.Part("x", "train", Fraction(1, 2))
    with pytest.raises(UserError, match="has x, .*a background does not count"):
        mixture.check_classes(part, ["background", "a"], "main", ["background", "b"])
    mixture.check_classes(part, ["background", "a"], "main", ["background", "a", "b"])


def test_class_weights_by_frequency_are_of_one_data_set():
    given = FCN, "--config.data.mixture=scenes/train=0.5"
    with pytest.raises(
        UserError, match="config.loss.class_weights is frequency.*config.data.mixture.*number for each class"
    ):
        checks.check_fields(config_of(*given, "--config.loss.class_weights=frequency"))
    checks.check_fields(config_of(*given, "--config.loss.class_weights=1,2"))


def test_detectors_read_no_mixture():
    with pytest.raises(UserError, match="config.data.mixture.* segmenter"):
        config_of("--config=configs/mask_rcnn.py", "--config.data.mixture=scenes/train=0.5")


def test_several_entries_on_the_command_line():
    values = "coco_voc/train=0.5", "voc2012/train+val=0.25"
    config = config_of(FCN, f"--config.data.mixture={','.join(values)}")
    assert config.data.mixture == values and mixture.parse(config)[1] == ("voc2012", "train+val", Fraction(1, 4))
    assert all(config_of(FCN, f"--config.data.mixture={none}").data.mixture == () for none in ("none", "()"))
