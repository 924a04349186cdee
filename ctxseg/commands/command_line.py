"""Parses the command line: flags, the modes that read them, and the config with its overrides."""

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
    "failures",
    "export",
    "crf",
    "prepare",
    "show",
    "complexity",
    "lr",
    "convert",
    "sweep",
)
# The modes that read each flag; all modes read the others.
READ_BY = {
    "images": ("pictures",),
    "input": ("predict", "convert"),
    "output": ("predict", "export", "convert"),
    "names": ("convert",),
    "probabilities": ("predict",),
    "format": ("predict",),
    "checkpoint": ("evaluate", "predict", "export", "crf"),
    "overwrite": ("predict", "export", "convert"),
    "seeds": ("sweep",),
    "rows": ("sweep",),
    "row": ("sweep",),
    "sweep": ("sweep",),
    "jobs": ("sweep",),
    "dry_run": ("sweep",),
    "coordinator": ("train", "evaluate"),
    "process_count": ("train", "evaluate"),
    "process_id": ("train", "evaluate"),
    "process_timeout": ("train", "evaluate"),
    "profile": ("train",),
}


def define_flags(argv: list[str], base: ConfigDict | None = None) -> flags.FlagValues:
    """The flags, in a new set, so that their values depend only on `argv`. `base` is the config that they override."""
    values = flags.FlagValues()
    flags.DEFINE_enum("mode", "train", MODES, "what to do; train ends with an evaluation", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        None,
        "folder of the run; default: runs/SYSTEM-DATASET, for your own data runs/SYSTEM-FOLDER; complexity: runs; pictures, report: A,B,C",
        flag_values=values,
    )
    flags.DEFINE_string("images", "0,1,2", "pictures: indices into config.eval.split", flag_values=values)
    flags.DEFINE_string(
        "input", None, "predict: an image, a folder of images or a 'GLOB'; convert: weights", flag_values=values
    )
    flags.DEFINE_string(
        "output",
        None,
        "predict: a folder; export, convert: a file; default WORKDIR/predictions (or FORMAT), export.zip, INPUT.safetensors",
        flag_values=values,
    )
    flags.DEFINE_enum("names", "ctxseg", ("ctxseg", "torchvision"), "convert: names of the arrays", flag_values=values)
    flags.DEFINE_bool("probabilities", False, "predict: also write probabilities, as NumPy arrays", flag_values=values)
    help = "predict: the archive of label maps that a test server takes; without --input, of config.eval.split"
    flags.DEFINE_enum("format", None, ("cityscapes", "voc", "ade20k"), help, flag_values=values)
    help = "evaluate, predict, export, crf: a step, best, or RUN/checkpoints/STEP instead of --workdir; default: newest"
    flags.DEFINE_string("checkpoint", None, help, flag_values=values)
    flags.DEFINE_bool("overwrite", False, "predict, export, convert: replace existing files", flag_values=values)
    flags.DEFINE_integer("seeds", 1, "sweep: number of runs of each row, with config.seed=0, 1, …", flag_values=values)
    flags.DEFINE_string("rows", "", "sweep: numbers of the rows to run, 0,2-4; default: all", flag_values=values)
    flags.DEFINE_integer("row", None, "sweep: number of one row to run", flag_values=values)
    flags.DEFINE_multi_string("sweep", [], "sweep: FIELD=VALUE,VALUE,…; repeat it for a grid", flag_values=values)
    flags.DEFINE_integer(
        "jobs", 1, "sweep: number of runs at the same time; the CPU cores are divided among them", flag_values=values
    )
    flags.DEFINE_bool("dry_run", False, "sweep: only print the commands of the runs", flag_values=values)
    help = "train, evaluate: HOST:PORT of process 0 of several; default: that of SLURM, Open MPI, Kubernetes, Cloud TPU"
    flags.DEFINE_string("coordinator", None, help, flag_values=values)
    help = "train, evaluate: number of processes of the run; 1: this one runs alone, also on a cluster"
    flags.DEFINE_integer("process_count", None, help, flag_values=values)
    flags.DEFINE_integer("process_id", None, "train, evaluate: index of this process, from 0", flag_values=values)
    help = "train, evaluate: seconds without a sign of life after which a process counts as lost, and ends the others"
    flags.DEFINE_float("process_timeout", 300.0, help, lower_bound=1.0, upper_bound=86400.0, flag_values=values)
    help = "train: steps to trace into WORKDIR/profile, for Perfetto and TensorBoard; the first two, which compile, are left out"
    flags.DEFINE_integer("profile", None, help, lower_bound=1, flag_values=values)
    flags.DEFINE_bool("debug", False, "show the traceback of an error", flag_values=values)
    flags.DEFINE_bool("help", False, "show this help; --mode=show lists the fields of a config", flag_values=values)
    if base is None:
        help = "SYSTEM or SYSTEM:DATASET of configs/, or a path to your own config; default: the config of the run in --workdir"
        config_flags.DEFINE_config_file("config", None, help, flag_values=values, sys_argv=argv)
    else:
        config_flags.DEFINE_config_dict("config", base, flag_values=values, sys_argv=argv)
    return values


