"""The command line: its flags, what each mode reads of them, and the config with its overrides."""

import os
import re
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from ctxseg import program
from ctxseg.configs import datasets
from ctxseg.errors import UserError, one_line
from ctxseg.settings import collect, config_file
from ctxseg.settings.fields import flatten
from ctxseg.settings.overrides import (
    bad_value,
    check_names,
    check_tuples,
    field_flags,
    overridden,
    quoted,
    set_none,
    unknown,
    without_none,
    without_off,
    without_unread,
)

USAGE = f"{program.NAME} --config=SYSTEM[:DATASET] [--mode=MODE] [--workdir=DIR] [--config.a.b=value …]"
MODES = (
    "train",
    "evaluate",
    "predict",
    "pictures",
    "report",
    "export",
    "crf",
    "prepare",
    "show",
    "complexity",
    "sweep",
)
# The modes that read a flag; all modes read the others.
READ_BY = {
    "images": ("pictures",),
    "input": ("predict",),
    "output": ("predict", "export"),
    "probabilities": ("predict",),
    "checkpoint": ("evaluate", "predict", "export", "crf"),
    "overwrite": ("predict", "export"),
    "seeds": ("sweep",),
    "rows": ("sweep",),
    "row": ("sweep",),
    "sweep": ("sweep",),
    "jobs": ("sweep",),
    "dry_run": ("sweep",),
}


def define_flags(argv: list[str], base: ConfigDict | None = None) -> flags.FlagValues:
    """The flags, in a set of their own: what they become is a function of `argv` alone. `base` is the config that they change."""
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", MODES, "what to do; train ends with an evaluation", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        None,
        "folder of the run; default runs/SYSTEM-DATASET, of own data -FOLDER; complexity: runs; pictures, report: one or more, A,B,C",
        flag_values=values,
    )
    flags.DEFINE_string("images", "0,1,2", "pictures: indices into config.eval.split", flag_values=values)
    flags.DEFINE_string("input", None, "predict: an image, a folder of images or a 'GLOB'", flag_values=values)
    flags.DEFINE_string(
        "output", None, "predict: a folder; export: a file; default WORKDIR/predictions, export.zip", flag_values=values
    )
    flags.DEFINE_bool("probabilities", False, "predict: write them too, as NumPy arrays", flag_values=values)
    help = (
        "evaluate, predict, export, crf: a step, best, or RUN/checkpoints/STEP instead of --workdir; default the newest"
    )
    flags.DEFINE_string("checkpoint", None, help, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "predict, export: replace what exists", flag_values=values)
    flags.DEFINE_integer("seeds", 1, "sweep: runs of each row, config.seed=0, 1, …", flag_values=values)
    flags.DEFINE_string("rows", "", "sweep: numbers of the table's rows, 0,2-4; default all", flag_values=values)
    flags.DEFINE_integer("row", None, "sweep: the same, of one row", flag_values=values)
    flags.DEFINE_multi_string("sweep", [], "sweep: FIELD=VALUE,VALUE,…; several make a grid", flag_values=values)
    flags.DEFINE_integer("jobs", 1, "sweep: runs at a time, each on its share of the CPU's cores", flag_values=values)
    flags.DEFINE_bool("dry_run", False, "sweep: print the commands of the runs instead", flag_values=values)
    flags.DEFINE_bool("debug", False, "show the traceback of an error", flag_values=values)
    flags.DEFINE_bool("help", False, "show this; --mode=show lists the fields of a config", flag_values=values)
    if base is None:
        help = "SYSTEM or SYSTEM:DATASET, of configs/, or a path of yours; default: what the run in --workdir was made with"
        config_flags.DEFINE_config_file("config", None, help, flag_values=values, sys_argv=argv)
    else:
        config_flags.DEFINE_config_dict("config", base, flag_values=values, sys_argv=argv)
    return values


def parse(argv: list[str]) -> flags.FlagValues:
    """The flags of any mode but sweep, as `read_flags`. Raises UserError also for an override that nothing reads."""
    values = check_flags(argv)
    drop_unread(values, argv)
    return values


def drop_unread(values: flags.FlagValues, argv: list[str]) -> None:
    """Gives what nothing reads its default, whatever a config file says. Raises UserError if `argv` overrides such a field."""
    from ctxseg.settings import reading  # here, as it takes seconds

    values.config = without_unread(values.config, _unread(values))
    unread = _unread(values)
    for name in overridden(argv):
        if name in unread:
            raise UserError(reading.message(name, unread[name]))


