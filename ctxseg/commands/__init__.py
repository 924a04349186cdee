"""The command line: one module per mode, each with `run(values)`, which returns the exit status."""

import errno
import importlib
import io
import os
import sys
import traceback

from absl import flags, logging

from ctxseg import cpu, interrupts, processes
from ctxseg.commands import command_line
from ctxseg.errors import UserError, one_line

# A full disk, or an exhausted quota.
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = "error: its output was closed; run the same command to continue"


def run() -> None:
    """Runs `sys.argv` and ends the process. For an error of the user or the machine, it prints one line and exits with status 2."""
    try:
        status = main(sys.argv)
        sys.stdout.flush()
        interrupts.ignore()
    except BrokenPipeError:  # as with `| head`; results are written before they are printed
        if processes.several():  # the others would wait for this one
            interrupts.leave(CLOSED)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except (Exception, KeyboardInterrupt) as e:
        if processes.several():
            _leave_others(e)
        if "--debug" in sys.argv:
            raise
        interrupts.leave(error_line(e))
    sys.exit(status)


def _leave_others(e):
    """Ends this process of several. Not by an exception, as the runtime would wait for the others when the interpreter shuts down."""
    if not isinstance(e, (UserError, KeyboardInterrupt)):
        processes.await_cause()
    shows_traceback = "--debug" in sys.argv
    try:
        line = error_line(e)
    except Exception:
        line = f"error: {type(e).__name__}: {one_line(e)}; this is a fault of the program, whose traceback is above"
        shows_traceback = True
    if shows_traceback:
        traceback.print_exception(e)
    interrupts.leave(line)


def main(argv: list[str]) -> int:
    """Runs the command line `argv`, whose first entry is the program. Returns the exit status: 0, or 1 if part of the work failed.

    Raises:
        UserError: bad input; no existing file is lost.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: file names may be invalid UTF-8
    if "--help" in argv:
        print(command_line.USAGE, command_line.define_flags(argv).get_help(), sep="\n")
        return 0
    values: command_line.Sweep | flags.FlagValues
    if command_line.value_of(argv, "mode") == "sweep":
        values = command_line.read_sweep(argv)
        print(f"sweep: {values.path}{values.dataset and ':'}{values.dataset}: starting", file=sys.stderr, flush=True)
        mode, data_dir = "sweep", None
    else:
        values = command_line.check_flags(argv)
        mode, config = values.mode, values.config
        folder = "" if mode in ("prepare", "show") else f", {values.workdir}"
        what = values.input if mode == "convert" else f"{config.system} on {config.data.name}{folder}"
        print(f"{mode}: {what}: starting", file=sys.stderr, flush=True)
        command_line.check_remote(values)
        command_line.drop_unread(values, argv)
        data_dir = values.config.data.data_dir
        if mode in ("train", "lr") and values.config.model.remat != "none":
            cpu.recompute()
    # Slow imports come after the check of the flags, and after the first line.
    module = importlib.import_module(f"ctxseg.commands.{mode}")
    interrupts.unwind()
    # Each machine may prepare its own data.
    if mode not in (*command_line.READ_BY["coordinator"], "prepare", "sweep"):
        importlib.import_module("ctxseg.commands.joining").check_alone(mode)
    if mode not in ("prepare", "show", "report", "failures", "convert", "sweep"):  # these compile nothing
        importlib.import_module("ctxseg.compiled").keep_beside(data_dir)
    # Orbax warns of every checkpoint without a score, and raises the errors that it logs.
    logging.set_verbosity(logging.FATAL)
    return module.run(values) or 0


def error_line(e: BaseException) -> str:
    """The line for the exception that ended the program. Raises `e` if it is a bug of the program."""
    if isinstance(e, UserError):
        return f"error: {e}"
    # A library may have turned a KeyboardInterrupt into another exception.
    if interrupts.interrupted or isinstance(e, KeyboardInterrupt):
        return interrupts.LINE
    if isinstance(e, OSError) and e.errno in FULL:
        prefix = f"{e.filename}: " if e.filename else ""
        return f"error: {prefix}{e.strerror}: free some space and run the same command to continue"
    raise e