def parse(argv: list[str]) -> flags.FlagValues:
    """As `read_flags`, and UserError for an override that nothing reads. For any mode except sweep."""
    values = check_flags(argv)
    drop_unread(values, argv)
    return values


def drop_unread(values: flags.FlagValues, argv: list[str]) -> None:
    """Resets the fields that nothing reads to their defaults. UserError if `argv` overrides such a field."""
    from ctxseg.settings import reading  # here, as it takes seconds

    values.config = without_unread(values.config, _unread(values))
    unread = _unread(values)
    for name in overridden(argv):
        if name in unread:
            raise UserError(reading.message(name, unread[name]))


def _unread(values):
    """The fields that nothing reads in this mode, see `reading.unread`."""
    from ctxseg.settings import reading

    if values.mode == "complexity":
        from ctxseg.studies import complexity

        return reading.unread(values.config, values.mode, complexity.chosen(values.config))
    return reading.unread(values.config, values.mode)


def read_flags(argv: list[str]) -> flags.FlagValues:
    """The flags, with the default of `workdir`, and `config` without unread values. UserError for anything invalid."""
    values = check_flags(argv)
    values.config = without_unread(values.config, _unread(values))
    return values


def check_flags(argv: list[str]) -> flags.FlagValues:
    """The flags and the complete config. UserError for errors that can be found without importing slow packages."""
    base = base_config(argv)
    choosers = {path: f"config.{path}.{chooser}" for path, (chooser, _, _) in collect.CHOSEN.items()}
    collect.add_outside(base, {path: value_of(argv, flag) for path, flag in choosers.items()})
    check_names(argv, base)
    has_config = bool(value_of(argv, "config"))
    argv, reset = without_none(_without_value_of(argv, "config"))
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
        raise UserError(f"{rest[0]!r} is not a flag; set fields with --config.a.b=value")
    values["config"].present = int(has_config)
    _check_mode(values)
    for name in reset:
        set_none(values.config, name)
    check_tuples(values.config, before)
    if values.mode == "predict" and not values.input and not values.format:
        raise UserError("--input is missing: --mode=predict needs an image, a folder of images or a 'GLOB'")
    if values.format and values.probabilities:
        raise UserError("--probabilities and --format are both given; a test server takes labels only")
    if values.mode == "convert" and not values.input:
        raise UserError("--input is missing: --mode=convert needs a file of weights, a run or an export")
    run = parse_checkpoint(values.checkpoint)[0]
    if run and values.workdir and os.path.realpath(run) != os.path.realpath(values.workdir):
        raise UserError(
            f"--checkpoint={values.checkpoint} and --workdir={values.workdir} name different runs; give only one of them"
        )
    values.workdir = values.workdir or run or _workdir(values)
    if values.profile and "://" in str(values.workdir):
        raise UserError(
            f"--workdir={values.workdir}: expected a local folder, since --profile writes a trace there; leave --profile out"
        )
    return values


