"""Boxes and masks move with the image, and batches are functions of the seed and their position."""

import json
import types

import cv2
import numpy as np
import pytest
from pycocotools import mask as run_lengths

from ctxseg.data import instance_transforms, instances, pipeline
from ctxseg.data.instance_transforms import InstanceAugmentation, crop, flip, resize
from ctxseg.data.instances import eval_batches, excess, train_iterator
from ctxseg.data.sizes import limited_size_of, too_large
from ctxseg.data.transforms import PADDING
from ctxseg.errors import UserError
from ctxseg.settings import collect, declared


def sample(boxes, size=(12, 20), crowd=None):
    """A sample whose masks fill their boxes (left, top, right, bottom), and whose image shows its coordinates."""
    rows, columns = np.indices(size)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    masks = [(columns >= x) & (columns < r) & (rows >= y) & (rows < b) for x, y, r, b in boxes]
    return {
        "image": np.stack([rows, columns, rows + columns], -1).astype(np.uint8),
        "name": "s",
        "id": 3,
        "boxes": boxes,
        "classes": np.arange(len(boxes), dtype=np.int32),
        "crowd": np.zeros(len(boxes), bool) if crowd is None else np.array(crowd),
        "areas": np.array([m.sum() for m in masks], np.float32),
        "masks": np.array(masks, np.uint8).reshape(-1, *size),
    }


def box_of(mask):
    """The box of a mask's pixels, by another way than the code's."""
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


BOXES = [(2, 3, 7, 5), (15, 0, 20, 12), (9, 9, 10, 10)]


def test_flip():
    before = sample(BOXES)
    after = flip(before)
    np.testing.assert_array_equal(after["boxes"], [(13, 3, 18, 5), (0, 0, 5, 12), (10, 9, 11, 10)])
    np.testing.assert_array_equal([box_of(m) for m in after["masks"]], after["boxes"])
    assert after["image"][4, 0].tolist() == before["image"][4, 19].tolist()
    np.testing.assert_array_equal(flip(before, (1, 0, 2))["classes"], [1, 0, 2])
    for key, array in flip(after).items():
        np.testing.assert_array_equal(array, before[key])


def test_resize():
    before = sample(BOXES)
    after = resize(before, (24, 8))  # rows by 2, columns by 0.4
    np.testing.assert_allclose(after["boxes"], [(0.8, 6, 2.8, 10), (6, 0, 8, 24), (3.6, 18, 4, 20)])
    for mask, source in zip(after["masks"], before["masks"], strict=True):
        for y in range(24):
            for x in range(8):  # the pixel of the original image that contains the centre
                assert mask[y, x] == source[int((y + 0.5) / 2), int((x + 0.5) / 0.4)]
    np.testing.assert_array_equal(after["image"], cv2.resize(before["image"], (8, 24)))
    assert resize(before, (12, 20)) is before


def test_crop_keeps_whole_boxes_and_recomputes_those_that_it_cuts():
    before = sample(BOXES)
    before["boxes"][0] += np.float32([0.25, 0.25, -0.25, -0.25])  # boxes of polygons lie between pixels
    after = crop(before, 1, 1, (8, 16))
    # The third object is outside: row 9 is not in rows 1..8. The second is cut on the right and above.
    np.testing.assert_array_equal(after["boxes"], [(1.25, 2.25, 5.75, 3.75), (14, 0, 16, 8)])
    np.testing.assert_array_equal(after["classes"], [0, 1])
    assert (after["areas"], after["crowd"]) == (pytest.approx([10, 60]), pytest.approx([0, 0]))
    np.testing.assert_array_equal(after["masks"], before["masks"][:2, 1:9, 1:17])
    np.testing.assert_array_equal(after["image"], before["image"][1:9, 1:17])


def test_a_cut_box_is_that_of_the_mask_that_is_left():
    before = sample([(0, 0, 10, 10)], (10, 10))
    before["masks"][0] = np.tri(10)[
        :, ::-1
    ]  # below the diagonal from the upper right: row r has the last r + 1 columns
    after = crop(before, 0, 0, (10, 5))  # the left half has rows 5..9
    np.testing.assert_array_equal(after["boxes"], [(0, 5, 5, 10)])
    np.testing.assert_array_equal(after["boxes"][0], box_of(after["masks"][0]))


