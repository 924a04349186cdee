"""Super-pixels: SLIC, storage, and augmentation together with the labels."""

import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import skimage
from skimage import data as photographs
from skimage import transform
from skimage.measure import label as components

from ctxseg import data
from ctxseg.data import pipeline, superpixels
from ctxseg.data.transforms import Augmentation
from ctxseg.errors import UserError
from ctxseg.models.resizing import resize


@pytest.mark.parametrize("segments", [1, 7, 60])
def test_ids_of_super_pixels_and_their_number(segments):
    image = photographs.chelsea()[50:130, 100:220]
    regions = superpixels.slic(image, segments)
    assert regions.dtype == np.uint16 and regions.shape == (80, 120)
    np.testing.assert_array_equal(np.unique(regions), np.arange(regions.max() + 1))
    assert segments / 2 <= regions.max() + 1 <= segments
    np.testing.assert_array_equal(regions, superpixels.slic(image, segments))
    if segments == 60:
        assert components(regions, connectivity=1, background=-1).max() == regions.max() + 1  # connected


def test_noise_has_no_more_regions_than_requested():
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    assert superpixels.slic(noise, 30).max() < 30


def test_super_pixels_are_stored_with_the_data_set(street, tmp_path):
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


def test_super_pixels_of_an_image_at_a_scale(street, tmp_path):
    """At a scale, a network gets SLIC's regions of the resized image, in the documented number."""
    image = photographs.chelsea()[50:130, 100:221]
    size = (40, 60)  # half of 80×121, rounded to even
    at_scale = resize(
        jnp.asarray(superpixels.compute(image, (30, 0.5, ())), jnp.int32)[None, ..., None], size, "nearest"
    )
    half = transform.resize(image, size, order=1, anti_aliasing=False, preserve_range=True)
    np.testing.assert_allclose(half, resize(jnp.asarray(image, jnp.float32)[None], size)[0], atol=1e-3)
    np.testing.assert_array_equal(at_scale[0, ..., 0], superpixels.slic(half.round().astype(np.uint8), 30))
    assert superpixels.views(100, "image", (0.5, 1.2)) == ((100, 1.0, ()),)
    assert superpixels.views(100, "scale", (0.5, 1.2), (64,)) == ((100, 0.5, (64,)), (100, 1.2, (64,)))
    assert superpixels.views(100, "scale_by_area", (0.5, 1.2)) == ((25, 0.5, ()), (100, 1.2, ()))
    assert superpixels.views(100, "scale", (1.0,)) == superpixels.views(100, "image", (1.0,)) == ((100, 1.0, ()),)
    assert superpixels.views(0, "scale", (0.5,)) == ()

    builder = data.load("camvid", tmp_path, street)
    views = superpixels.views(9, "scale_by_area", (1.0, 0.5))
    source = pipeline.source(builder, "val", views=views)
    expected = [superpixels.compute(source[1]["image"], view) for view in views]
    np.testing.assert_array_equal(source[1]["regions"], np.stack(expected, axis=-1))
    np.testing.assert_array_equal(expected[0], superpixels.slic(source[1]["image"], 9))
    (batch,) = pipeline.eval_batches(source, 4, threads=0)
    assert batch["regions"].shape == (4, 32, 32, 2) and (batch["regions"][3] == -1).all()


def test_super_pixels_are_augmented_with_the_labels():
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


def test_damaged_files_are_reported(street, tmp_path):
    builder = data.load("camvid", tmp_path, street)
    pipeline.source(builder, "train", 9)
    (path,) = tmp_path.glob("**/superpixels-9-*/train-*.array_record")
    content = path.read_bytes()
    pipeline.source(builder, "val", 9)  # of three images instead of six
    for damaged in (b"", content[:70000], next(path.parent.glob("val-*")).read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"^{path} is damaged.*delete"):
            pipeline.source(builder, "train", 9)
    start = content.index(b"PNG")
    path.write_bytes(content[:start] + b"\x55" * 20 + content[start + 20 :])
    with pytest.raises(UserError, match="^camvid train: super-pixels 0 .*delete .*1.0.0"):
        list(pipeline.source(builder, "train", 9))


