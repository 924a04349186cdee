"""The exported archive, in a process that has no `ctxseg`, against the model."""

import io
import json
import os
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import defaults
from ctxseg import checkpoints, data, export, inference, schedules, workdir
from ctxseg.data.superpixels import slic
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.state import create_state

SIZE = (32, 48)
# What a stranger runs: the script of the archive, on arrays in batches of several sizes and on a photograph.
STRANGER = """
import contextlib
import sys

sys.modules["ctxseg"] = None  # importing it raises
import runpy

import numpy as np

run = runpy.run_path("run.py")
segment, about = run["load"]("segmenter.zip")
inputs = np.load("inputs.npz")
results = {}
for n in (1, 3):
    results[f"labels{n}"], results[f"probabilities{n}"] = segment(inputs["images"][:n], inputs["regions"][:n])
np.savez("results.npz", **results)
run["main"]("segmenter.zip", "photo.png", "labels.png")


def seen(images):
    return images[..., 0] // 86, None


run["main"].__globals__["load"] = lambda path: (seen, about | {"size": [40, 70], "superpixels": []})
with contextlib.redirect_stdout(None):
    for name in ("int32", "float"):
        run["main"]("segmenter.zip", name + ".tif", name + ".png")
assert not any(name.startswith("ctxseg.") for name in sys.modules)
"""


def save(folder, config):
    """A run whose only checkpoint has random numbers everywhere, as of step 7. Returns the variables and the model."""
    model = create_model(config.model, len(data.metadata(config.data)["class_names"]))
    optimizer = schedules.create_optimizer(config.optimizer, config.train.steps, ())
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


