"""A run's folder: which config it belongs to, its lock and its config.json."""

import contextlib
import difflib
import glob
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath
from filelock import Timeout
from ml_collections import ConfigDict

from ctxseg import interrupts, locks, processes
from ctxseg.errors import UserError
from ctxseg.files import is_remote, make_folder, parse_json, read_bytes, write_json
from ctxseg.models.pixels import PixelFormat
from ctxseg.nearest import NEAR
from ctxseg.runs import record
from ctxseg.settings import collect
from ctxseg.settings.fields import FREE, flatten_as_json, is_like

# Environment variable of a run that a sweep starts: its folder, which the sweep has locked.
LOCK = "CTXSEG_LOCK"

# Removed training fields: (the value with which a run can continue without the field, the replacement).
REMOVED = {
    "optimizer.new_layer_factor": (1.0, "train again with config.optimizer.rates"),
}


@contextlib.contextmanager
def hold(workdir: str, create: bool):
    """Locks the folder of a run while this process writes there. With `create`, a missing folder is created.

    If nothing is written, created folders and the lock file are removed. Cloud storage has no locks: a remote folder is not locked,
    and the user must not start two runs at once. In a run of several processes, the first one locks it.

    Raises:
        UserError: another process has locked it, or it cannot be used.
    """
    folder = Path(os.path.abspath(workdir))
    if not processes.is_first() or is_remote(workdir) or not create and not folder.is_dir():
        yield  # nothing to lock; reading a missing folder fails later
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]

    def remove_if_unused(line=""):
        if [path.name for path in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            for path in created:
                path.rmdir()

    with contextlib.ExitStack() as stack:
        try:
            if os.environ.get(LOCK) != str(folder):
                stack.enter_context(locks.hold(folder / ".lock"))
        except Timeout:
            raise UserError(
                f"another process is using {workdir}: wait until it ends, or choose another --workdir"
            ) from None
        except OSError as e:
            raise UserError(f"--workdir={workdir} cannot be used: {e.strerror}; choose another --workdir") from e
        interrupts.cleanups.append(remove_if_unused)
        try:
            yield
        finally:
            interrupts.cleanups.remove(remove_if_unused)
            with contextlib.suppress(OSError):
                remove_if_unused()


def check(workdir: str, config: ConfigDict) -> None:
    """Creates the folder `workdir` if needed, and checks that a run of `config` can use it.

    Raises:
        UserError: it has a run with another config (see `check_same`), or its config.json is damaged.
    """
    path = os.path.join(workdir, "config.json")
    try:
        make_folder(workdir)
    except OSError as e:
        raise UserError(f"--workdir={workdir} cannot be used: {e.strerror}; choose another --workdir") from e
    if epath.Path(path).exists():
        saved = _load(path)
        for field, (neutral, remedy) in REMOVED.items():
            section, _, name = field.rpartition(".")
            value = saved[section].get(name, neutral) if isinstance(saved.get(section), dict) else neutral
            if value != neutral:
                raise UserError(
                    f"{path} has config.{field}={value}, a field that was removed: {remedy}; the run can still be evaluated"
                )
        check_same(path, config)


def check_shared(workdir: str) -> None:
    """UserError if the processes of the run do not see the same folder `workdir`, which exists."""
    if not processes.several():
        return
    path = epath.Path(workdir) / ".shared"
    written = processes.gather(os.urandom(8).hex().encode())[0].decode()
    try:
        if processes.is_first():
            path.write_text(written)
        processes.gather(b"")
        seen = f"{'a' if _reads(path, written) else 'no'} new file {path.name}"
        processes.check_equal("in --workdir", seen, "choose a --workdir that all processes share")
    finally:
        if processes.is_first():
            path.unlink(missing_ok=True)


def _reads(path, text):
    """Whether the file at `path` has this text, which a network's file system may show late."""
    for _ in range(20):
        with contextlib.suppress(OSError):
            if path.read_text() == text:
                return True
        time.sleep(0.5)
    return False


def claim(workdir: str, config: ConfigDict, dataset: dict | None = None) -> None:
    """Writes `config` and the data set of the run into config.json in `workdir`, after `check` passed.

    `dataset`, the result of `provenance.describe`, is stored beside the sections of the config.
    """
    try:
        write_json(os.path.join(workdir, "config.json"), config.to_dict() | ({"dataset": dataset} if dataset else {}))
    except OSError as e:
        raise UserError(f"--workdir={workdir} cannot be used: {e.strerror}; choose another --workdir") from e


def read_config(folder: str) -> ConfigDict:
    """The config of the run in `folder`; fields that are newer than the run have their defaults.

    Raises:
        UserError: its config.json cannot be read, or has an invalid value.
    """
    path = os.path.join(folder, "config.json")
    saved = _read(path)
    config = collect.get_config(collect.names_of(saved))
    _update(config, saved, path)
    return config


def exists(folder: str) -> bool:
    """Whether the folder has a run."""
    return epath.Path(folder, "config.json").exists()


def pixels_of(config: ConfigDict) -> dict:
    """The fields of `config.model.pixels` that are given."""
    return {name: value for name, value in config.model.pixels.items() if value is not None}


def effective_pixels(config: ConfigDict) -> dict:
    """The pixels that the weights of a run with this config expect, whether they are given or not."""
    return PixelFormat.effective(config.model.pixels.to_dict())


def with_pixels(config: ConfigDict, pixels: Mapping[str, Any]) -> ConfigDict:
    """The config with `pixels` in the fields of `config.model.pixels` that are not given."""
    missing = {name: value for name, value in pixels.items() if config.model.pixels.get(name) is None}
    if missing:
        config = config.copy_and_resolve_references()
        _update(config.model.pixels, missing, "the pretrained weights", "model.pixels.")
    return config


def read_dataset(folder: str) -> dict | None:
    """The data set of the run in `folder`, see `provenance.describe`; None if there is no run or an older run did not record it.

    Raises:
        UserError: its config.json cannot be read, or its `dataset` is damaged.
    """
    path = os.path.join(folder, "config.json")
    if not epath.Path(path).exists():
        return None
    dataset = _read(path).get("dataset")
    if dataset is not None and not _is_dataset(dataset):
        raise UserError(f"{path} is damaged: dataset does not describe a data set")
    return dataset


def _is_dataset(value):
    """Whether this has the form of `provenance.describe`."""
    return (
        record.is_dataset(value)
        and isinstance(mixture := value.get("mixture", []), list)
        and all(map(record.is_dataset, mixture))
        and bool(value.get("class_names") and value.get("palette"))
        and record.are_classes(value["class_names"], value.get("palette"), value.get("groups"))
    )


def _update(config, saved, path, prefix=""):
    for key, value in saved.items():
        if key not in config or value is None:
            continue
        try:
            if isinstance(config[key], ConfigDict):
                _update(config[key], value, path, f"{prefix}{key}.")
            else:
                value = tuple(value) if isinstance(value, list) else value
                is_off = value == () and collect.can_be_off(prefix + key)
                if isinstance(value, tuple) and not is_off and not is_like(value, config[key], prefix + key):
                    raise TypeError
                config[key] = value
        except (TypeError, AttributeError) as e:
            raise UserError(f"{path} is damaged: {prefix}{key} has the invalid value {json.dumps(value)}") from e


def _load(path):
    """The object in config.json."""
    try:
        saved = parse_json(read_bytes(path))
        if not isinstance(saved, dict):
            raise ValueError("it is not a JSON object")
    except FileNotFoundError:
        near = _near(os.path.dirname(path))
        hint = f": did you mean {near}?" if near else ""
        raise UserError(f"{path} is missing: --workdir is not the folder of a run{hint}") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}): choose another --workdir, or remove this one") from e
    return saved


