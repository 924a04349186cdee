"""A run's folder: whose it is, who is at work in it, and what its config file says."""

import contextlib
import difflib
import glob
import json
import os
from pathlib import Path

from etils import epath
from filelock import Timeout
from ml_collections import ConfigDict

from ctxseg import interrupts, locks
from ctxseg.errors import UserError
from ctxseg.files import is_remote, make_folder, parse_json, read_bytes, write_json
from ctxseg.nearest import NEAR
from ctxseg.runs import record
from ctxseg.settings import collect
from ctxseg.settings.fields import FREE, flatten_as_json, is_like

LOCK = "CTXSEG_LOCK"  # environment variable of a sweep's run: its folder, which the sweep holds


# Fields of the training that are no more: the value at which a run continues as without them, and what says the same now.
GONE = {
    "optimizer.new_layer_factor": (1.0, "train it anew with config.optimizer.rates"),
}


@contextlib.contextmanager
def hold(workdir: str, make: bool):
    """Holds the folder of a run for this process while it writes there; `make`: makes it if there is none.

    If nothing is written into it, neither what was made nor the lock stays behind. Cloud storage has no locks: a remote folder is not
    held, and two processes at once are the user's to avoid.

    Raises:
        UserError: another process holds it, or it cannot be used.
    """
    folder = Path(os.path.abspath(workdir))
    if is_remote(workdir) or not make and not folder.is_dir():
        yield  # nothing to hold: whoever reads it says so
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]

    def tidy():
        if [path.name for path in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            for path in made:
                path.rmdir()

    with contextlib.ExitStack() as stack:
        try:
            if os.environ.get(LOCK) != str(folder):
                stack.enter_context(locks.hold(folder / ".lock"))
        except Timeout:
            raise UserError(
                f"another process is at work in {workdir}: wait for it, or choose another --workdir"
            ) from None
        except OSError as e:
            raise UserError(f"--workdir={workdir} cannot be used: {e.strerror}") from e
        interrupts.cleanups.append(tidy)
        try:
            yield
        finally:
            interrupts.cleanups.remove(tidy)
            with contextlib.suppress(OSError):
                tidy()


def check(workdir: str, config: ConfigDict) -> None:
    """Makes the folder `workdir` if need be, and checks that it can be that of `config`'s run.

    Raises:
        UserError: it holds the run of a config that differs in a field that matters, or its config.json is damaged.
    """
    path = os.path.join(workdir, "config.json")
    try:
        make_folder(workdir)
    except OSError as e:
        raise UserError(f"--workdir={workdir} cannot be used: {e.strerror}") from e
    if epath.Path(path).exists():
        saved = _load(path)
        for field, (neutral, remedy) in GONE.items():
            section, _, name = field.rpartition(".")
            value = saved[section].get(name, neutral) if isinstance(saved.get(section), dict) else neutral
            if value != neutral:
                raise UserError(
                    f"{path} has config.{field}={value}, which training does not know any more: {remedy}; the run can still be evaluated"
                )
        check_same(path, config)


def claim(workdir: str, config: ConfigDict, dataset: dict | None = None) -> None:
    """Writes `config` down as that of the run in `workdir`, which is found possible by `check`, and what data it is of.

    `dataset` is what `provenance.describe` gives; it stands beside the config's sections.
    """
    try:
        write_json(os.path.join(workdir, "config.json"), config.to_dict() | ({"dataset": dataset} if dataset else {}))
    except OSError as e:
        raise UserError(f"--workdir={workdir} cannot be used: {e.strerror}") from e


def read_config(folder: str) -> ConfigDict:
    """The config of the run in `folder`; fields that the run does not know have their defaults.

    Raises:
        UserError: its config.json cannot be read, or has a value that the field cannot have.
    """
    path = os.path.join(folder, "config.json")
    saved = _read(path)
    config = collect.get_config(collect.names_of(saved))
    _update(config, saved, path)
    return config


def read_dataset(folder: str) -> dict | None:
    """What data the run in `folder` is of, see `provenance.describe`; None if it is older than that is kept, or there is none.

    Raises:
        UserError: its config.json cannot be read, or is damaged there.
    """
    path = os.path.join(folder, "config.json")
    if not epath.Path(path).exists():
        return None
    found = _read(path).get("dataset")
    if found is not None and not (_is_dataset(found)):
        raise UserError(f"{path} is damaged: dataset does not say what data the run is of")
    return found


def _is_dataset(found):
    """Whether this is what `provenance.describe` gives."""
    return (
        record.is_dataset(found)
        and bool(found.get("class_names") and found.get("palette"))
        and record.are_classes(found["class_names"], found.get("palette"), found.get("groups"))
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
                if isinstance(value, tuple) and not is_like(value, config[key], prefix + key):
                    raise TypeError
                config[key] = value
        except (TypeError, AttributeError) as e:
            raise UserError(f"{path} is damaged: {prefix}{key} cannot be {json.dumps(value)}") from e


def _load(path):
    """The object that config.json holds."""
    try:
        saved = parse_json(read_bytes(path))
        if not isinstance(saved, dict):
            raise ValueError("it holds no object")
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
    """The folder of a run, beside one that is missing, whose name is near its own; or None."""
    name, above = os.path.basename(os.path.normpath(folder)), os.path.dirname(os.path.normpath(folder))
    runs = [
        os.path.basename(os.path.dirname(path))
        for path in glob.glob(os.path.join(glob.escape(above), "*", "config.json"))
    ]
    near = difflib.get_close_matches(name, [run for run in runs if run != name], 1, NEAR)
    return os.path.join(above, near[0]) if near else None


def _read(path):
    """What config.json says, in the words of now, without the fields of `GONE`. UserError if it is of a network that is no more."""
    saved = _load(path)
    for field in GONE:
        section, _, name = field.rpartition(".")
        if isinstance(saved.get(section), dict):
            saved[section].pop(name, None)
    return _as_of_now(saved, path)


def _as_of_now(saved, path):
    """`saved` with what older runs say in other words."""
    model = saved.get("model")
    backbone = model.get("backbone") if isinstance(model, dict) else None
    if isinstance(backbone, dict) and "auxiliary" not in model and backbone.get("name") in ("resnet18", "resnet34"):
        # Its weights would load, and its labels would be others. Runs since then have the section `auxiliary`.
        if backbone.get("output_stride") != 32:
            raise UserError(
                f"{path} is of a {backbone['name']} whose second convolutions had another dilation (config.model.backbone.output_stride="
                f"{backbone.get('output_stride')}), which was a fault: train it anew"
            )
    if isinstance(backbone, dict) and backbone.get("name") == "vgg16" and "layout" not in backbone:
        # Before there were layouts, every VGG-16 had the poolings of the H-ReNet paper, and a 1×1 conv7 unless it was told otherwise.
        backbone |= {"layout": "hrenet", "conv7_kernel": backbone.get("conv7_kernel") or 1}
    return saved


def _effective(config):
    """`config`, flat, of what is read, None being what its module takes for it; as it is, if it names a module that there is not."""
    from ctxseg.settings import reading

    try:
        return reading.effective(config)
    except UserError:
        return flatten_as_json(config)


def check_same(path: str, config: ConfigDict) -> None:
    """Raises UserError if the config saved at `path` cannot be read, or differs from `config` where it matters.

    A field that is younger than the run, and so is missing there, counts as its default: the run was made without it. A field that is
    None counts as what its module takes for it.
    """
    from ctxseg.settings import reading  # here, as it imports every network, and a config.json can be read without

    read = _read(path)
    saved = flatten_as_json({section: value for section, value in read.items() if section != "dataset"})
    wanted, unread = flatten_as_json(config), reading.unread(config)
    left_open = [
        k for k, v in wanted.items() if k not in unread and (k not in saved or (saved[k] is None) != (v is None))
    ]
    if left_open:
        without = collect.get_config(collect.names_of(read))
        _update(without, read, path)
        before, now = _effective(without), _effective(config)
        # What the run would not read is read now because another field differs.
        saved |= flatten_as_json({k: before[k] for k in left_open if k in before})
        wanted |= flatten_as_json({k: now[k] for k in left_open if k in now})
    differ = [
        f"config.{k} is {wanted.get(k)} here and {saved.get(k)} there"
        for k in sorted(saved.keys() | wanted.keys(), key=lambda k: (k not in ("system", "data.name"), k))
        # One that nothing reads may be anything.
        if k in saved and saved[k] != wanted.get(k) and not k.startswith(FREE) and k not in unread
    ]
    if differ:
        more = f" (and {len(differ) - 3} more)" if len(differ) > 3 else ""
        raise UserError(
            f"{os.path.dirname(path)} holds the run of another config: {'; '.join(differ[:3])}{more}; choose another --workdir"
        )
