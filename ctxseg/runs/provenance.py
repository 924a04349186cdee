"""What data a run is of: kept in its config.json under `dataset`, so that it is not continued or tested on others unseen."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from ctxseg import data
from ctxseg.data import store
from ctxseg.errors import UserError
from ctxseg.runs import record, workdir


def describe(builder, manual_dir=None) -> dict:
    """What data a prepared builder has.

    Args:
        builder: of a data set.
        manual_dir: the folder that it was asked for with, or None.

    Returns:
        `name`; `folder`, where its files are, None if it is generated; `fingerprint`, of what they hold, the same wherever they are;
        `class_names`, `palette` and `groups`, see `builders.records`.
    """
    folder = manual_dir and os.path.abspath(os.path.expanduser(manual_dir))
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
        folder = None
    metadata = builder.info.metadata
    return {
        "name": builder.name,
        "folder": folder or store.folder_of(builder),
        "fingerprint": metadata["fingerprint"],
        "class_names": list(metadata["class_names"]),
        "palette": [list(colour) for colour in metadata["palette"]],
        "groups": {group: list(names) for group, names in metadata["groups"].items()},
    }


def check(folder: str, here: dict, remedy: str) -> None:
    """Holds the data at hand to those of the run in `folder`, if there is one.

    A run of a time when this was not kept passes, with a line on stderr.

    Args:
        folder: of the run.
        here: what `describe` gives.
        remedy: what an error ends with.

    Raises:
        UserError: they are others.
    """
    if not epath.Path(folder, "config.json").exists():
        return
    there = workdir.read_dataset(folder)
    if there is None:
        line = f"{folder} does not say what data it was trained on, as it is older than that: taken to be {words(here)}"
        print(f"note: {line}", file=sys.stderr, flush=True)
    elif not same(there, here):
        differ = ["which has changed since"] if there["folder"] == here["folder"] else []
        differ += ["of other classes"] if there["class_names"] != here["class_names"] else []
        this = ", ".join([words(here), *differ])
        raise UserError(f"{folder} was trained on {words(there)}, and this is {this}: {remedy}")


def choose(names: Sequence[str], dataset: str, folder: str, data_dir: str, first: int = 0) -> str:
    """Which of several work directories is that of own data: the one that has a run of them, or else the first that has none of other data.

    A run is of `folder` if it says so, or if the folder that it says is no more and these are the same data, which have been moved.

    Args:
        names: of work directories, of runs or of sweeps, the most wanted first.
        dataset: a key of `data.DATASETS`.
        folder: of the data.
        data_dir: where prepared data sets are kept.
        first: of `names`, which a new run may have; those before it are of other data.

    Raises:
        UserError: a run's config.json is damaged, or the data cannot be read.
    """
    folder, runs = os.path.realpath(os.path.expanduser(folder)), {name: _origin(name) for name in names}
    for name, (place, *_) in runs.items():
        if place and os.path.realpath(place) == folder:
            return name
    moved = {name: mark for name, (place, mark, _) in runs.items() if place and mark and not os.path.isdir(place)}
    if moved and os.path.isdir(folder):
        here = store.fingerprint_of(data.DATASETS[dataset], data_dir, folder)
        for name, mark in moved.items():
            if mark == here:
                return name
    return next((name for name in names[first:] if not runs[name][0] and runs[name][2] in (None, dataset)), names[-1])


def _origin(name):
    """The folder, fingerprint and name of the data of a run, or of the runs below it, as far as they say."""
    of = None
    for path in [Path(name, "config.json"), *sorted(Path(name).glob("*/config.json"))]:
        if path.exists():
            found = workdir.read_dataset(str(path.parent)) or {}
            config = workdir.read_config(str(path.parent)).data
            place, of = found.get("folder") or config.manual_dir, config.name
            if place:
                return os.path.expanduser(place), found.get("fingerprint"), of
    return None, None, of


def same(one: dict, other: dict) -> bool:
    """Whether two descriptions are of the same data, wherever they are."""
    return (one["name"], one["fingerprint"]) == (other["name"], other["fingerprint"])


def words(dataset: dict) -> str:
    """'folder in /home/me/mine (3f2a…)'."""
    place = f" in {dataset['folder']}" if dataset["folder"] else ""
    return f"{dataset['name']}{place} ({dataset['fingerprint']})"


def metadata(config, folder: str) -> dict:
    """`class_names`, `palette` and `groups` of the run in `folder`, from that folder alone; of an older run, from its results or its data.

    Args:
        config: of the run; `data` is read, of a run that does not say.

    Raises:
        UserError: a run that does not say, and as `data.metadata`.
    """
    if found := workdir.read_dataset(folder):
        return found
    try:
        scored = record.read(folder)
        return {key: scored[key] for key in ("class_names", "palette", "groups")}
    except (UserError, KeyError):
        return data.metadata(config.data)
