"""The data set of a run: recorded in its config.json under `dataset`, so that continuing or testing it on other data is noticed."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from ctxseg import data, processes
from ctxseg.data import store
from ctxseg.errors import UserError
from ctxseg.runs import record, workdir


def describe(builder, manual_dir=None, others: Sequence = ()) -> dict:
    """Describes the data set of a prepared builder.

    Args:
        builder: builder of the data set.
        manual_dir: the folder that was passed to the builder, or None.
        others: builders of the data sets of `config.data.mixture`, which may repeat, and may be `builder`.

    Returns:
        `name`; `folder` of its files, None if it is generated; `fingerprint` of their contents, independent of their location;
        `class_names`, `palette` and `groups`, see `builders.records`; and with `others` also `mixture`, a list of the name, folder and
        fingerprint of each of them.
    """
    folder = manual_dir and os.path.abspath(os.path.expanduser(manual_dir))
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
        folder = None
    metadata = builder.info.metadata
    mixture = [
        {"name": name, "folder": store.folder_of(other), "fingerprint": other.info.metadata["fingerprint"]}
        for name, other in {other.name: other for other in others}.items()
        if name != builder.name
    ]
    return {
        "name": builder.name,
        "folder": folder or store.folder_of(builder),
        "fingerprint": metadata["fingerprint"],
        "class_names": list(metadata["class_names"]),
        "palette": [list(colour) for colour in metadata["palette"]],
        "groups": {group: list(names) for group, names in metadata["groups"].items()},
    } | ({"mixture": mixture} if mixture else {})


def check_everywhere(builder) -> None:
    """UserError if the processes of the run have different data."""
    fingerprint = builder.info.metadata["fingerprint"]
    remedy = "copy the same files to all machines, or to a folder that they share"
    processes.check_equal(f"the data set {builder.name} with fingerprint", fingerprint, remedy)


def check(folder: str, dataset: dict, remedy: str) -> None:
    """Checks that `dataset` is the data set of the run in `folder`, if there is a run.

    If `dataset` has those of a mixture, which only training reads, they are compared too. A run from before data sets were recorded
    passes, with a note on stderr.

    Args:
        folder: of the run.
        dataset: the result of `describe`.
        remedy: the end of the error message.

    Raises:
        UserError: the data sets differ.
    """
    if not epath.Path(folder, "config.json").exists():
        return
    trained_on = workdir.read_dataset(folder)
    if trained_on is None:
        line = f"{folder} is an older run that does not record its data set: assuming {words(dataset)}"
        print(f"note: {line}", file=sys.stderr, flush=True)
        return
    mixed = {other["name"]: other for other in trained_on.get("mixture", [])}
    others = [other for other in dataset.get("mixture", []) if other["name"] in mixed]
    for recorded, current in [(trained_on, dataset), *((mixed[other["name"]], other) for other in others)]:
        if not same(recorded, current):
            differences = ["which has changed since"] if recorded["folder"] == current["folder"] else []
            differences += ["with other classes"] if recorded.get("class_names") != current.get("class_names") else []
            text = ", ".join([words(current), *differences])
            raise UserError(f"{folder} was trained on {words(recorded)}, but this is {text}: {remedy}")


def choose(names: Sequence[str], dataset: str, folder: str, data_dir: str, first: int = 0) -> str:
    """Chooses a work directory for the user's own data: the one with a run on them, or else the first without a run on other data.

    A run belongs to `folder` if it records that folder, or if its recorded folder is gone and `folder` has the same data (moved).

    Args:
        names: work directories of runs or sweeps, in order of preference.
        dataset: a key of `data.DATASETS`.
        folder: folder of the data.
        data_dir: folder of the prepared data sets.
        first: index of the first of `names` that a new run may use; earlier ones belong to other data.

    Raises:
        UserError: a run's config.json is damaged, or the data cannot be read.
    """
    folder, origins = os.path.realpath(os.path.expanduser(folder)), {name: _origin(name) for name in names}
    for name, (origin, *_) in origins.items():
        if origin and os.path.realpath(origin) == folder:
            return name
    moved = {
        name: fingerprint
        for name, (origin, fingerprint, _) in origins.items()
        if origin and fingerprint and not os.path.isdir(origin)
    }
    if moved and os.path.isdir(folder):
        current = store.fingerprint_of(data.DATASETS[dataset], data_dir, folder)
        for name, fingerprint in moved.items():
            if fingerprint == current:
                return name
    return next(
        (name for name in names[first:] if not origins[name][0] and origins[name][2] in (None, dataset)), names[-1]
    )


def _origin(name):
    """The recorded folder, fingerprint and name of the data set of a run, or of the runs below it; None for what is not recorded."""
    dataset_name = None
    for path in [Path(name, "config.json"), *sorted(Path(name).glob("*/config.json"))]:
        if path.exists():
            recorded = workdir.read_dataset(str(path.parent)) or {}
            config = workdir.read_config(str(path.parent)).data
            origin, dataset_name = recorded.get("folder") or config.manual_dir, config.name
            if origin:
                return os.path.expanduser(origin), recorded.get("fingerprint"), dataset_name
    return None, None, dataset_name


def same(one: dict, other: dict) -> bool:
    """Whether two descriptions are of the same data, independent of the location."""
    return (one["name"], one["fingerprint"]) == (other["name"], other["fingerprint"])


def words(dataset: dict) -> str:
    """A data set in words: 'folder in /home/me/mine (3f2a…)'."""
    place = f" in {dataset['folder']}" if dataset["folder"] else ""
    return f"{dataset['name']}{place} ({dataset['fingerprint']})"


def metadata(config, folder: str) -> dict:
    """`class_names`, `palette` and `groups` of the run in `folder`, from its config.json; for an older run, from its results or its data.

    Args:
        config: config of the run; `data` is used for an older run.

    Raises:
        UserError: as `data.metadata`, for an older run.
    """
    if dataset := workdir.read_dataset(folder):
        return dataset
    try:
        results = record.read(folder)
        return {key: results[key] for key in ("class_names", "palette", "groups")}
    except (UserError, KeyError):
        return data.metadata(config.data)