def test_crop_pads_below_and_on_the_right():
    before = sample(BOXES)
    after = crop(before, 0, 0, (16, 32))
    np.testing.assert_array_equal(after["boxes"], before["boxes"])
    np.testing.assert_array_equal(after["image"][:12, :20], before["image"])
    assert (after["image"][12:] == PADDING["image"]).all() and (after["image"][:, 20:] == PADDING["image"]).all()
    assert after["masks"].sum() == before["masks"].sum()


def test_objects_without_pixels_are_dropped_and_an_image_may_have_none():
    before = sample([(2, 3, 3, 4), (4, 4, 12, 12)])
    smaller = resize(before, (3, 5))  # the first object has no pixel left
    assert crop(smaller, 0, 0, (3, 5))["classes"].tolist() == [1]
    empty = sample([])
    for after in (flip(empty), resize(empty, (6, 7)), crop(empty, 2, 2, (4, 4))):
        assert after["boxes"].shape == (0, 4) and after["masks"].shape == (0, *after["image"].shape[:2])
    batch = InstanceAugmentation(crop=(8, 8), max_objects=3)(empty, np.random.default_rng(0))
    assert batch["classes"].tolist() == [-1] * 3 and not batch["masks"].any() and not batch["boxes"].any()


@pytest.mark.parametrize(
    "size,base,limit,expected",
    [
        ((480, 640), (800,), 1333, (800, 1067)),
        ((300, 1000), (800,), 1333, (400, 1333)),
        ((1000, 300), (800,), 1333, (1333, 400)),
        ((480, 640), (), 320, (240, 320)),
        ((480, 640), (), 0, (480, 640)),
        ((480, 640), (60, 90), 0, (60, 90)),
        ((1, 9000), (800,), 1333, (1, 1333)),
    ],
)
def test_limited_sizes(size, base, limit, expected):
    assert limited_size_of(size, base, limit) == expected


def test_a_longest_side_keeps_narrow_images_small():
    assert "80×400000 pixels" in too_large((1, 5000), (80,), 10**6)
    assert too_large((1, 5000), (80,), 10**6, 1333) is None


def test_rows_of_a_batch():
    before = sample([(0, 0, 4, 4), (5, 0, 15, 10), (1, 1, 2, 2), (3, 5, 10, 12)], crowd=[True, False, False, False])
    row = InstanceAugmentation(crop=(16, 21), max_objects=2)(before, np.random.default_rng(0))
    assert {key: (array.shape, array.dtype) for key, array in row.items()} == {
        "image": ((16, 21, 3), np.uint8),
        "size": ((2,), np.int32),
        "boxes": ((2, 4), np.float32),
        "classes": ((2,), np.int32),
        "masks": ((2, 16, 3), np.uint8),
    }
    assert row["size"].tolist() == [12, 20]
    # Without the crowd, the two largest in their order.
    np.testing.assert_array_equal(row["boxes"], before["boxes"][[1, 3]])
    assert row["classes"].tolist() == [1, 3]
    unpacked = np.unpackbits(row["masks"], axis=-1, count=21, bitorder="little")
    np.testing.assert_array_equal(unpacked[:, :12, :20], before["masks"][[1, 3]])
    assert unpacked.sum() == before["masks"][[1, 3]].sum()


def test_augmentation_is_the_composition_of_the_functions():
    """Scale, flip and position of 60 random rows, found again from the numbers that they draw."""
    augmentation = InstanceAugmentation(
        crop=(10, 14), base_size=(16,), max_side=24, max_objects=3, flip=True, scale_range=(0.5, 1.5)
    )
    before = sample(BOXES)
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        mirrored, scale, position = rng.random() < 0.5, rng.uniform(0.5, 1.5), rng.random(2)
        base = (14, 24)  # 12×20 to a shorter side of 16 is 16×27, which is too long
        size = tuple(round(n * scale) for n in base)
        expected = resize(before, size)
        expected = flip(expected) if mirrored else expected
        room = [max(n - c, 0) for n, c in zip(size, (10, 14), strict=True)]
        top, left = (int(p * (n + 1)) for p, n in zip(position, room, strict=True))
        expected = crop(expected, top, left, (10, 14))
        row = augmentation(before, np.random.default_rng(seed))
        n = len(expected["boxes"])
        np.testing.assert_array_equal(row["image"][: size[0], : size[1]], expected["image"])
        np.testing.assert_array_equal(row["boxes"][:n], expected["boxes"])
        assert (row["classes"][n:] == -1).all() and row["size"].tolist() == [min(size[0], 10), min(size[1], 14)]
        for packed, box in zip(row["masks"][:n], row["boxes"], strict=False):
            mask = np.unpackbits(packed, axis=-1, count=14, bitorder="little")
            assert np.abs(np.array(box_of(mask)) - box).max() <= 1  # a pixel of rounding
        seen.add((bool(mirrored), bool(top or left)))
    assert len(seen) == 4


