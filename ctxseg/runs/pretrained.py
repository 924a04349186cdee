"""Weights that a run starts from: a file, an installed set, or another run (SPEC §10)."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax
import numpy as np
from etils import epath

from ctxseg.errors import UserError
from ctxseg.files import check_reachable, parse_json, read_bytes, write_json
from ctxseg.models.layers import is_frozen
from ctxseg.models.weights import fit
from ctxseg.models.weights.source import INSTALLED, Source, open_source
from ctxseg.models.weights.tensor import Tensor
from ctxseg.runs import checkpoints, provenance, workdir

# The report of what became of the weights, in the folder of a run.
REPORT = "weights.json"


def load_weights(
    model, variables: Mapping[str, Any], file: str | os.PathLike, class_names: Sequence[str] | None = None
) -> tuple[Any, fit.Report]:
    """Fills the variables of a segmenter with pretrained weights.

    Args:
        model: a segmenter (`create_model`).
        variables: its variables, of `model.init`.
        file: a file of weights, an export, the folder of a run, RUN/checkpoints/STEP, or the name of an installed set
            (`efficientnet_lite0`).
        class_names: names of the segmenter's classes, by class id: weights of classes with the same name are taken.

    Returns:
        The variables, and a `Report`: printed, one line of counts; `report.pixels` has the pixel format that the weights expect, which
        `config.model.pixels` has to have.

    Raises:
        UserError: there is no such file, it is damaged, or it has the weights of another network.
    """
    return fit.fit(model, variables, open_weights(os.fspath(file)), class_names)


def open_weights(name: str) -> Source:
    """The weights of a file, an installed set or a run. UserError as `load_weights`."""
    run = _run(name)
    if run is None:
        return open_source(name)
    folder, step = run
    config = workdir.read_config(folder)
    _, state = checkpoints.restore_run(config, folder, step)
    arrays = flax.traverse_util.flatten_dict(state.variables, sep="/")
    tensors = {key: Tensor(x.shape, np.dtype(x.dtype), partial(_in_memory, x)) for key, x in arrays.items()}
    names = tuple(provenance.metadata(config, folder)["class_names"])
    return Source(name, "a run", tensors, (), names, workdir.effective_pixels(config))


def _run(name):
    """The folder of a run and the step, or None for the newest, if `name` is RUN or RUN/checkpoints/STEP; else None.

    UserError: a URL that cannot be reached; or a folder that is not that of a run.
    """
    check_reachable(name)
    step = re.fullmatch(r"(?:(.*)[/\\])?checkpoints[/\\](\d{1,18})[/\\]?", name)
    folder = (step[1] or ".") if step else name
    try:
        is_folder = epath.Path(folder).expanduser().is_dir()
    except OSError as e:  # such as a name that is too long
        raise UserError(f"{name} cannot be read: {e.strerror}") from e
    if not is_folder:
        return None
    folder = str(epath.Path(folder).expanduser())
    if not workdir.exists(folder):
        raise UserError(f"weights {name}: expected a file, or the folder of a run, not another folder")
    return folder, int(step[2]) if step else None


def _in_memory(array, scratch):
    return np.asarray(array)


def resolve(config, folder: str | None = None):
    """The config with values in `config.model.pixels`. Values that are given stay.

    The others are those of the run in `folder`, if there is one, or else those of `config.model.pretrained`, if it is given.

    Raises:
        UserError: the config.json of the run, or the weights, cannot be read; or the weights are an installed set of another backbone.
    """
    if folder is not None and workdir.exists(folder):
        return workdir.with_pixels(config, workdir.pixels_of(workdir.read_config(folder)))
    _check_installed(config.model.pretrained, config.model.backbone.name)
    if config.model.pretrained:
        run = _run(config.model.pretrained)  # its config is enough
        if run:
            return workdir.with_pixels(config, workdir.effective_pixels(workdir.read_config(run[0])))
        return workdir.with_pixels(config, open_source(config.model.pretrained).pixels)
    return config


def _check_installed(name, backbone):
    """UserError if the weights are an installed set of another backbone. That is known without reading it."""
    if name in INSTALLED and name != backbone and not epath.Path(name).exists():
        raise UserError(
            f"config.model.pretrained={name} has the weights of another backbone than config.model.backbone.name={backbone}: set "
            f"config.model.pretrained=none, or config.model.backbone.name={name}"
        )


def start(config, model, state, optimizer, class_names: Sequence[str]):
    """The train state that starts from `config.model.pretrained`, and the report.

    Raises:
        UserError: as `load_weights`; or `config.model.frozen` has a layer that the weights do not fill; or `config.optimizer.head_steps` is
            given and the weights fill all parameters.
    """
    variables, report = load_weights(model, state.variables, config.model.pretrained, class_names)
    if config.optimizer.head_steps and not report.new_parameters:
        raise UserError(
            f"config.optimizer.head_steps is {config.optimizer.head_steps}, but {report.source} fills all parameters, so these steps would "
            "train none: leave it out"
        )
    for name in sorted(report.new_parameters):
        if is_frozen(tuple(name.split("/")), tuple(config.model.frozen)):
            raise UserError(
                f"config.model.frozen covers {name}, which {report.source} does not fill: name layers that it fills"
            )
    params = variables["params"]
    state = dataclasses.replace(
        state,
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        memory=variables.get("memory", {}),
        opt_state=optimizer.init(params),
    )
    return state, report


def write_report(folder: str, report: fit.Report) -> None:
    """Writes the report into the folder of the run."""
    write_json(os.path.join(folder, REPORT), dataclasses.asdict(report))


def new_parameters(folder: str) -> set[str]:
    """Names of the parameters that the pretrained weights of the run in `folder` did not fill.

    Raises:
        UserError: the report is missing or damaged.
    """
    path = os.path.join(folder, REPORT)
    try:
        names = parse_json(read_bytes(path))["new"]
        return {name.partition("/")[2] for name in names if name.startswith("params/")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path} cannot be read: start the run again in another --workdir") from e
