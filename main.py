"""python main.py --config=configs/SYSTEM.py[:DATASET] [--mode=MODE] [--workdir=DIR] [--config.a.b=value …]"""

if __name__ == "__main__":
    from ctxseg import interrupts

    interrupts.install()  # before all that takes time

import ast
import errno
import glob
import inspect
import io
import os
import re
import runpy
import sys

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from configs import defaults
from ctxseg import interrupts
from ctxseg.errors import UserError
from ctxseg.fields import is_like
from ctxseg.nearest import nearest

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
KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def define_flags(argv: list[str], base: ConfigDict | None = None) -> flags.FlagValues:
    """The flags, in a set of their own: what they become is a function of `argv` alone. `base` is the config that has no file."""
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
    if base is None or _value(argv, "config"):
        help = "configs/SYSTEM.py or configs/SYSTEM.py:DATASET; default: what the run in --workdir was made with"
        config_flags.DEFINE_config_file("config", None, help, flag_values=values, sys_argv=argv)
    else:
        config_flags.DEFINE_config_dict("config", base.copy_and_resolve_references(), flag_values=values, sys_argv=argv)
    return values


def parse(argv: list[str]):
    """The flags, as `read_flags`, after a line that says what starts. Raises UserError also for an override that nothing reads."""
    values = _check_flags(argv)
    folder = "" if values.mode in ("prepare", "show") else f", {values.workdir}"
    _say(f"{values.mode}: {values.config.system} on {values.config.data.name}{folder}: starting")
    from ctxseg import reading  # here, as it takes seconds

    values.config = _without_unread(values.config, values.mode)
    unread = reading.unread(values.config, values.mode)
    for name in _overridden(argv):
        if name in unread:
            raise UserError(reading.message(name, unread[name]))
    return values


def read_flags(argv: list[str]):
    """The flags, `workdir` with its default, `config` without what nothing reads. Raises UserError for anything that cannot be right."""
    values = _check_flags(argv)
    values.config = _without_unread(values.config, values.mode)
    return values


def _check_flags(argv):
    """The flags, with all that the config says. UserError for what can be seen to be wrong without the packages that take seconds."""
    base = base_config(argv)
    _check_names(argv, base)
    argv, defaulted = _without_none(argv)
    argv = [_quoted(argument, base) for argument in argv]
    values = define_flags(argv, base)
    try:
        rest = values(argv)[1:]
    except flags.UnrecognizedFlagError as e:
        raise UserError(_unknown(e.flagname, [*values, *_field_flags(base)])) from e
    except flags.IllegalFlagValueError as e:
        raise UserError(_bad_value(_one_line(e), base)) from e
    except flags.Error as e:
        raise UserError(_one_line(e)) from e
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag: settings are given as --config.a.b=value")
    _check_mode(values)
    for name in defaulted:
        _set_none(values.config, name)
    _check_tuples(values.config, base)
    if values.mode == "predict" and not values.input:
        raise UserError("--input is missing: --mode=predict wants an image, a folder of images or a 'GLOB'")
    run = parse_checkpoint(values.checkpoint)[0]
    if run and values.workdir and os.path.realpath(run) != os.path.realpath(values.workdir):
        raise UserError(
            f"--checkpoint={values.checkpoint} is of another run than --workdir={values.workdir}: give one of them"
        )
    values.workdir = values.workdir or run
    if not values.workdir:
        data = values.config.data
        values.workdir = (
            "runs"
            if values.mode == "complexity"
            else _default_workdir(values.config.system, data.name, data.manual_dir, data.data_dir)
        )
    return values


def _check_mode(values):
    """UserError for a flag that is given to a mode which does not read it."""
    for name, modes in READ_BY.items():
        if values[name].present and values.mode not in modes:
            readers = " and ".join(filter(None, (", ".join(modes[:-1]), modes[-1])))
            raise UserError(f"--{name} is not read by --mode={values.mode}, but by {readers}")


def _without_unread(config, mode):
    """A copy with the defaults of what nothing reads, whatever a config file says; but for what another mode may read of the run."""
    from ctxseg import reading, workdir

    config = config.copy_and_resolve_references()
    default = _fields(defaults.get_config())
    unread = [name for name in reading.unread(config, mode) if not name.startswith(workdir.FREE)]
    config.update_from_flattened_dict({name: default[name] for name in unread})
    return config


