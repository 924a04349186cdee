"""Super-pixels: what SLIC gives, that they are stored, and that they go where the labels go."""

import numpy as np
import pytest
from skimage import data as photographs
from skimage.measure import label as components

from ctxseg import data
from ctxseg.data import pipeline, superpixels
from ctxseg.data.transforms import Augmentation
from ctxseg.errors import UserError


@pytest.mark.parametrize("segments", [1, 7, 60])
def test_ids_and_their_number(segments):
    image = photographs.chelsea()[50:130, 100:220]
    regions = superpixels.slic(image, segments)
    assert regions.dtype == np.uint16 and regions.shape == (80, 120)
    np.testing.assert_array_equal(np.unique(regions), np.arange(regions.max() + 1))
    assert segments / 2 <= regions.max() + 1 <= segments
    np.testing.assert_array_equal(regions, superpixels.slic(image, segments))
    if segments == 60:
        assert components(regions, connectivity=1, background=-1).max() == regions.max() + 1  # connected


def test_noise_has_no_more_than_asked_for():
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    assert superpixels.slic(noise, 30).max() < 30


def test_stored_with_the_data_set(street, tmp_path):
    builder = data.load("camvid", tmp_path, street)
    plain, source = pipeline.source(builder, "val"), pipeline.source(builder, "val", 9)
    assert "regions" not in plain[0] and len(source) == 3
    for i in range(3):
        sample = source[i]
        assert sample["regions"].dtype == np.int32
        np.testing.assert_array_equal(sample["regions"], superpixels.slic(sample["image"], 9))
    calls = []
    original, superpixels.slic = superpixels.slic, lambda *args: calls.append(args)
    try:
        np.testing.assert_array_equal(pipeline.source(builder, "val", 9)[1]["regions"], source[1]["regions"])
    finally:
        superpixels.slic = original
    assert not calls  # read, not computed again
    (batch,) = pipeline.eval_batches(source, 4, threads=0)
    assert batch["regions"].shape == (4, 32, 32) and (batch["regions"][3] == -1).all()


def test_augmented_with_the_labels():
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, 9, (4, 4)), np.ones((16, 16), int))
    sample = {
        "image": np.zeros((64, 64, 3), np.uint8),
        "label": label.astype(np.uint8),
        "regions": label.astype(np.int32),
    }
    augmentation = Augmentation(crop=(50, 70), flip=True, scale_range=(0.6, 1.7), rotate=30.0)
    for _ in range(20):
        out = augmentation(sample, rng)
        expected = np.where(out["label"] == 255, -1, out["label"].astype(int))
        np.testing.assert_array_equal(out["regions"], expected)


def test_damaged_files_are_named(street, tmp_path):
    builder = data.load("camvid", tmp_path, street)
    pipeline.source(builder, "train", 9)
    (path,) = tmp_path.glob("**/superpixels-9-*/train.array_record")
    content = path.read_bytes()
    pipeline.source(builder, "val", 9)  # three images, where there are six
    for damaged in (b"", content[:70000], (path.parent / "val.array_record").read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"^{path} is damaged: delete it"):
            pipeline.source(builder, "train", 9)
    start = content.index(b"PNG")
    path.write_bytes(content[:start] + b"\x55" * 20 + content[start + 20 :])
    with pytest.raises(UserError, match="^camvid train: super-pixels 0 cannot be read; delete .*1.0.0 to prepare it"):
        list(pipeline.source(builder, "train", 9))


def test_an_interrupted_computation_starts_over(street, tmp_path, monkeypatch):
    builder, calls, slic = data.load("camvid", tmp_path, street), [], superpixels.slic

    def interrupted(*args):
        calls.append(args)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return slic(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(superpixels, "slic", interrupted)
        pipeline.source(builder, "train", 9)
    assert not list(tmp_path.glob("**/superpixels-9-*/train.array_record"))
    source = pipeline.source(builder, "train", 9)
    np.testing.assert_array_equal(source[5]["regions"], slic(source[5]["image"], 9))


@pytest.mark.parametrize("segments", [-1, 65536])
def test_numbers_that_cannot_be(segments, street, tmp_path):
    builder = data.load("camvid", tmp_path, street)
    with pytest.raises(UserError, match=f"^config.data.superpixels is {segments}, but must be 0"):
        pipeline.source(builder, "val", segments)
    assert not list(tmp_path.glob("**/superpixels*"))