def test_the_archive_runs_without_the_package(tmp_path):
    config = defaults.get_config()
    config.system, config.data.superpixels, config.data.crop = "both", 12, (32, 32)
    config.model.backbone.width = 4
    # Regions, a memory and batch statistics: everything that a system may need beside parameters.
    config.model.context.name, config.model.context.levels = "msci", ("res4", "res5")
    config.model.context.channels, config.model.context.regions, config.model.context.region_pool = 4, 12, "mean"
    config.model.memory.name, config.model.memory.channels = "mcibi", 4
    config.eval.flip = True
    model, variables = save(tmp_path / "run", config)
    path = export.export(config, tmp_path / "run", tmp_path / "stranger" / "segmenter.zip", SIZE)

    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (3, *SIZE, 3), np.uint8)
    regions = rng.integers(0, 12, (3, *SIZE)).astype(np.int32)
    photo = rng.integers(0, 256, (40, 70, 3), np.uint8)
    np.savez(path.parent / "inputs.npz", images=images, regions=regions)
    Image.fromarray(photo).save(path.parent / "photo.png")
    grey = photo[..., 0]
    Image.fromarray(grey.astype(np.int32)).save(path.parent / "int32.tif")
    Image.fromarray(grey.astype(np.float32) / 255).save(path.parent / "float.tif")
    with zipfile.ZipFile(path) as archive:
        archive.extract("run.py", path.parent)
        about = json.loads(archive.read("classes.json"))
        weights = np.load(io.BytesIO(archive.read("weights.npz")))
        program = archive.read("model.jax")
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER], cwd=path.parent, env=os.environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # A photograph of 40×70, and the size of as many pixels that keeps its aspect.
    assert done.stderr.endswith(
        "note: the photograph is squashed to 32×48; an archive of --size=30,52 keeps its aspect\n"
    )

    names, palette = (data.metadata(defaults.get_config().data)[key] for key in ("class_names", "palette"))
    assert about["class_names"] == list(names) and about["palette"] == [list(c) for c in palette]
    assert (about["size"], about["step"], about["superpixels"]) == (list(SIZE), 7, [[12, 1.0, []]])
    assert about["protocol"] == "scale 1, flipped, whole image" and {"cpu", "cuda", "tpu"} <= set(about["platforms"])
    assert {a["name"]: a.get("shape") for a in about["arguments"] + about["results"]} == {
        "weights": None,
        "images": ["b", *SIZE, 3],
        "regions": ["b", *SIZE],
        "labels": ["b", *SIZE],
        "probabilities": ["b", *SIZE, len(names)],
    }
    assert {name.split("/")[0] for name in weights} == {"params", "batch_stats", "memory"}
    assert b"segmenter.py" in program and os.path.dirname(export.__file__).encode() not in program

    predict = inference.create_predictor(model, config.eval)
    resized = np.asarray(Image.fromarray(photo).resize(SIZE[::-1], Image.Resampling.BILINEAR))
    expected = predict(
        variables,
        np.concatenate([images, resized[None]]),
        np.concatenate([regions, slic(resized, 12)[None].astype(np.int32)]),
    )
    results = np.load(path.parent / "results.npz")
    for n in (1, 3):
        np.testing.assert_allclose(results[f"probabilities{n}"], expected[:n], atol=1e-4)
        assert (results[f"labels{n}"] == results[f"probabilities{n}"].argmax(-1)).all()
        assert results[f"labels{n}"].dtype == np.int32
    assert len(np.unique(results["labels3"])) > 1 and expected.std(axis=(0, 1, 2)).max() > 0.01

    for name in ("int32", "float"):
        np.testing.assert_array_equal(np.asarray(Image.open(path.parent / f"{name}.png")), grey // 86)
    labels = Image.open(path.parent / "labels.png")
    assert (
        labels.mode == "P"
        and labels.size == (70, 40)
        and labels.getpalette()[:6] == about["palette"][0] + about["palette"][1]
    )
    wanted = Image.fromarray(expected[3].argmax(-1).astype(np.uint8)).resize((70, 40), Image.Resampling.NEAREST)
    assert (np.asarray(labels) == np.asarray(wanted)).mean() > 0.99
    assert sum(float(line.split()[-1].rstrip("%")) for line in done.stdout.splitlines()) == pytest.approx(100, abs=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A config without a backbone, and the folder of a run of it."""
    config = defaults.get_config()
    config.model.backbone.name = "none"
    folder = tmp_path_factory.mktemp("run")
    save(folder, config)
    return config, folder


def test_an_archive_is_replaced_only_if_told(run, tmp_path):
    config, folder = run
    path = tmp_path / "a.zip"
    path.write_text("kept")
    with pytest.raises(UserError, match=r"--output=.*a.zip exists: choose another, or give --overwrite"):
        export.export(config, folder, path)
    assert path.read_text() == "kept"
    assert export.export(config, folder, path, overwrite=True) == path and zipfile.is_zipfile(path)
    assert os.listdir(tmp_path) == ["a.zip"]
    assert export.export(config, folder) == folder / "export.zip"
    with zipfile.ZipFile(folder / "export.zip") as archive:
        assert sorted(archive.namelist()) == ["classes.json", "images.py", "model.jax", "run.py", "weights.npz"]
        about = json.loads(archive.read("classes.json"))
        assert about["size"] == [128, 128] and about["superpixels"] == []
        (tmp_path / "run.py").write_bytes(archive.read("run.py"))
    with pytest.raises(UserError, match="a.zip/b.zip cannot be written: (Not a directory|File exists)"):
        export.export(config, folder, path / "b.zip")

    path.write_bytes(path.read_bytes()[:2000])
    done = subprocess.run(
        [sys.executable, "-I", tmp_path / "run.py", path, "photo.png", tmp_path / "labels.png"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and not (tmp_path / "labels.png").exists()
    assert done.stderr == f"error: {path} cannot be read as an exported segmenter: File is not a zip file\n"


def test_what_cannot_be_exported_is_said(run, tmp_path):
    config, folder = run
    with pytest.raises(UserError, match="config.json is missing: --workdir is not the folder of a run"):
        export.export(config, tmp_path / "nothing")
    workdir.check(tmp_path / "begun", config)
    workdir.claim(tmp_path / "begun", config)
    with pytest.raises(UserError, match="checkpoints has no checkpoint: train first"):
        export.export(config, tmp_path / "begun")
    for size in ((31, 64), (64, 8193)):
        with pytest.raises(UserError, match=rf"--size={size[0]},{size[1]} cannot be: height and width are 32 to 8192"):
            export.export(config, folder, tmp_path / "a.zip", size)
    with pytest.raises(UserError, match="exists: choose another"):
        export.export(config, folder, tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == ["begun"]


def test_sizes_on_the_command_line():
    assert export.parse_size("360,480") == (360, 480) and export.parse_size(None) is None
    for text in ("", "360", "360x480", "-1,5", "1,2,3", "a,b", "3.5,4"):
        with pytest.raises(UserError, match="cannot be: it wants a height and a width, --size=360,480"):
            export.parse_size(text)