def _default_workdir(what: str, name: str, folder: str | None, data_dir: str, own_folder: bool = True) -> str:
    """runs/SYSTEM-DATASET, or of own data runs/SYSTEM-FOLDER; with the folders above it where that is of another folder of the name.

    Args:
        what: the system, or the table.
        name: of the data set.
        folder: of own data.
        data_dir: where prepared data sets are kept.
        own_folder: whether without `folder` it is that of what is prepared.
    """
    if name != "folder":
        return f"runs/{what}-{name}"
    if not folder and own_folder:
        from ctxseg.data import DATASETS, store

        folder = store.only_folder(DATASETS[name], data_dir)
    if not folder:
        return f"runs/{what}-{name}"
    parts = os.path.abspath(os.path.expanduser(folder)).replace(",", "_").split(os.sep)[1:]
    names = [f"runs/{what}-{'-'.join(parts[-n:])}" for n in range(1, len(parts) + 1)]
    if not any(map(os.path.exists, names)):
        return names[0]
    from ctxseg import provenance  # here, as it takes seconds

    return provenance.choose(names, name, folder, data_dir)


def base_config(argv: list[str]) -> ConfigDict:
    """The config without the overrides: of the file that `argv` names, or of the run in its work directory.

    Raises UserError if there is none, or it cannot be run.
    """
    path, _, dataset = _value(argv, "config").partition(":")
    if not path:
        folder = _value(argv, "workdir").split(",")[0] or parse_checkpoint(_value(argv, "checkpoint") or None)[0]
        if not folder:
            raise UserError(
                "--config is missing: try --config=configs/zigzag.py, or --workdir=RUN for a run that there is"
            )
        from ctxseg import workdir  # here, so that a misspelt flag is answered at once

        return workdir.read_config(folder, defaults.get_config())
    _check_file(path)
    return _from_file(path, dataset, "get_config")


def _from_file(path, dataset, *functions):
    """What the first of `functions` that the Python file has gives for a data set, or for its own default. UserError if it has none."""
    try:
        module = runpy.run_path(path)
        for function in functions:
            if function in module:
                if dataset and not inspect.signature(module[function]).parameters:
                    raise UserError(f"--config={path}:{dataset} cannot be: its {function}() takes no data set")
                given = module[function](*[dataset] if dataset else [])
                if function == "get_config":
                    _check_whole(given, path)
                return given
    except UserError:
        raise
    except (Exception, SystemExit) as e:  # whatever is wrong in the file
        raise UserError(f"--config: {path}: {type(e).__name__}: {_one_line(e)}") from e
    of = " a table, for --mode=sweep" if "get_table" in module else " not the config of a system"
    raise UserError(f"--config: {path} has no {functions[0]}: it is{of}")


def _check_whole(config, path):
    """UserError for what a get_config gives, if it has other sections or fields than the defaults."""
    right = "begin with configs.defaults.get_config(), or with another config's"
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"--config: {path}: get_config gives a {type(config).__name__}, but must give a ConfigDict: {right}"
        )
    names, known = _fields(config), _fields(defaults.get_config())
    if missing := [name for name in known if name not in names]:
        raise UserError(f"--config: {path}: get_config gives no config.{missing[0]}: {right}")
    if more := [name for name in names if name not in known]:
        raise UserError(f"--config: {path}: {_unknown(f'config.{more[0]}', _field_flags(defaults.get_config()))}")


def _check_file(path):
    if not os.path.isfile(path):
        files = glob.glob("configs/[!_]*.py") + glob.glob("configs/tables/[!_]*.py")
        near = nearest(_stem(path), map(_stem, files))
        same = [file for file in files if _stem(file) == near]
        raise UserError(f"--config: {path} is not a file" + (f": did you mean {same[0]}?" if same else ""))


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def run_sweep(argv: list[str]) -> int:
    """`--mode=sweep`: the rows of a table, or the grid of `--sweep` over a system's config. Returns how many runs failed.

    Raises:
        UserError: anything that cannot be right, in the flags or in a row.
    """
    own = [a for a in argv if not re.match(r"--?(?:no)?config\b", a)]
    path, _, dataset = _value(argv, "config").partition(":")
    if not path:
        raise UserError(
            "--config is missing: a table, --config=configs/tables/zigzag_components.py:scenes, or a system"
        )
    common = [a for a in argv if re.match(r"--?(?:no)?config\.", a)]
    values = define_flags(own, ConfigDict())
    try:
        rest = [a for a in values(own)[1:] if a != _value(argv, "config")]
    except flags.UnrecognizedFlagError as e:
        names = _field_flags(defaults.get_config())
        raise UserError(_unknown(e.flagname, [*values, "config", *names])) from e
    except flags.Error as e:
        raise UserError(_one_line(e)) from e
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag: settings are given as --config.a.b=value")
    _check_mode(values)
    if values.row is not None and values.rows:
        raise UserError("--row and --rows are both given: give one of them")
    _check_file(path)
    _say(f"sweep: {path}{dataset and ':'}{dataset}: starting")
    from ctxseg import sweep, tables

    interrupts.unwind()

    table = _from_file(path, dataset, "get_table", "get_config")
    if isinstance(table, ConfigDict):
        table = sweep.grid(os.path.splitext(os.path.basename(path))[0], table.data.name, values.sweep)
    elif not isinstance(table, tables.Table):
        raise UserError(f"--config: {path}: get_table gives a {type(table).__name__}, but must give a Table")
    elif values.sweep:
        raise UserError(f"--sweep is of a system's config, and {path} is a table")
    tables.check(table)  # of which --row counts the rows
    if values.row is not None and not 0 <= values.row < len(table.rows):
        raise UserError(f"--row={values.row} cannot be: the rows are 0 to {len(table.rows) - 1}")

    given = [_value(common, f"config.data.{field}") for field in ("manual_dir", "data_dir")]
    folders = given[0], given[1] or defaults.get_config().data.data_dir

    def resolve(arguments):
        return read_flags([argv[0], *arguments]).config

    return sweep.sweep(
        table,
        values.workdir or _default_workdir(table.name, table.dataset, *folders, own_folder=False),
        common,
        resolve,
        [sys.executable, os.path.abspath(__file__)],
        values.seeds,
        values.rows if values.row is None else str(values.row),
        values.jobs,
        values.dry_run,
    )


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