def test_colours_change_only_the_image():
    before = sample(BOXES)
    plain, changed = (
        InstanceAugmentation(crop=(12, 20), brightness=b, hue=b / 2)(before, np.random.default_rng(1)) for b in (0, 0.5)
    )
    assert (plain["image"] != changed["image"]).any()
    for key in ("size", "boxes", "classes", "masks"):
        np.testing.assert_array_equal(plain[key], changed[key])


def test_canvases_hold_every_image_of_their_orientation():
    augmentation = InstanceAugmentation(base_size=(40,), max_side=70, scale_range=(0.8, 1.2))
    assert augmentation.canvas((10, 20)) == (64, 96) == augmentation.canvas((10, 10))
    assert augmentation.canvas((20, 10)) == (96, 64)
    assert InstanceAugmentation(base_size=(40, 70)).canvas((20, 10)) == (64, 96)
    row = InstanceAugmentation(base_size=(40,), max_side=70)(sample(BOXES, (20, 12)), np.random.default_rng(0))
    assert row["image"].shape == (96, 64, 3) and row["size"].tolist() == [67, 40]


@pytest.mark.parametrize(
    "fields,message",
    [
        ({}, r"config.data.crop is \(\).*config.data.max_side"),
        ({"base_size": (40,)}, r"config.data.crop is \(\).*max_side 0"),
        ({"base_size": (40, 60), "max_side": 70}, "config.data.max_side is 70.*base_size.*both sides"),
        ({"crop": (0, 8)}, "config.data.crop"),
        ({"crop": (8,)}, r"config.data.crop.*\(8,\)"),
        ({"crop": (8, 8), "max_objects": 0}, "config.data.max_objects is 0.*at least 1"),
        ({"crop": (8, 8), "scale_range": (2, 1)}, "config.data.scale_range"),
        ({"crop": (8, 8), "brightness": 2.0}, "config.data.brightness"),
    ],
)
def test_wrong_fields_are_reported(fields, message):
    with pytest.raises(UserError, match=message):
        InstanceAugmentation(**fields)


def test_fields_of_the_config():
    """They are declared, and a crop can be turned off."""
    config = collect.get_config({}).data
    assert (config.crop, config.max_side, config.max_objects) == ((128, 128), 0, 100)
    assert instance_transforms.create_augmentation(config, ["left arm", "right arm"]).mirrored_classes == (1, 0)
    config.update(crop=(), base_size=(40,), max_side=70)
    declared.check_section("data", config)
    assert instance_transforms.create_augmentation(config).canvas((3, 4)) == (64, 96)
    for crop_size in ((8,), (8, 8, 8), (0.5, 8)):
        config.crop = crop_size
        with pytest.raises(UserError, match="config.data.crop is .* expected 2 whole numbers"):
            declared.check_section("data", config)


# Batches


class Samples:
    """Samples in memory, each with as many objects as its index modulo 4; all pixels of an image hold the index."""

    def __init__(self, sizes):
        self.sizes = np.array(sizes, np.int32)
        self.counts = np.arange(len(sizes)) % 4

    def __len__(self):
        return len(self.sizes)

    def size(self, index):
        return tuple(self.sizes[index].tolist())

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        size = self.size(index)
        one = sample([(0, 0, 4, 4), (2, 2, 9, 9), (5, 5, 8, 9)][: index % 4], size)
        return one | {"image": np.full((*size, 3), index, np.uint8), "id": index + 100, "name": f"s{index}"}

    def image(self, index):
        return self[index]["image"]

    def annotations(self, index):
        height, width = self.size(index)
        return {"id": index + 100, "name": f"s{index}", "height": height, "width": width, "annotations": []}


MIXED = [(12, 20)] * 17 + [(20, 12)] * 6
RANDOM = InstanceAugmentation(base_size=(10,), max_side=40, flip=True, scale_range=(0.5, 1), max_objects=2, hue=0.1)