KILLED = """
import os, signal, sys, time
from ctxseg import data
from ctxseg.data import pipeline, superpixels
superpixels.SHARD, slic, calls = 2, superpixels.slic, []
def killed(*args):
    calls.append(args)
    while len(calls) >= 5:  # the last calls wait for the first file
        if os.path.exists(sys.argv[3]):
            os.kill(os.getpid(), signal.SIG)
            time.sleep(1)  # until the main thread gets the signal; it then waits for this thread to end
            break
        time.sleep(0.01)
    return slic(*args)
superpixels.slic = killed
pipeline.source(data.load("camvid", sys.argv[1], sys.argv[2]), "train", 9)
"""


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGINT"])
def test_an_interrupted_computation_continues(signal_name, street, tmp_path, monkeypatch):
    builder = data.load("camvid", tmp_path, street)
    folder = Path(builder.data_dir) / f"superpixels-9-slic-{skimage.__version__}"
    first = folder / "train-000000-000002.array_record"
    program = KILLED.replace("signal.SIG)", f"signal.{signal_name})")
    killed = subprocess.run([sys.executable, "-c", program, tmp_path, street, first], timeout=120, capture_output=True)
    assert killed.returncode == -getattr(signal, signal_name)
    assert first.exists() and not (folder / "train-000004-000006.array_record").exists()
    calls, slic, before = [], superpixels.slic, first.stat().st_mtime_ns
    monkeypatch.setattr(superpixels, "SHARD", 2)
    monkeypatch.setattr(superpixels, "slic", lambda *args: calls.append(args) or slic(*args))
    source = pipeline.source(builder, "train", 9)
    assert 2 <= len(calls) <= 4 and first.stat().st_mtime_ns == before  # of six
    assert not list(folder.glob("*.incomplete"))
    for i in range(6):
        np.testing.assert_array_equal(source[i]["regions"], slic(source[i]["image"], 9))


def test_files_of_another_size_are_read(street, tmp_path, monkeypatch):
    builder = data.load("camvid", tmp_path, street)
    monkeypatch.setattr(superpixels, "SHARD", 4)
    before = [sample["regions"] for sample in pipeline.source(builder, "train", 9)]
    folder = Path(builder.data_dir) / f"superpixels-9-slic-{skimage.__version__}"
    calls, slic = [], superpixels.slic
    monkeypatch.setattr(superpixels, "slic", lambda *args: calls.append(args) or slic(*args))
    monkeypatch.setattr(superpixels, "SHARD", 1)
    for missing, computed, files in (([], 0, 2), (["000004-000006"], 2, 3), (["000000-000004"], 4, 6)):
        for name in missing:
            (folder / f"train-{name}.array_record").unlink()
        calls.clear()
        source = pipeline.source(builder, "train", 9)
        assert len(calls) == computed and len(list(folder.glob("train-*"))) == files
        for i in range(6):
            np.testing.assert_array_equal(source[i]["regions"], before[i])


@pytest.mark.parametrize("count, size, files", [(883, 100, 9), (118_287, 474, 250)])
def test_the_number_of_files(count, size, files, tmp_path):
    shards = list(superpixels._shards(tmp_path, "train", count).values())
    assert len(shards) == files and len(shards[0]) == size and shards[-1].stop == count


@pytest.mark.parametrize("segments", [-1, 65536])
def test_numbers_out_of_range(segments, street, tmp_path):
    builder = data.load("camvid", tmp_path, street)
    with pytest.raises(UserError, match=f"^config.data.superpixels is {segments}.* at (least 0|most 65535)"):
        pipeline.source(builder, "val", segments)
    assert not list(tmp_path.glob("**/superpixels*"))