def _value(argv, flag):
    """What `argv` gives for `--flag=value` or `--flag value`; '' if nothing. UserError if it is there twice."""
    found = []
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            found.append(value if equals else following)
    if len(found) > 1:
        raise UserError(f"--{flag} is given twice: {' and '.join(found)}")
    return found[0] if found else ""


def _say(line):
    print(line, file=sys.stderr, flush=True)


def _one_line(e) -> str:
    return " ".join(str(e).split())


def _without_none(argv):
    """`argv` without its `--config.a.b=None`, which absl cannot parse, and the names of those fields."""
    found = [re.fullmatch(r"--?config\.([^=]+)=None", argument) for argument in argv]
    return [a for a, f in zip(argv, found, strict=True) if not f], [f[1] for f in found if f]


def _quoted(argument, base):
    """`argument` with quotes around the words of a tuple, without which ml_collections does not part them: a=1,b=2 → ('a=1', 'b=2')."""
    found = re.fullmatch(r"(--?config\.([^=]+))=[(\[]?([^\s'\"()\[\]]+,[^\s'\"()\[\]]*)[)\]]?", argument)
    if not found:
        return argument
    *sections, name = found[2].split(".")
    for key in sections:
        base = base[key]
    try:
        ast.literal_eval(found[3])
    except (ValueError, SyntaxError):
        if base.get_type(name) is tuple:
            return f"{found[1]}={tuple(filter(None, found[3].split(',')))}"
    return argument


def _set_none(config, name):
    """Gives a field back to the default of the module it belongs to. UserError if it is not such a field."""
    if _fields(defaults.get_config())[name] is not None:
        raise UserError(f"--config.{name}=None cannot be: it has no default of its own to fall back on")
    *sections, last = name.split(".")
    for key in sections:
        config = config[key]
    config[last] = None


def _unknown(name, names) -> str:
    inside = [n.removeprefix(f"{name}.").partition(".")[0] for n in names if n.startswith(f"{name}.")]
    if inside and "name" not in inside:
        return f"there is no --{name}: it is a section, of {', '.join(dict.fromkeys(inside))}"
    near = nearest(name, names)
    return f"there is no --{name}" + (f": did you mean --{near}?" if near else "")


def _field_flags(config):
    return [f"config.{name}" for name in _fields(config)]


def _check_names(argv, base):
    """UserError for the first override that names no field of the config it changes."""
    names = _field_flags(base)
    for name in _overridden(argv):
        if f"config.{name}" not in names:
            raise UserError(_unknown(f"config.{name}", names))


def _overridden(argv):
    """The names of the fields that `argv` overrides."""
    found = [re.match(r"--?(?:no)?config\.([^=]*)", argument) for argument in argv]
    return [override[1] for override in found if override]


def _bad_value(message, base):
    """absl's message, and for a config field what it wants."""
    field = re.match(r"flag --config\.([\w.]+)=", message)
    if not field:
        return message
    *sections, name = field[1].split(".")
    section = base
    for key in sections:
        section = section[key]
    given = message.removeprefix("flag ").partition(": ")[0]
    return f"{given} cannot be: it wants {KINDS.get(section.get_type(name), 'a ' + section.get_type(name).__name__)}"