def _near(folder):
    """The run beside the missing `folder` whose name is most similar to it, or None."""
    parent, name = os.path.split(os.path.normpath(folder))
    runs = [
        os.path.basename(os.path.dirname(path))
        for path in glob.glob(os.path.join(glob.escape(parent), "*", "config.json"))
    ]
    near = difflib.get_close_matches(name, [run for run in runs if run != name], 1, NEAR)
    return os.path.join(parent, near[0]) if near else None


def _read(path):
    """The contents of config.json in the current form, without `REMOVED` fields. UserError: its network is no longer supported."""
    saved = _load(path)
    for field in REMOVED:
        section, _, name = field.rpartition(".")
        if isinstance(saved.get(section), dict):
            saved[section].pop(name, None)
    return _upgraded(saved, path)


def _upgraded(saved, path):
    """`saved` with the fields of older runs translated to the current ones."""
    model = saved.get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    if isinstance(backbone, dict) and "auxiliary" not in model and backbone.get("name") in ("resnet18", "resnet34"):
        # Its weights would load, but its predictions would change. Newer runs have the section `auxiliary`.
        if backbone.get("output_stride") != 32:
            raise UserError(
                f"{path} has a {backbone['name']} from before a bug fix in its dilation (config.model.backbone.output_stride="
                f"{backbone.get('output_stride')}): train again"
            )
    if isinstance(backbone, dict) and backbone.get("name") == "vgg16" and "layout" not in backbone:
        # Before the field `layout`, every VGG-16 had the pooling of the H-ReNet paper, and by default a 1×1 conv7.
        backbone |= {"layout": "hrenet", "conv7_kernel": backbone.get("conv7_kernel") or 1}
    return saved


def _effective(config):
    """The fields of `config` that are used, flat, with None replaced by the module's default; unchanged if a module does not exist."""
    from ctxseg.settings import reading

    try:
        return reading.effective(config)
    except UserError:
        return flatten_as_json(config)


def check_same(path: str, config: ConfigDict) -> None:
    """Raises UserError if the config saved at `path` cannot be read, or differs from `config` in a field that training reads.

    The fields in `fields.FREE` may differ. A field that is newer than the run has its default, and None is the module's default.
    """
    from ctxseg.settings import reading  # slow: it imports every network

    contents = _read(path)
    saved = flatten_as_json({section: value for section, value in contents.items() if section != "dataset"})
    given, unread = flatten_as_json(config), reading.unread(config)
    # Pixels that are not given are those of the run.
    given |= {k: saved.get(k) for k in given if k.startswith("model.pixels.") and given[k] is None}
    unset = [k for k, v in given.items() if k not in unread and (k not in saved or (saved[k] is None) != (v is None))]
    if unset:
        saved_config = collect.get_config(collect.names_of(contents))
        _update(saved_config, contents, path)
        saved_effective, given_effective = _effective(saved_config), _effective(config)
        # A field that only one config uses is absent from the other: the field that decides it differs, too.
        saved |= flatten_as_json({k: saved_effective[k] for k in unset if k in saved_effective})
        given |= flatten_as_json({k: given_effective[k] for k in unset if k in given_effective})
    differences = [
        f"config.{k} is {given.get(k)} here and {saved.get(k)} in the run"
        for k in sorted(saved.keys() | given.keys(), key=lambda k: (k not in ("system", "data.name"), k))
        # Unused fields may differ.
        if k in saved and saved[k] != given.get(k) and not k.startswith(FREE) and k not in unread
    ]
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise UserError(
            f"{os.path.dirname(path)} has a run with another config: {'; '.join(differences[:3])}{more}; "
            "choose another --workdir"
        )