def check_remote(values: flags.FlagValues) -> None:
    """UserError if `--workdir` or `--output` is a URL that cannot be reached."""
    for path in [*str(values.workdir).split(","), values.output or ""]:
        _check_reachable(path)


def _check_known(argv):
    """UserError for a flag that does not exist, which may be a misspelt --config."""
    known = {*define_flags([], ConfigDict()), "flagfile", "undefok"}
    for name in (argument.lstrip("-").partition("=")[0] for argument in argv if argument.startswith("-")):
        if not re.match(r"(no)?config\.", name) and not {name, name.removeprefix("no")} & known:
            raise UserError(unknown(name, [*sorted(known), *field_flags(collect.get_config())]))


def _check_reachable(path):
    """UserError if `path` is a URL that cannot be reached."""
    if "://" in path:
        from ctxseg import files  # here, as it takes seconds

        files.check_reachable(path)


def _workdir(values):
    """The default work directory."""
    if values.mode == "complexity":
        return "runs"
    if values.mode == "convert":
        return ""
    data = values.config.data
    return default_workdir(values.config.system, data.name, data.manual_dir, data.data_dir)


def _check_mode(values):
    """UserError for a flag that the mode does not read."""
    if values.mode in ("prepare", "show") and values["workdir"].present and values["config"].present:
        raise UserError(
            f"--workdir is not used by --mode={values.mode} with --config: give only one of them; --workdir uses the config of that run"
        )
    for name, modes in READ_BY.items():
        if values[name].present and values.mode not in modes:
            readers = " and ".join(filter(None, (", ".join(modes[:-1]), modes[-1])))
            raise UserError(f"--{name} is not used by --mode={values.mode}, only by {readers}")
    if values.mode == "convert" and (values["workdir"].present or values["config"].present):
        flag = "workdir" if values["workdir"].present else "config"
        raise UserError(f"--{flag} is not used by --mode=convert: give --input=RUN for the weights of a run")


def default_workdir(title: str, name: str, folder: str | None, data_dir: str, find_folder: bool = True) -> str:
    """runs/TITLE-DATASET, or for the user's own data runs/TITLE-FOLDER.

    FOLDER includes its parents if another folder of that name has a run.

    Args:
        title: name of the system or the table.
        name: name of the data set.
        folder: folder of the user's own data.
        data_dir: folder of prepared data sets.
        find_folder: whether `folder`, if it is not given, is looked up in `data_dir`.
    """
    if name not in ("folder", "folder_instances"):
        return f"runs/{title}-{name.rpartition(':')[2].lower()}"  # of package.module:Class, the class
    if not folder and find_folder:
        from ctxseg.data import DATASETS, store

        folder = store.only_folder(DATASETS[name], data_dir)
    if not folder:
        return f"runs/{title}-{name}"
    parts = os.path.abspath(os.path.expanduser(folder)).replace(",", "_").split(os.sep)[1:]
    names = [f"runs/{title}-{'-'.join(parts[-n:])}" for n in range(1, len(parts) + 1)]
    # runs/SYSTEM-scenes is for the data set scenes, unless an older run of a folder called scenes exists.
    first = 1 if parts[-1] in datasets.PROTOCOLS and len(names) > 1 else 0
    if not any(map(os.path.exists, names)):
        return names[first]
    from ctxseg.runs import provenance  # here, as it takes seconds

    return provenance.choose(names, name, folder, data_dir, first)


class Sweep(NamedTuple):
    """The command line of `--mode=sweep`.

    Attributes:
        values: the flags except `--config`.
        path: the Python file of a table or of a system's config.
        dataset: the data set after the colon, or ''.
        overrides: overrides of fields of every row, `--config.a.b=value`.
    """

    values: flags.FlagValues
    path: str
    dataset: str
    overrides: list[str]


