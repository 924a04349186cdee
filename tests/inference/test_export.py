"""The exported archive, in a process without `ctxseg`, against the model."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

import ctxseg
from ctxseg import data
from ctxseg.configs import defaults
from ctxseg.errors import UserError
from ctxseg.inference import export, label_maps, predict
from ctxseg.inference.probabilities import create_predictor
from ctxseg.inference.protocol import Protocol
from ctxseg.models import create_model
from ctxseg.runs import checkpoints, workdir
from ctxseg.training import optimizers
from ctxseg.training.state import create_state

# A program that cannot import ctxseg: it calls the script of the archive, with arrays in batches of several sizes and with photographs.
WITHOUT_CTXSEG = """
import contextlib
import sys

sys.modules["ctxseg"] = sys.modules["jaxtyping"] = None  # importing them raises
import runpy

import numpy as np

run = runpy.run_path("run.py")
network, about = run["load"]("segmenter.zip")
inputs = np.load("inputs.npz")
results = {}
for n in (1, 3):
    results[f"probabilities{n}"] = network(*(inputs[name][:n] for name in ("images", "sizes", "regions")))
np.savez("results.npz", **results)
for name in ("wide", "high"):
    run["main"]("segmenter.zip", name + ".png", name + "-labels.png")


def by_brightness(images, sizes):
    return images[..., :1] // 86 == np.arange(3)


run["main"].__globals__["load"] = lambda path: (by_brightness, about | {"superpixels": []})
with contextlib.redirect_stdout(None):
    for name in ("int32", "float"):
        run["main"]("segmenter.zip", name + ".tif", name + ".png")
assert not any(name.startswith("ctxseg.") for name in sys.modules)
"""
# A similar program for several archives.
SEVERAL_WITHOUT_CTXSEG = """
import runpy
import sys

sys.modules["ctxseg"] = sys.modules["jaxtyping"] = None
run = runpy.run_path("run.py")
for argument in sys.argv[1:]:
    archive, photo = argument.split("=")
    run["main"](archive + ".zip", photo + ".png", archive + ".png")
"""
PHOTOS = {"wide": (75, 131), "high": (61, 40)}  # heights and widths, which no stride divides


def save(folder, config):
    """Writes a run with one checkpoint, of step 7, with random variables. Returns the model and the variables."""
    model = create_model(config.model, len(data.metadata(config.data)["class_names"]))
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps, ())
    shapes = jax.eval_shape(lambda: create_state(model, optimizer, config.data.crop, config.seed))
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.1, 0.9, x.shape), x.dtype), shapes)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape), x.dtype), shapes.params)
    state = state.replace(step=jnp.int32(7), params=params)
    workdir.check(folder, config)
    workdir.claim(folder, config)
    with checkpoints.Checkpoints(os.path.join(folder, "checkpoints")) as saved:
        saved.save(7, state, {})
    return model, state.variables


def draw_photos(folder):
    """Writes `PHOTOS`: patches of random colours with noise."""
    rng = np.random.default_rng(2)
    for name, (height, width) in PHOTOS.items():
        patches = np.kron(rng.integers(0, 256, (10, 17, 3)), np.ones((8, 8, 1)))[:height, :width]
        noisy = np.clip(patches + rng.normal(0, 20, patches.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{name}.png")


def run_without_the_package(script, folder, *arguments):
    """The output of a script in a process that cannot import ctxseg."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, *arguments], cwd=folder, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_labels(config, run, photo, labels):
    """Asserts that the image `labels` equals the result of --mode=predict for `photo`, and has several classes."""
    assert (
        predict.predict(
            config,
            run,
            lambda: label_maps.create_prediction(config, run, None, False),
            label_maps.suffixes(False),
            predict.find(str(photo), labels.parent / "predicted", config.eval.max_pixels),
            epath.Path(labels.parent / "predicted"),
            overwrite=True,
        )
        == 0
    )
    expected, actual = (np.asarray(Image.open(p)) for p in (labels.parent / "predicted" / photo.name, labels))
    assert expected.shape == actual.shape and len(np.unique(expected)) > 2
    assert (expected == actual).mean() >= 0.999