def _unread(values):
    """The fields that nothing reads in the mode, see `reading.unread`."""
    from ctxseg.settings import reading

    if values.mode == "complexity":
        from ctxseg.studies import complexity

        return reading.unread(values.config, values.mode, complexity.chosen(values.config))
    return reading.unread(values.config, values.mode)


def read_flags(argv: list[str]) -> flags.FlagValues:
    """The flags, `workdir` with its default, `config` without what nothing reads. Raises UserError for anything that cannot be right."""
    values = check_flags(argv)
    values.config = without_unread(values.config, _unread(values))
    return values


def check_flags(argv: list[str]) -> flags.FlagValues:
    """The flags, with all that the config says. UserError for what can be seen to be wrong without the packages that take seconds."""
    base = base_config(argv)
    chooser = {path: f"config.{path}.{chooser}" for path, (chooser, _, _) in collect.CHOSEN.items()}
    collect.add_outside(base, {path: value_of(argv, flag) for path, flag in chooser.items()})
    check_names(argv, base)
    of_file = bool(value_of(argv, "config"))
    argv, defaulted = without_none(_without_value_of(argv, "config"))
    argv = [quoted(without_off(argument), base) for argument in argv]
    before = flatten(base)
    values = define_flags(argv, base)
    try:
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as e:
        raise UserError(unknown(e.flagname, [*values, *field_flags(base)])) from e
    except flags.IllegalFlagValueError as e:
        raise UserError(bad_value(one_line(e), base)) from e
    except flags.Error as e:
        raise UserError(one_line(e)) from e
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag: settings are given as --config.a.b=value")
    values["config"].present = int(of_file)
    _check_mode(values)
    for name in defaulted:
        set_none(values.config, name)
    check_tuples(values.config, before)
    if values.mode == "predict" and not values.input:
        raise UserError("--input is missing: --mode=predict wants an image, a folder of images or a 'GLOB'")
    run = parse_checkpoint(values.checkpoint)[0]
    if run and values.workdir and os.path.realpath(run) != os.path.realpath(values.workdir):
        raise UserError(
            f"--checkpoint={values.checkpoint} is of another run than --workdir={values.workdir}: give one of them"
        )
    values.workdir = values.workdir or run or _workdir(values)
    return values


def check_remote(values: flags.FlagValues) -> None:
    """UserError if `--workdir` or `--output` is a URL that cannot be reached."""
    for place in [*str(values.workdir).split(","), values.output or ""]:
        _check_reachable(place)


def _check_reachable(place):
    if "://" in place:
        from ctxseg import files  # here, so that a misspelt flag is answered at once

        files.check_reachable(place)


def _workdir(values):
    """The work directory where the flags name none."""
    if values.mode == "complexity":
        return "runs"
    data = values.config.data
    return default_workdir(values.config.system, data.name, data.manual_dir, data.data_dir)


def _check_mode(values):
    """UserError for a flag that is given to a mode which does not read it."""
    if values.mode in ("prepare", "show") and values["workdir"].present and values["config"].present:
        raise UserError(
            f"--workdir is not read by --mode={values.mode} where --config is given: the config of the run in --workdir, or --config"
        )
    for name, modes in READ_BY.items():
        if values[name].present and values.mode not in modes:
            readers = " and ".join(filter(None, (", ".join(modes[:-1]), modes[-1])))
            raise UserError(f"--{name} is not read by --mode={values.mode}, but by {readers}")


def default_workdir(what: str, name: str, folder: str | None, data_dir: str, own_folder: bool = True) -> str:
    """runs/SYSTEM-DATASET, or of own data runs/SYSTEM-FOLDER; with the folders above it where that is of another folder of the name.

    Args:
        what: the system, or the table.
        name: of the data set.
        folder: of own data.
        data_dir: where prepared data sets are kept.
        own_folder: whether without `folder` it is that of what is prepared.
    """
    if name != "folder":
        return f"runs/{what}-{name.rpartition(':')[2].lower()}"  # of one from outside, its class's name
    if not folder and own_folder:
        from ctxseg.data import DATASETS, store

        folder = store.only_folder(DATASETS[name], data_dir)
    if not folder:
        return f"runs/{what}-{name}"
    parts = os.path.abspath(os.path.expanduser(folder)).replace(",", "_").split(os.sep)[1:]
    names = [f"runs/{what}-{'-'.join(parts[-n:])}" for n in range(1, len(parts) + 1)]
    # runs/SYSTEM-scenes is of the data set scenes, unless an older run of a folder of that name is there.
    first = 1 if parts[-1] in datasets.PROTOCOLS and len(names) > 1 else 0
    if not any(map(os.path.exists, names)):
        return names[first]
    from ctxseg.runs import provenance  # here, as it takes seconds

    return provenance.choose(names, name, folder, data_dir, first)