def read_sweep(argv: list[str]) -> Sweep:
    """The flags of `--mode=sweep`. UserError for errors that can be found without the table."""
    other_flags = [a for a in argv if not re.match(r"--?(?:no)?config\b", a)]
    path, _, dataset = value_of(argv, "config").partition(":")
    if not path:
        _check_known(argv)
        raise UserError(
            "--config is missing: give a table, such as --config=configs/tables/zigzag_components.py:scenes, or a system"
        )
    values = define_flags(other_flags, ConfigDict())
    try:
        rest = [a for a in values(other_flags)[1:] if a != value_of(argv, "config")]
    except flags.UnrecognizedFlagError as e:
        names = field_flags(collect.get_config())
        raise UserError(unknown(e.flagname, [*values, "config", *names])) from e
    except flags.Error as e:
        raise UserError(one_line(e)) from e
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag; set fields with --config.a.b=value")
    _check_mode(values)
    if values.row is not None and values.rows:
        raise UserError("--row and --rows are both given; give only one of them")
    config_file.find(path)
    return Sweep(values, path, dataset, [a for a in argv if re.match(r"--?(?:no)?config\.", a)])


def folders_of(values: flags.FlagValues) -> list[str]:
    """The folders A,B,C of `--workdir`, for modes that take several. UserError for an empty or repeated one."""
    folders = values.workdir.split(",")
    if "" in folders or len(set(map(os.path.realpath, folders))) < len(folders):
        raise UserError(f"--workdir={values.workdir}: expected one folder or several different ones, such as A,B,C")
    return folders


def base_config(argv: list[str]) -> ConfigDict:
    """The config without overrides: from the file that `argv` names, or from the run in its work directory.

    Raises:
        UserError: there is none, or it is invalid.
    """
    path, _, dataset = value_of(argv, "config").partition(":")
    if value_of(argv, "mode") == "convert":
        return collect.get_config()
    if not path:
        folder = value_of(argv, "workdir").split(",")[0] or parse_checkpoint(value_of(argv, "checkpoint") or None)[0]
        if not folder:
            _check_known(argv)
            raise UserError(
                "--config is missing: give for example --config=configs/zigzag.py, or --workdir=RUN for an existing run"
            )
        from ctxseg.runs import workdir  # here, as it takes seconds

        _check_reachable(folder)
        return workdir.read_config(folder)
    config_file.find(path)
    return config_file.load(path, dataset, "get_config")


def parse_checkpoint(text: str | None):
    """`--checkpoint=STEP|best|RUN/checkpoints/STEP` → the folder of the run or None, and the step, `best` or None.

    Raises:
        UserError: it is none of these.
    """
    if text is None or text == "best":
        return None, text
    if re.fullmatch(r"\d{1,18}", text):
        return None, int(text)
    match = re.fullmatch(r"(?:(.*)/)?checkpoints/(\d{1,18})/?", text)
    if not match:
        raise UserError(f"--checkpoint={text}: expected a step, best, or a path that ends in checkpoints/STEP")
    return match[1] or ".", int(match[2])


def _without_value_of(argv, flag):
    """`argv` without `--flag=value` or `--flag value`."""
    kept, previous = [], ""
    for argument in argv:
        is_flag = argument in (f"--{flag}", f"-{flag}")
        if not is_flag and previous not in (f"--{flag}", f"-{flag}") and argument.partition("=")[0].lstrip("-") != flag:
            kept.append(argument)
        previous = argument
    return kept


def value_of(argv, flag):
    """The value of `--flag=value` or `--flag value` in `argv`; '' without one. UserError if the flag is given twice."""
    values = []
    for argument, following in zip(argv, [*argv[1:], ""], strict=False):  # not strict, as `argv` may be empty
        name, equals, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            values.append(value if equals else following)
    if len(values) > 1:
        raise UserError(f"--{flag} is given twice: {' and '.join(values)}")
    return values[0] if values else ""
