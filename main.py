"""The command line:  python main.py --config=configs/SYSTEM.py[:DATASET] [--mode=MODE] [--workdir=DIR] [--config.a.b=value …]"""

import difflib
import runpy
import sys

from absl import flags
from ml_collections import ConfigDict, config_flags

from ctxseg.errors import UserError

MODES = ("train", "evaluate", "prepare", "show", "report")

flags.DEFINE_enum("mode", "train", MODES, "what to do; train ends with an evaluation")
flags.DEFINE_string("workdir", None, "folder of the run; default runs/SYSTEM-DATASET")
flags.DEFINE_bool("debug", False, "show the traceback of an error")
config_flags.DEFINE_config_file("config", None, "configs/SYSTEM.py or configs/SYSTEM.py:DATASET")


def parse(argv: list[str]):
    """Flags → (config, mode, workdir). Raises UserError for anything that cannot be right."""
    try:
        rest = flags.FLAGS(argv)[1:]
        config = flags.FLAGS.config
    except flags.UnrecognizedFlagError as e:
        raise UserError(_nearest(e.flagname, list(flags.FLAGS))) from e
    except (AttributeError, KeyError) as e:
        raise UserError(_misspelt_field(argv) or f"--config: {_one_line(e)}") from e
    except flags.IllegalFlagValueError as e:
        raise UserError(_one_line(e)) from e
    except (flags.Error, OSError, ImportError, SyntaxError, TypeError, ValueError) as e:
        raise UserError(f"--config: {_one_line(e)}") from e
    if rest:
        raise UserError(f"{rest[0]!r} is not a flag: settings are given as --config.a.b=value")
    if config is None:
        raise UserError("--config is missing: try --config=configs/zigzag.py")
    return config, flags.FLAGS.mode, flags.FLAGS.workdir or f"runs/{config.system}-{config.data.name}"


def _one_line(e) -> str:
    return " ".join(str(e).split())


def _nearest(name, names) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
    return f"there is no --{name}: did you mean --{near[0]}?"


def base_config(argv):
    """The config that `argv` names, without the overrides."""
    path, _, dataset = next(a.removeprefix("--config=") for a in argv if a.startswith("--config=")).partition(":")
    return runpy.run_path(path)["get_config"](*[dataset] if dataset else [])


def _misspelt_field(argv) -> str | None:
    """The first override that names no field of the config it changes."""
    names = [f"config.{name}" for name in _field_names(base_config(argv))]
    given = (a.lstrip("-").partition("=")[0] for a in argv if a.startswith("--config."))
    return next((_nearest(name, names) for name in given if name not in names), None)


def _field_names(section, prefix=""):
    for key, value in section.items():
        yield from _field_names(value, f"{prefix}{key}.") if isinstance(value, ConfigDict) else (f"{prefix}{key}",)


def main(argv: list[str]) -> None:
    config, mode, workdir = parse(argv)
    # Imported here, so that a misspelt flag is answered at once.
    from ctxseg import data, devices, evaluate, report, show, train

    devices.initialize()
    if mode == "train":
        train.train(config, workdir)
    elif mode == "evaluate":
        evaluate.evaluate(config, workdir)
    elif mode == "prepare":
        print(data.load(config.data.name, config.data.data_dir, config.data.manual_dir).data_dir)
    elif mode == "show":
        show.show(config)
    if mode in ("train", "evaluate", "report"):
        page = report.write_report(workdir, base_config(argv).to_dict())
        if mode == "report":
            print(page)


if __name__ == "__main__":
    try:
        main(sys.argv)
    except (UserError, KeyboardInterrupt) as e:
        if "--debug" in sys.argv:
            raise
        print(f"error: {str(e) or 'interrupted'}", file=sys.stderr)
        sys.exit(2)
