import io
import json
import types

import cv2
import numpy as np
import pytest
from PIL import Image

from ctxseg.data import pipeline, transforms
from ctxseg.errors import UserError


class Samples:
    """Samples in memory; all pixels of an image hold the sample's index."""

    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        image = np.full((*self.sizes[index], 3), index, np.uint8)
        label = np.full(self.sizes[index], index % 7, np.uint8)
        return {"image": image, "label": label, "regions": label.astype(np.int32) + 300, "name": f"s{index}"}

    def size(self, index):
        return self.sizes[index]


def whole(sample, rng):
    return sample


def ids(batch):
    return batch["image"][:, 0, 0, 0].tolist()


def random_iterator(seed=0, **kwargs):
    augment = transforms.Augmentation(crop=(8, 10), flip=True, scale_range=(0.7, 1.5), rotate=20.0, brightness=0.3)
    return pipeline.train_iterator(Samples([(12, 16)] * 11), augment, 4, seed, **kwargs)


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for key in batch:
        np.testing.assert_array_equal(batch[key], other[key])


def png(array):
    return cv2.imencode(".png", array if array.ndim == 2 else array[..., ::-1])[1].tobytes()


def test_batches_of_one_image():
    one, three = (pipeline.train_iterator(Samples([(4, 4)] * 12), whole, size, 0, threads=0) for size in (1, 3))
    images = [next(one)["image"] for _ in range(3)]
    assert images[0].shape == (1, 4, 4, 3)
    np.testing.assert_array_equal(np.concatenate(images), next(three)["image"])


def test_images_of_any_mode_are_decoded_as_rgb():
    """RGB PNGs by one decoder, all other files by another; damaged files are named."""
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    label = np.arange(35, dtype=np.uint8).reshape(5, 7)
    grey = np.repeat(rgb[..., :1], 3, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(rgb).quantize(200).save(buffer, "PNG")  # a palette of all its colours
    transparent = np.concatenate([rgb[..., ::-1], np.full((5, 7, 1), 255, np.uint8)], axis=2)
    files = [png(rgb), png(rgb[..., 0]), buffer.getvalue(), cv2.imencode(".png", transparent)[1].tobytes()]
    files += [cv2.imencode(".png", rgb[..., ::-1].astype(np.uint16) * 256)[1].tobytes(), png(rgb)[:-60], b"\x89PNG\r\n"]
    records = [{"image": file, "label": png(label), "name": b"n%d" % i} for i, file in enumerate(files)]
    builder = types.SimpleNamespace(name="stub", data_dir="/cache", as_data_source=lambda split, decoders: records)
    source = pipeline.source(builder, "train")
    for i, expected in enumerate((rgb, grey, None, rgb, rgb)):
        sample = source[i]
        assert sample["image"].dtype == np.uint8 and sample["image"].shape == (5, 7, 3)
        if expected is not None:
            np.testing.assert_array_equal(sample["image"], expected)
            np.testing.assert_array_equal(source.image(i), expected)
        np.testing.assert_array_equal(sample["label"], label)
    for i in (5, 6):
        with pytest.raises(UserError, match=f"^stub train: image n{i} .*delete /cache"):
            source[i]


def test_batches_are_a_function_of_the_seed():
    first = [next(iterator) for iterator in [random_iterator()] for _ in range(7)]
    for threads in (0, 1, 3):
        iterator = random_iterator(threads=threads)
        for batch in first:
            assert_equal(batch, next(iterator))
    other = random_iterator(seed=1)
    assert any((next(other)["image"] != batch["image"]).any() for batch in first)
    assert {key: (value.shape, value.dtype) for key, value in first[0].items()} == {
        "image": ((4, 8, 10, 3), np.uint8),
        "label": ((4, 8, 10), np.uint8),
        "regions": ((4, 8, 10), np.int32),
    }


@pytest.mark.parametrize("threads", [0, 2])
def test_iteration_resumes_at_the_next_batch(threads):
    iterator = random_iterator(threads=threads)
    for _ in range(3):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(3)]
    fresh = random_iterator(threads=threads)
    fresh.set_state(state)
    for batch in expected:
        assert_equal(batch, next(fresh))
    iterator.set_state(state)  # an iterator that has advanced goes back
    assert_equal(expected[0], next(iterator))


