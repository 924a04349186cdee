"""Shared by all inputs: their description, how results are judged, and a run to try them on."""

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ctxseg import commands, data
from ctxseg.commands import command_line
from ctxseg.data import pipeline
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.runs import checkpoints, metrics_log, provenance, workdir
from ctxseg.training import optimizers
from ctxseg.training.state import create_state

ROOT = Path(__file__).parents[2]
NAMES = ["road", "tree", "sky"]
COUNT = 4  # images in the user's folder
TINY = [
    "--config.data.crop=8,8",
    "--config.data.threads=0",
    "--config.model.backbone.name=tiny",
    "--config.model.backbone.width=4",
    "--config.model.pretrained=none",
    "--config.train.steps=2",
    "--config.train.batch_size=2",
    "--config.eval.batch_size=2",
]


VERDICTS = ["correct", "one line", "wrong", "traceback"]


class ErrorLine(str):
    """An expected UserError: a regular expression that its line must match."""


class Input(NamedTuple):
    """An input to try.

    Attributes:
        kind: the kind of file or setting.
        name: what is unusual about it.
        read: (bench, an empty folder) → the result of a command for the input, which it creates in that folder.
        expected: the result, or an `ErrorLine`.
    """

    kind: str
    name: str
    read: Callable[["Bench", Path], Any]
    expected: Any


def judge(item: Input, bench: "Bench", folder: Path) -> str:
    """'correct' or 'one line'. AssertionError for another result or line; any other exception is a traceback."""
    try:
        result = item.read(bench, folder)
    except UserError as e:
        line = f"{item.kind}, {item.name}: {e}"
        assert isinstance(item.expected, ErrorLine) and re.search(item.expected, str(e)), line
        assert len(str(e).splitlines()) == 1 and str(e).isprintable(), line
        return "one line"
    assert not isinstance(item.expected, ErrorLine), f"{item.kind}, {item.name}: expected an error, got {result!r}"
    np.testing.assert_equal(result, item.expected, f"{item.kind}, {item.name}")
    return "correct"


def label(seed: int) -> np.ndarray:
    """uint8 [8,12] in blocks of 4×4, with all of the ids 0 to 2."""
    ids = np.random.default_rng(seed).permutation(np.arange(6) % 3)
    return np.kron(ids.reshape(2, 3), np.ones((4, 4))).astype(np.uint8)


def user_folder(folder: Path, classes: str = "road\ntree\nsky\n") -> Path:
    """Writes a user's folder in `folder`: images and labels 0 to 3; the labels are `label(i)`."""
    root = folder / "mine"
    for i in range(COUNT):
        for kind, array in (("images", np.full((8, 12, 3), 50 * i, np.uint8)), ("labels", label(i))):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / kind / f"{i}.png")
    (root / "classes.txt").write_text(classes)
    return root


def prepared(folder: Path, root: Path):
    """The data set of a user's folder, as a command prepares it."""
    flags = [f"--config.data.manual_dir={root}", f"--config.data.data_dir={folder / 'prepared'}", "--mode=prepare"]
    config = command_line.parse(["main.py", "--config=configs/fcn.py:folder", *flags]).config.data
    return data.load(config.name, config.data_dir, config.manual_dir)


def samples(builder) -> dict:
    """{split: {name: label}}."""
    return {
        split: {sample["name"]: sample["label"] for sample in pipeline.source(builder, split)}
        for split in builder.info.splits
    }


def with_value(value, path: str, new) -> dict:
    """A copy of a JSON value, with another entry at `a.b.c`."""
    value = json.loads(json.dumps(value))
    *sections, last = path.split(".")
    inner = value
    for key in sections:
        inner = inner[key]
    inner[last] = new
    return value


class Bench:
    """A run of an untrained network, with an evaluation, to try inputs on. It is created in `folder` when it is first used."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def flags(self) -> list[str]:
        """The command line of the run, without --workdir."""
        folders = [
            f"--config.data.manual_dir={self.folder / 'mine'}",
            f"--config.data.data_dir={self.folder / 'prepared'}",
        ]
        return ["--config=configs/fcn.py:folder", *TINY, *folders]

    @cached_property
    def run(self) -> Path:
        """The folder of the run, with two checkpoints; the first is the best."""
        folder = self.folder / "run"
        root = user_folder(self.folder)
        config = command_line.parse(["main.py", *self.flags]).config
        builder = prepared(self.folder, root)
        workdir.check(str(folder), config)
        workdir.claim(str(folder), config, provenance.describe(builder, root))
        model = create_model(config.model, len(NAMES))
        optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps)
        shapes = jax.eval_shape(lambda: create_state(model, optimizer, config.data.crop, 0))
        state = jax.tree.map(lambda x: jnp.full(x.shape, 1, x.dtype), shapes)
        log = metrics_log.MetricsLog(folder)
        with checkpoints.Checkpoints(str(folder / "checkpoints"), 2) as saved:
            for step, score in ((1, 0.5), (2, 0.25)):
                log.write(step, "train", {"loss": 1 / step, "learning_rate": 0.1, "images_per_second": 9.0})
                log.write(step, "eval", {"mIoU": score})
                saved.save(step, state.replace(step=jnp.int32(step)), {}, score)
        commands.main(["main.py", "--mode=evaluate", f"--workdir={folder}"])
        return folder

    def copy(self, folder: Path) -> Path:
        """A copy of the run in `folder`."""
        return Path(shutil.copytree(self.run, folder / "run"))


def by_kind(items: Iterable[Input]) -> dict[str, list[Input]]:
    """{kind: inputs}."""
    kinds = {}
    for item in items:
        kinds.setdefault(item.kind, []).append(item)
    return kinds


def table(kinds: dict[str, list[Input]], verdicts: dict[tuple[str, str], int]) -> str:
    """A Markdown table with a row for each kind and a row of sums: the number of inputs, and of each verdict."""
    rows = [
        [kind, len(items), *(verdicts.get((kind, column), 0) for column in VERDICTS)] for kind, items in kinds.items()
    ]
    rows.append(["all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))])
    lines = [["kind", "inputs", *VERDICTS], ["---"] * 6, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def call(*arguments) -> None:
    """Runs a command line, and discards what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        commands.main(["main.py", *map(os.fspath, arguments)])