def _check_tuples(config, base):
    """UserError for a tuple whose entries have become of another kind, or more or fewer where that cannot be."""
    given = _fields(config)
    for name, default in _fields(base).items():
        if isinstance(default, tuple) and default and not is_like(given[name], default, name):
            raise UserError(f"config.{name} is {given[name]}, but must be like {default}")


def _fields(section, prefix=""):
    """{'a.b': value} of all fields below `section`."""
    fields = {}
    for key, value in section.items():
        fields |= _fields(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else {prefix + key: value}
    return fields


def main(argv: list[str]) -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: names of files may be no UTF-8
    if "--help" in argv:
        print(__doc__, define_flags(argv).get_help(), sep="\n")
        return
    if _value(argv, "mode") == "sweep":
        if run_sweep(argv):
            sys.exit(1)
        return
    values = parse(argv)
    config, mode, folder = values.config, values.mode, values.workdir
    folders = folder.split(",") if mode in ("pictures", "report") else [folder]
    if "" in folders or len(set(map(os.path.realpath, folders))) < len(folders):
        raise UserError(f"--workdir={folder} cannot be: it wants one folder, or several that differ, A,B,C")
    checkpoint = parse_checkpoint(values.checkpoint)[1]
    # Imported here, so that a misspelt flag is answered at once.
    from ctxseg import complexity, evaluate, export, pictures, predict, prepare, report, show, train, workdir

    interrupts.unwind()
    logging.set_verbosity(
        logging.FATAL
    )  # Orbax warns of every checkpoint without a score, and what it logs as an error it raises, too
    if mode in ("train", "evaluate"):
        with workdir.hold(folder, make=mode == "train"):
            scores = train.train(config, folder) if mode == "train" else evaluate.evaluate(config, folder, checkpoint)
            page = None
            try:
                page = report.write_report(folders, _usual)
            finally:  # the scores in any case
                evaluate.print_scores(scores, page)
    elif mode == "crf":
        evaluate.search_crf(config, folder, checkpoint)
    elif mode == "predict":
        if predict.predict(
            config, folder, values.input, values.output, values.overwrite, values.probabilities, checkpoint
        ):
            sys.exit(1)  # some images could not be read
    elif mode == "pictures":
        runs = {f: workdir.read_config(f, defaults.get_config()) for f in folders}
        if len(folders) == 1:
            runs = {folder: config}  # with what the command line overrides
        for path in pictures.pictures(list(runs), list(runs.values()), _indices(values.images)):
            print(path)
    elif mode == "prepare":
        print(prepare.prepare(config.data))
    elif mode == "show":
        show.show(config)
    elif mode == "complexity":
        complexity.complexity(config, folder)
    elif mode == "export":
        print(export.export(config, folder, values.output, values.overwrite, checkpoint))
    elif mode == "report":
        if _value(argv, "config") and os.path.isdir(folders[0]):
            workdir.check_same(os.path.join(folders[0], "config.json"), config)
        print(report.write_report(folders, _usual))


def _indices(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise UserError(f"--images={text} cannot be: it wants indices of images, 0,1,2")
    return tuple(map(int, text.split(",")))


def _usual(folder) -> dict | None:
    """The config of a run without overrides, a nested dict, with what nothing reads as the run has it; None without its file."""
    from ctxseg import reading, workdir

    try:
        run = workdir.read_config(folder, defaults.get_config())
        usual = base_config(["", f"--config=configs/{run.system}.py:{run.data.name}"]).copy_and_resolve_references()
    except UserError:
        return None
    given = _fields(run)
    usual.update_from_flattened_dict({name: given[name] for name in reading.unread(run)})
    return usual.to_dict()


# A full disk, or a quota that is used up.
FULL = (errno.ENOSPC, errno.EDQUOT)


def _said(e) -> str:
    """What ended the program, in a line; raises what is a fault of the program itself."""
    if isinstance(e, UserError):
        return f"error: {e}"
    if interrupts.asked or isinstance(e, KeyboardInterrupt):  # which may have become another error on its way
        return interrupts.LINE
    if isinstance(e, OSError) and e.errno in FULL:
        where = f"{e.filename}: " if e.filename else ""
        return f"error: {where}{e.strerror}: make room, and the same command continues"
    raise e


if __name__ == "__main__":
    try:
        main(sys.argv)
        sys.stdout.flush()
        interrupts.ignore()
    except BrokenPipeError:  # `| head` has seen enough; results are written before they are printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, KeyboardInterrupt) as e:
        if "--debug" in sys.argv:
            raise
        interrupts.leave(_said(e))