def test_the_archive_runs_without_the_package(tmp_path):
    config = defaults.get_config()
    config.system, config.data.superpixels, config.data.crop = "both", 12, (32, 32)
    config.model.backbone.width = 4
    # Regions, a memory and batch statistics: everything that a system may need besides parameters.
    config.model.context.name, config.model.context.levels = "msci", ("res4", "res5")
    config.model.context.channels, config.model.context.regions, config.model.context.region_pool = 4, 12, "mean"
    config.model.memory.name, config.model.memory.channels = "mcibi", 4
    config.eval.flip = True
    model, variables = save(tmp_path / "run", config)
    path = export.export(config, tmp_path / "run", tmp_path / "exported" / "segmenter.zip")

    size = (32, 64)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (3, *size, 3), np.uint8)
    regions = rng.integers(0, 12, (3, *size)).astype(np.int32)
    np.savez(path.parent / "inputs.npz", images=images, sizes=np.array([size] * 3, np.int32), regions=regions)
    draw_photos(path.parent)
    grey = rng.integers(0, 256, (40, 70), np.uint8)
    Image.fromarray(grey.astype(np.int32)).save(path.parent / "int32.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(path.parent / "float.tif")
    with zipfile.ZipFile(path) as archive:
        archive.extract("run.py", path.parent)
        about = json.loads(archive.read("classes.json"))
        weights = np.load(io.BytesIO(archive.read("weights.npz")))
        program = archive.read("model.jax")
    printed = run_without_the_package(WITHOUT_CTXSEG, path.parent)

    names, palette = (data.metadata(defaults.get_config().data)[key] for key in ("class_names", "palette"))
    assert about["class_names"] == list(names) and about["palette"] == [list(c) for c in palette]
    assert (about["step"], about["superpixels"]) == (7, [[12, 1.0, []]])
    assert about["protocol"] == "scale 1, flipped, whole image" and {"cpu", "cuda", "tpu"} <= set(about["platforms"])
    assert {a["name"]: a.get("shape") for a in about["arguments"] + about["results"]} == {
        "weights": None,
        "images": ["b", "32*h", "32*w", 3],
        "sizes": ["b", 2],
        "regions": ["b", "32*h", "32*w"],
        "probabilities": ["b", "32*h", "32*w", len(names)],
    }
    assert {name.split("/")[0] for name in weights} == {"params", "batch_stats", "memory"}
    assert b"segmenter.py" in program and os.path.dirname(export.__file__).encode() not in program

    expected = create_predictor(model, config.eval)(variables, images, regions)
    results = np.load(path.parent / "results.npz")
    for n in (1, 3):
        np.testing.assert_allclose(results[f"probabilities{n}"], expected[:n], atol=1e-4)
    assert expected.std(axis=(0, 1, 2)).max() > 0.01

    for name in ("int32", "float"):
        np.testing.assert_array_equal(np.asarray(Image.open(path.parent / f"{name}.png")), grey // 86)
    for name in PHOTOS:
        check_labels(config, tmp_path / "run", path.parent / f"{name}.png", path.parent / f"{name}-labels.png")
    loaded, photo = ctxseg.load(path), path.parent / "wide.png"
    np.testing.assert_array_equal(loaded.predict(photo), np.asarray(Image.open(path.parent / "wide-labels.png")))
    assert loaded.probabilities(photo).shape[2] == len(loaded.class_names) == len(loaded.palette) == len(names)
    assert not hasattr(loaded, "features")
    labels = Image.open(path.parent / "wide-labels.png")
    assert labels.mode == "P" and labels.getpalette()[:6] == about["palette"][0] + about["palette"][1]
    shares = [float(line.split()[-1].rstrip("%")) for line in printed.splitlines()]
    assert sum(shares) == pytest.approx(100 * len(PHOTOS), abs=0.1)


def test_archive_and_prediction_give_the_same_labels(tmp_path):
    """For all parts of a protocol, with a network that sees the whole image."""
    protocols = {
        "scales": {"scales": (0.7, 1.0), "size": (50,), "window": (40, 52), "flip": True},
        "fixed": {"size": (50, 90), "window": (200, 64), "max_pixels": 2000, "crf.iterations": 1},
    }
    photos = {"scales": "high", "fixed": "wide"}
    for name, protocol in protocols.items():
        config = defaults.get_config()
        config.model.backbone.name = "none"
        config.model.context.name, config.model.context.channels = "ppm", 4
        config.model.context.norm = "none"
        config.eval.update_from_flattened_dict(protocol)
        protocols[name] = config
        if name == "scales":
            save(tmp_path / "run", config)
        path = export.export(config, tmp_path / "run", tmp_path / f"{name}.zip")
    with zipfile.ZipFile(path) as archive:
        archive.extract("run.py", tmp_path)
    draw_photos(tmp_path)
    arguments = [f"{name}={photo}" for name, photo in photos.items()]
    run_without_the_package(SEVERAL_WITHOUT_CTXSEG, tmp_path, *arguments)
    for name, config in protocols.items():
        check_labels(config, tmp_path / "run", tmp_path / f"{photos[name]}.png", tmp_path / f"{name}.png")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A config without a backbone, and the folder of its run."""
    config = defaults.get_config()
    config.model.backbone.name = "none"
    folder = tmp_path_factory.mktemp("run")
    save(folder, config)
    return config, folder


def test_an_archive_is_replaced_only_with_overwrite(run, tmp_path):
    config, folder = run
    path = tmp_path / "a.zip"
    path.write_text("kept")
    with pytest.raises(UserError, match=r"--output=.*a\.zip exists.*--overwrite"):
        export.export(config, folder, path)
    assert path.read_text() == "kept"
    assert export.export(config, folder, path, overwrite=True) == path and zipfile.is_zipfile(path)
    assert os.listdir(tmp_path) == ["a.zip"]
    assert export.export(config, folder) == folder / "export.zip"
    with zipfile.ZipFile(folder / "export.zip") as archive:
        assert sorted(archive.namelist()) == [
            "classes.json", "images.py", "model.jax", "run.py", "sizes.py", "weights.npz"
        ]  # fmt: skip
        about = json.loads(archive.read("classes.json"))
        assert about["base_size"] == [] and about["superpixels"] == [] and about["crf"] is None
        (tmp_path / "run.py").write_bytes(archive.read("run.py"))
    with pytest.raises(UserError, match="a.zip/b.zip cannot be written: (Not a directory|File exists)"):
        export.export(config, folder, path / "b.zip")

    path.write_bytes(path.read_bytes()[:2000])
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "run.py", path, "photo.png", tmp_path / "labels.png"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and not (tmp_path / "labels.png").exists()
    assert re.fullmatch(rf"error: {re.escape(str(path))} .*zip.*\n", done.stderr)


def test_message_names_the_missing_run_or_checkpoint_or_the_output(run, tmp_path):
    config, folder = run
    with pytest.raises(UserError, match=r"config\.json is missing.*--workdir"):
        export.export(config, tmp_path / "nothing")
    workdir.check(tmp_path / "untrained", config)
    workdir.claim(tmp_path / "untrained", config)
    with pytest.raises(UserError, match="checkpoints has no checkpoint.*train"):
        export.export(config, tmp_path / "untrained")
    with pytest.raises(UserError, match="--output=.* exists"):
        export.export(config, folder, tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == ["untrained"]


def test_a_network_that_computes_with_sizes_cannot_be_exported():
    class HalfHeight:
        num_classes = 2

        def apply(self, variables, images, regions, train):
            return images[:, : int(images.shape[1] * 0.5)]

    with pytest.raises(UserError, match="cannot be exported.* size of its maps"):
        export.lower(HalfHeight(), {}, Protocol())
