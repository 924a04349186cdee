"""What all inputs have in common: what they are, how they are judged, and what they are tried on."""

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
COUNT = 4  # images of the folder that inputs are made of
TINY = [
    "--config.data.crop=8,8",
    "--config.data.threads=0",
    "--config.model.backbone.width=4",
    "--config.train.steps=2",
    "--config.train.batch_size=2",
    "--config.eval.batch_size=2",
]


VERDICTS = ["right", "one line", "wrong", "traceback"]


class Line(str):
    """What is right: a UserError of one line in which this regular expression is found."""


class Input(NamedTuple):
    """Attributes:
    kind: of the file, or of what is given by hand.
    what: is odd about it.
    read: (bench, an empty folder) → what a command makes of the input, which is made in that folder.
    right: that value; or a `Line`.
    """

    kind: str
    what: str
    read: Callable[["Bench", Path], Any]
    right: Any


def judge(given: Input, bench: "Bench", folder: Path) -> str:
    """'right' or 'one line'. AssertionError for another value or line; whatever else is raised is a traceback."""
    wanted = given.right
    try:
        found = given.read(bench, folder)
    except UserError as e:
        line = f"{given.kind}, {given.what}: {e}"
        assert isinstance(wanted, Line) and re.search(wanted, str(e)), line
        assert len(str(e).splitlines()) == 1 and str(e).isprintable(), line
        return "one line"
    assert not isinstance(wanted, Line), f"{given.kind}, {given.what}: {found!r} where a line is due"
    np.testing.assert_equal(found, wanted, f"{given.kind}, {given.what}")
    return "right"


def label(seed: int) -> np.ndarray:
    """uint8 [8,12] of the ids 0 to 2, in blocks of 4×4, all of them there."""
    ids = np.random.default_rng(seed).permutation(np.arange(6) % 3)
    return np.kron(ids.reshape(2, 3), np.ones((4, 4))).astype(np.uint8)


def mine(folder: Path, classes: str = "road\ntree\nsky\n") -> Path:
    """A user's folder in `folder`: images and labels 0 to 3, the labels `label(i)`."""
    root = folder / "mine"
    for i in range(COUNT):
        for kind, array in (("images", np.full((8, 12, 3), 50 * i, np.uint8)), ("labels", label(i))):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / kind / f"{i}.png")
    (root / "classes.txt").write_text(classes)
    return root


def prepared(folder: Path, root: Path):
    """The data set of a user's folder, as a command line gets it."""
    flags = [f"--config.data.manual_dir={root}", f"--config.data.data_dir={folder / 'prepared'}", "--mode=prepare"]
    config = command_line.parse(["main.py", "--config=configs/fcn.py:folder", *flags]).config.data
    return data.load(config.name, config.data_dir, config.manual_dir)


def samples(builder) -> dict:
    """{split: {name: label}}."""
    return {
        split: {sample["name"]: sample["label"] for sample in pipeline.source(builder, split)}
        for split in builder.info.splits
    }


def changed(value, path: str, new) -> dict:
    """A copy of what JSON holds, with another value at `a.b.c`."""
    value = json.loads(json.dumps(value))
    *sections, last = path.split(".")
    inner = value
    for key in sections:
        inner = inner[key]
    inner[last] = new
    return value


class Bench:
    """What inputs are tried on, made when the first asks for it in a folder: a run, evaluated, of a network that is not trained."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def flags(self) -> list[str]:
        """The command line of the run, without its folder."""
        places = [
            f"--config.data.manual_dir={self.folder / 'mine'}",
            f"--config.data.data_dir={self.folder / 'prepared'}",
        ]
        return ["--config=configs/fcn.py:folder", *TINY, *places]

    @cached_property
    def run(self) -> Path:
        """The folder of the run: two checkpoints, of which the first is the best."""
        folder = self.folder / "run"
        root = mine(self.folder)
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
                saved.save(step, state.replace(step=jnp.int32(step)), {}, {"mIoU": score})
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
    """A row a kind, and their sum: how many inputs there are, and how often there was which verdict."""
    rows = [
        [kind, len(items), *(verdicts.get((kind, column), 0) for column in VERDICTS)] for kind, items in kinds.items()
    ]
    rows.append(["all", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))])
    lines = [["kind", "inputs", *VERDICTS], ["---"] * 6, *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def call(*arguments) -> None:
    """A command line, whatever it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        commands.main(["main.py", *map(os.fspath, arguments)])