def test_every_epoch_covers_all_samples_in_another_order():
    iterator = pipeline.train_iterator(Samples([(4, 4)] * 12), whole, 4, 0)
    epochs = [sum((ids(next(iterator)) for _ in range(3)), []) for _ in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(12))

    def noise(sample, rng):
        return {"image": sample["image"], "label": rng.integers(0, 256, (4, 4)).astype(np.uint8)}

    iterator = pipeline.train_iterator(Samples([(4, 4)] * 2), noise, 2, 0)
    labels = np.concatenate([next(iterator)["label"] for _ in range(4)])
    assert len(np.unique(labels.reshape(8, -1), axis=0)) == 8  # a sample is augmented differently in every epoch


def test_processes_share_the_same_global_batches():
    iterators = [random_iterator(process_index=i, process_count=2) for i in range(2)]
    together = random_iterator()
    for _ in range(4):
        parts = [next(iterator) for iterator in iterators]
        assert [len(part["image"]) for part in parts] == [2, 2]
        np.testing.assert_array_equal(np.concatenate([part["image"] for part in parts]), next(together)["image"])


def test_errors_reach_the_caller_unchanged():
    with pytest.raises(UserError, match="3 processes .* batch of 4.*multiple of 3"):
        random_iterator(process_count=3)
    with pytest.raises(UserError, match="config.seed is -1"):
        random_iterator(seed=-1)

    class Damaged(Samples):
        def __getitem__(self, index):
            raise UserError(f"sample {index} is damaged")

    for threads in (0, 2):
        with pytest.raises(UserError, match="sample [0-4] is damaged"):
            next(pipeline.train_iterator(Damaged([(4, 4)] * 5), whole, 2, 0, threads=threads))
        with pytest.raises(UserError, match="sample 0 is damaged"):
            next(pipeline.eval_batches(Damaged([(4, 4)] * 5), 2, threads=threads))


def test_resized_to_a_base_size():
    source = pipeline.Resized(Samples([(4, 6), (9, 3)]), (2,))
    assert [source.size(i) for i in range(2)] == [(2, 3), (6, 2)]
    for i, sample in enumerate(source[i] for i in range(2)):
        assert sample["label"].shape == sample["regions"].shape == sample["image"].shape[:2] == source.size(i)


def test_evaluation_groups_images_by_canvas():
    batches = pipeline.eval_batches(
        Samples([(4, 6), (4, 5), (4, 6)]), 2, shape_of=lambda _: (8, 8), canvas_of=lambda s: s[1]
    )
    assert [(batch["name"], batch["canvas"]) for batch in batches] == [(["s0", "s2"], 6), (["s1"], 5)]


@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_groups_sizes_and_pads_ragged_batches(threads):
    sizes = [(4, 6), (4, 6), (5, 3), (4, 6), (4, 6), (5, 3), (4, 6)]
    batches = list(pipeline.eval_batches(Samples(sizes), 3, threads=threads))
    assert [batch["name"] for batch in batches] == [["s0", "s1", "s3"], ["s4", "s6"], ["s2", "s5"]]
    assert [batch["count"] for batch in batches] == [3, 2, 2]
    assert [batch["image"].shape for batch in batches] == [(3, 4, 6, 3), (3, 4, 6, 3), (3, 5, 3, 3)]
    for batch in batches:
        for row, name in enumerate(batch["name"]):
            assert (batch["image"][row] == int(name[1:])).all() and (batch["label"][row] == int(name[1:]) % 7).all()
            assert (batch["regions"][row] == int(name[1:]) % 7 + 300).all()
        assert (batch["label"][batch["count"] :] == 255).all() and (batch["regions"][batch["count"] :] == -1).all()
        assert batch["image"].dtype == batch["label"].dtype == np.uint8 and batch["regions"].dtype == np.int32


def test_evaluation_processes_have_equal_batches_and_count_every_image_once():
    sizes = [(4, 6)] * 5 + [(5, 3)] * 7 + [(2, 2)]
    processes = [list(pipeline.eval_batches(Samples(sizes), 4, i, 2)) for i in range(2)]
    shapes = [[{key: batch[key].shape for key in ("image", "label", "regions")} for batch in p] for p in processes]
    assert shapes[0] == shapes[1]
    names = [name for process in processes for batch in process for name in batch["name"]]
    assert sorted(names) == sorted(f"s{i}" for i in range(13))
    assert [batch["count"] for batch in processes[1]] == [2, 0, 2, 1, 0]
    assert all((batch["label"][batch["count"] :] == 255).all() for process in processes for batch in process)
    valid = sum((batch["label"] != 255).sum() for process in processes for batch in process)
    assert valid == sum(h * w for h, w in sizes)