def ids(batch):
    return batch["image"][:, 0, 0, 0].tolist()


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for key in batch:
        np.testing.assert_array_equal(batch[key], other[key])


def test_batches_have_one_orientation_and_every_image_once_an_epoch():
    plain = InstanceAugmentation(base_size=(12,), max_side=40)
    iterator = train_iterator(Samples(MIXED), plain, 2, 0, threads=0)
    batches = [next(iterator) for _ in range(23)]  # two epochs
    portrait = [min(ids(batch)) >= 17 for batch in batches]
    assert sum(portrait) == 6
    assert [b["image"].shape[1:3] for b in batches] == [(64, 32) if p else (32, 64) for p in portrait]
    assert all((min(ids(b)) >= 17) == (max(ids(b)) >= 17) for b in batches)
    counts = np.bincount([i for batch in batches for i in ids(batch)], minlength=23)
    assert counts.tolist() == [2] * 23
    assert {sum(portrait[i : i + 8]) for i in range(15)} <= {2, 3}  # evenly spread
    first, second = (
        [ids(b) for b, p in zip(batches, portrait, strict=True) if not p][s] for s in (slice(8), slice(9, 17))
    )
    assert first != second


def test_batches_are_a_function_of_the_seed():
    first = [next(iterator) for iterator in [train_iterator(Samples(MIXED), RANDOM, 4, 0)] for _ in range(9)]
    assert {b["image"].shape[1:3] for b in first} == {(32, 64), (64, 32)}
    for threads in (0, 3):
        iterator = train_iterator(Samples(MIXED), RANDOM, 4, 0, threads=threads)
        for batch in first:
            assert_equal(batch, next(iterator))
    other = train_iterator(Samples(MIXED), RANDOM, 4, 1)
    assert any((next(other)["image"] != batch["image"]).any() for batch in first)
    assert {key: (value.shape, value.dtype) for key, value in first[0].items()} == {
        "image": ((4, 32, 64, 3), np.uint8),
        "size": ((4, 2), np.int32),
        "boxes": ((4, 2, 4), np.float32),
        "classes": ((4, 2), np.int32),
        "masks": ((4, 2, 32, 8), np.uint8),
    }


@pytest.mark.parametrize("threads", [0, 2])
def test_iteration_resumes_at_the_next_batch(threads):
    iterator = train_iterator(Samples(MIXED), RANDOM, 4, 0, threads=threads)
    for _ in range(5):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(4)]
    resumed = train_iterator(Samples(MIXED), RANDOM, 4, 0, threads=threads)
    resumed.set_state(state)
    for batch in expected:
        assert_equal(batch, next(resumed))


@pytest.mark.parametrize("batch_size,processes", [(4, 2), (2, 2)])
def test_processes_share_the_global_batches(batch_size, processes):
    whole = train_iterator(Samples(MIXED), RANDOM, batch_size, 0, threads=0)
    parts = [train_iterator(Samples(MIXED), RANDOM, batch_size, 0, i, processes, threads=0) for i in range(processes)]
    for _ in range(8):
        batch, shares = next(whole), [next(part) for part in parts]
        for i, share in enumerate(shares):
            size = batch_size // processes
            assert_equal({key: value[i * size :][:size] for key, value in batch.items()}, share)


def test_wrong_seed_and_number_of_processes():
    with pytest.raises(UserError, match="config.seed is -1"):
        train_iterator(Samples(MIXED), RANDOM, 4, -1)
    with pytest.raises(UserError, match="3 processes cannot share a batch of 4"):
        train_iterator(Samples(MIXED), RANDOM, 4, 0, 0, 3)


