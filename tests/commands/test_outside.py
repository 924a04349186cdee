"""A backbone, a context, a loss, an optimiser, a data set and a logger from outside the package, named in a config."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctxseg.choices import find
from ctxseg.errors import UserError
from tests.commands.test_main import call

ROOT = Path(__file__).parents[2]
PARTS = """
import flax.linen as nn
import jax
import optax
from collections.abc import Callable
from PIL import Image
from ctxseg.data.builders.labels import label_image
from ctxseg.data.builders.pairs import Pair
from ctxseg.data.builders.records import PairsBuilder
from ctxseg.models.layers import ConvNorm
from ctxseg.training.pixel_losses import cross_entropy


class Backbone(nn.Module):
    width: int = 4
    conv: Callable = ConvNorm

    @nn.compact
    def __call__(self, x, train=False):
        return {"res5": self.conv(self.width, 3, stride=4, name="only")(x, train)}


class Context(nn.Module):
    levels: tuple[str, ...] = ()
    channels: int = 3
    slope: float = 1.0  # no module of the package has this field
    num_classes: int = 0

    @nn.compact
    def __call__(self, features, regions=None, train=False):
        x = self.slope * nn.Dense(self.channels, name="mine")(features["res5"])
        return x, {"own": nn.Dense(self.num_classes, name="scores")(x)}


def adam(config):
    return [optax.scale_by_adam()]


def doubled(logits, labels, axis_name=None):
    return 2 * cross_entropy(logits, labels, axis_name)


class Lines:
    def __init__(self, workdir):
        self.path = workdir / "lines.txt"

    def write(self, step, kind, values):
        with open(self.path, "a") as f:
            print(step, kind, sorted(values)[0], file=f)

    def restart(self, step):
        pass

    def close(self):
        pass


class Halves(PairsBuilder):
    name = "halves"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "a.png and b.png"
    homepage = ""
    class_names = ["left", "right"]
    palette = [(1, 2, 3), (4, 5, 6)]
    published = {"train": 2, "val": 2}

    @staticmethod
    def list_pairs(manual_dir):
        paths = sorted(manual_dir.glob("?.png"))
        return {split: [Pair(path.stem, path, path) for path in paths] for split in ("train", "val")}

    read_label = staticmethod(label_image("halves", {0: 0, 255: 1}))
"""
NAMES = {
    "model.backbone.name": "Backbone", "model.context.name": "Context", "loss.name": "doubled", "optimizer.name": "adam",
    "train.loggers": "Lines,", "data.name": "Halves",
}  # fmt: skip


def test_parts_from_outside_the_package(tmp_path, monkeypatch):
    """A sweep trains in a subprocess. Resuming, evaluation and prediction then find the parts by their names in the run's config."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "outside_parts.py").write_text(PARTS)
    (tmp_path / "halves").mkdir()
    for name in "ab":
        Image.fromarray(np.repeat(np.uint8([[0, 255]]), 8, 1).repeat(16, 0)).save(tmp_path / f"halves/{name}.png")
    settings = [f"--config.{field}=outside_parts:{name}" for field, name in NAMES.items()]
    settings += [
        f"--config.data.manual_dir={tmp_path}/halves", f"--config.data.data_dir={tmp_path}/prepared",
        "--config.data.crop=16,16", "--config.data.threads=0", "--config.model.context.channels=5",
        "--config.model.context.slope=0.5",
        "--config.train.steps=2", "--config.train.batch_size=2", "--config.train.log_every=1",
    ]  # fmt: skip
    out = call("--config=configs/fcn.py", "--mode=show", *settings)
    assert "config.model.context.levels = ['res5']" in out and "config.model.context.slope = 0.5" in out
    with pytest.raises(
        UserError, match="config.loss.name is outside_parts:doubled.*`counted`.*config.train.micro_batches is 2"
    ):
        call("--config=configs/fcn.py", "--mode=show", *settings, "--config.train.micro_batches=2")
    call("--config=configs/fcn.py", "--mode=sweep", *settings, f"--workdir={tmp_path}/sweep")
    (run,) = (path.parent for path in (tmp_path / "sweep").glob("*/config.json"))
    assert (run / "lines.txt").read_text().splitlines() == [
        "1 train images_per_second", "2 train images_per_second", "2 eval ECE",
    ]  # fmt: skip
    assert not (run / "tensorboard").exists()
    scores = json.loads((run / "results.json").read_text())
    assert json.loads((run / "config.json").read_text())["model"]["context"]["slope"] == 0.5
    assert list(scores["per_class_iou"]) == ["left", "right"]
    last = call("--mode=evaluate", f"--workdir={run}").splitlines()[-1]
    assert last == call(f"--workdir={run}").splitlines()[-1] and last.startswith(f"mIoU {scores['mIoU']:.4f}")
    call("--mode=predict", f"--workdir={run}", f"--input={tmp_path}/halves/a.png", f"--output={tmp_path}/labels")
    assert Image.open(tmp_path / "labels/a.png").getpalette()[:6] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "name, message",
    [
        ("ppn", "config.f is 'ppn'.*ppm$"),
        ("nowhere.at_all:Class", "config.f is 'nowhere.at_all:Class': ModuleNotFoundError: No module named 'nowhere'"),
        ("json:Class", "config.f is 'json:Class': AttributeError: module 'json' has no attribute 'Class'"),
    ],
)
def test_a_missing_name_is_reported(name, message):
    with pytest.raises(UserError, match=message):
        find("f", name, {"ppm": 1})


def test_a_function_is_not_a_module():
    with pytest.raises(UserError, match="config.model.context.name is 'json:loads'.* flax module"):
        call(f"--config={ROOT}/configs/fcn.py", "--mode=show", "--config.model.context.name=json:loads")


def test_modules_are_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "of_this_folder.py").write_text("answer = 42\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    assert find("f", "of_this_folder:answer", {}) == 42