class Sweep(NamedTuple):
    """What `--mode=sweep` is given.

    Attributes:
        values: the flags but `--config`.
        path: of the Python file with a table, or a system's config.
        dataset: after its colon; ''.
        overrides: of fields of every row, `--config.a.b=value`.
    """

    values: flags.FlagValues
    path: str
    dataset: str
    overrides: list[str]


def read_sweep(argv: list[str]) -> Sweep:
    """The flags of `--mode=sweep`. Raises UserError for what can be seen to be wrong without the table."""
    own = [a for a in argv if not re.match(r"--?(?:no)?config\b", a)]
    path, _, dataset = value_of(argv, "config").partition(":")
    if not path:
        raise UserError(
            "--config is missing: a table, --config=configs/tables/zigzag_components.py:scenes, or a system"
        )
    values = define_flags(own, ConfigDict())
    try:
        rest = [a for a in values(own)[1:] if a != value_of(argv, "config")]
    except flags.UnrecognizedFlagError as e:
        names = field_flags(collect.get_config())
        raise UserError(unknown(e.flagname, [*values, "config", *names])) from e
    except flags.Error as e:
        raise UserError(one_line(e)) from e
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag: settings are given as --config.a.b=value")
    _check_mode(values)
    if values.row is not None and values.rows:
        raise UserError("--row and --rows are both given: give one of them")
    config_file.find(path)
    return Sweep(values, path, dataset, [a for a in argv if re.match(r"--?(?:no)?config\.", a)])


def folders_of(values: flags.FlagValues) -> list[str]:
    """The folders A,B,C of `--workdir`, for the modes that take several. UserError if one is missing, or there twice."""
    folders = values.workdir.split(",")
    if "" in folders or len(set(map(os.path.realpath, folders))) < len(folders):
        raise UserError(f"--workdir={values.workdir} cannot be: it wants one folder, or several that differ, A,B,C")
    return folders


def base_config(argv: list[str]) -> ConfigDict:
    """The config without the overrides: of the file that `argv` names, or of the run in its work directory.

    Raises UserError if there is none, or it cannot be run.
    """
    path, _, dataset = value_of(argv, "config").partition(":")
    if not path:
        folder = value_of(argv, "workdir").split(",")[0] or parse_checkpoint(value_of(argv, "checkpoint") or None)[0]
        if not folder:
            raise UserError(
                "--config is missing: try --config=configs/zigzag.py, or --workdir=RUN for a run that there is"
            )
        from ctxseg.runs import workdir  # here, so that a misspelt flag is answered at once

        _check_reachable(folder)
        return workdir.read_config(folder)
    config_file.find(path)
    return config_file.load(path, dataset, "get_config")


def parse_checkpoint(text: str | None):
    """`--checkpoint=STEP|best|RUN/checkpoints/STEP` → the run's folder, if it says so, and a step, `best` or None.

    Raises UserError if it is none of these.
    """
    if text is None or text == "best":
        return None, text
    if re.fullmatch(r"\d{1,18}", text):
        return None, int(text)
    found = re.fullmatch(r"(?:(.*)/)?checkpoints/(\d{1,18})/?", text)
    if not found:
        raise UserError(
            f"--checkpoint={text} cannot be: it wants a step, best, or a path that ends in checkpoints/STEP"
        )
    return found[1] or ".", int(found[2])


def _without_value_of(argv, flag):
    """`argv` without `--flag=value` or `--flag value`, which has been read."""
    kept, previous = [], ""
    for argument in argv:
        alone = argument in (f"--{flag}", f"-{flag}")
        if not alone and previous not in (f"--{flag}", f"-{flag}") and argument.partition("=")[0].lstrip("-") != flag:
            kept.append(argument)
        previous = argument
    return kept


def value_of(argv, flag):
    """What `argv` gives for `--flag=value` or `--flag value`; '' if nothing. UserError if it is there twice."""
    found = []
    for argument, following in zip(argv, [*argv[1:], ""], strict=False):  # of nothing, none follows
        name, equals, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            found.append(value if equals else following)
    if len(found) > 1:
        raise UserError(f"--{flag} is given twice: {' and '.join(found)}")
    return found[0] if found else ""