def test_excess_is_told_once(capsys):
    source = Samples(MIXED)  # 23 images: 6 with one, 6 with two and 5 with three objects
    assert excess(source, 3) is None
    line = excess(source, 2)
    assert (
        line.startswith("5 of 23 training images have more than config.data.max_objects=2 objects")
        and "5 of 33" in line
    )
    for process in (0, 1):
        iterator = train_iterator(source, RANDOM, 4, 0, process, 2, threads=0)
        next(iterator), next(iterator)
    assert capsys.readouterr().err == f"warning: {line}\n"


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_has_every_image_once_in_few_shapes(processes):
    sizes = [(12, 20)] * 5 + [(20, 12), (10, 60)]
    seen, shapes = [], []
    for process in range(processes):
        for batch in eval_batches(Samples(sizes), 2, (16,), 40, process, processes, threads=0):
            assert batch["image"].dtype == np.uint8 and batch["size"].dtype == np.int32
            assert len(batch["name"]) == len(batch["index"]) == len(batch["original_size"]) == batch["count"]
            shapes.append(batch["image"].shape[1:3])
            for k in range(batch["count"]):
                index, size = batch["index"][k], batch["size"][k]
                assert batch["name"][k] == f"s{index}" and batch["original_size"][k] == sizes[index]
                assert tuple(size) == limited_size_of(sizes[index], (16,), 40)
                image = batch["image"][k]
                assert (image[: size[0], : size[1]] == index).all()
                assert (image[size[0] :] == PADDING["image"]).all() and (image[:, size[1] :] == PADDING["image"]).all()
                seen.append(index)
    assert sorted(seen) == list(range(7))
    assert set(shapes) == {(32, 32), (32, 64)}


# Records


def record(index, annotations, size=(6, 8), name=b"a"):
    image = cv2.imencode(".png", np.full((*size, 3), index, np.uint8))[1].tobytes()
    content = {"id": index, "height": size[0], "width": size[1], "annotations": annotations}
    return {"image": image, "name": name, "objects": json.dumps(content).encode()}


def stub(folder, records):
    """A builder of these records."""
    sizes = {"sizes": [[6, 8]] * len(records), "objects": [1] * len(records)}
    (folder / "objects-train.json").write_text(json.dumps(sizes))
    return types.SimpleNamespace(name="stub", data_dir=folder, as_data_source=lambda split, decoders: records)


def test_source_reads_objects(tmp_path):
    mask = np.zeros((6, 8), np.uint8, order="F")
    mask[1:3, 2:7] = 1
    counts = run_lengths.encode(mask)["counts"].decode()
    segmentation = {"size": [6, 8], "counts": counts}
    item = {"id": 5, "category": 2, "bbox": [2, 1, 5, 2], "area": 9.5, "iscrowd": 1, "segmentation": segmentation}
    source = instances.InstanceSource(stub(tmp_path, [record(0, [item]), record(1, [])]), "train")
    first = source[0]
    assert {key: (value.shape, value.dtype) for key, value in first.items() if hasattr(value, "shape")} == {
        "image": ((6, 8, 3), np.uint8),
        "boxes": ((1, 4), np.float32),
        "classes": ((1,), np.int32),
        "crowd": ((1,), bool),
        "areas": ((1,), np.float32),
        "masks": ((1, 6, 8), np.uint8),
    }
    assert first["boxes"].tolist() == [[2, 1, 7, 3]] and first["classes"].tolist() == [2] and first["crowd"].all()
    assert (first["name"], first["id"], first["areas"].tolist()) == ("a", 0, [9.5])
    np.testing.assert_array_equal(first["masks"][0], mask)
    assert source.annotations(0)["annotations"] == [item] and source.size(1) == (6, 8) and len(source) == 2
    assert source[1]["masks"].shape == (0, 6, 8) and source[1]["boxes"].shape == (0, 4)


def test_damaged_records_are_named(tmp_path):
    wrong = record(0, [], size=(5, 8))
    wrong["objects"] = record(0, [])["objects"]
    builder = stub(tmp_path, [record(0, []) | {"image": b"x"}, wrong])
    source = instances.InstanceSource(builder, "train")
    for index in (0, 1):
        with pytest.raises(UserError, match=f"^stub train: image a .*delete {tmp_path}"):
            source[index]
    (tmp_path / "objects-train.json").write_text("{")
    with pytest.raises(UserError, match=f"objects-train.json cannot be read; delete {tmp_path}"):
        instances.InstanceSource(builder, "train")


def test_the_order_of_semantic_segmentation_has_not_changed():
    """Runs of earlier versions resume with the batches that they would have had."""

    class Labels:
        def __len__(self):
            return 11

        def __getitem__(self, index):
            return {"image": np.full((2, 2, 3), index, np.uint8), "label": np.zeros((2, 2), np.uint8)}

    def shifted(sample, rng):
        return sample | {"label": np.full((2, 2), rng.integers(256), np.uint8)}

    batch = next(pipeline.train_iterator(Labels(), shifted, 4, 3, threads=0))
    assert (ids(batch), batch["label"][:, 0, 0].tolist()) == ([4, 6, 9, 7], [47, 48, 197, 122])
