"""What the command line does: a module a mode, each with `run(values)`, which returns the exit status."""

import errno
import importlib
import io
import os
import sys

from absl import flags, logging

from ctxseg import interrupts
from ctxseg.commands import command_line
from ctxseg.errors import UserError

# A full disk, or a quota that is used up.
FULL = (errno.ENOSPC, errno.EDQUOT)


def run() -> None:
    """Does what `sys.argv` says, and ends the process; any fault of the user's or of the machine's is one line and status 2."""
    try:
        status = main(sys.argv)
        sys.stdout.flush()
        interrupts.ignore()
    except BrokenPipeError:  # `| head` has seen enough; results are written before they are printed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    except (Exception, KeyboardInterrupt) as e:
        if "--debug" in sys.argv:
            raise
        interrupts.leave(said(e))
    sys.exit(status)


def main(argv: list[str]) -> int:
    """Does what `argv` says, `argv[0]` being the program. Returns the exit status: 0, or 1 where a part of the work failed.

    Raises:
        UserError: bad input; nothing that was there is lost.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: names of files may be no UTF-8
    if "--help" in argv:
        print(command_line.USAGE, command_line.define_flags(argv).get_help(), sep="\n")
        return 0
    given: command_line.Sweep | flags.FlagValues
    if command_line.value_of(argv, "mode") == "sweep":
        given = command_line.read_sweep(argv)
        print(f"sweep: {given.path}{given.dataset and ':'}{given.dataset}: starting", file=sys.stderr, flush=True)
        mode = "sweep"
    else:
        given = command_line.check_flags(argv)
        mode, config = given.mode, given.config
        folder = "" if mode in ("prepare", "show") else f", {given.workdir}"
        print(f"{mode}: {config.system} on {config.data.name}{folder}: starting", file=sys.stderr, flush=True)
        command_line.check_remote(given)
        command_line.drop_unread(given, argv)
    # What takes seconds comes after a misspelt flag is answered, and after the first line.
    module = importlib.import_module(f"ctxseg.commands.{mode}")
    interrupts.unwind()
    # Orbax warns of every checkpoint without a score, and what it logs as an error it raises, too.
    logging.set_verbosity(logging.FATAL)
    return module.run(given) or 0


def said(e: BaseException) -> str:
    """What ended the program, in a line; raises what is a fault of the program itself."""
    if isinstance(e, UserError):
        return f"error: {e}"
    if interrupts.asked or isinstance(e, KeyboardInterrupt):  # which may have become another error on its way
        return interrupts.LINE
    if isinstance(e, OSError) and e.errno in FULL:
        where = f"{e.filename}: " if e.filename else ""
        return f"error: {where}{e.strerror}: make room, and the same command continues"
    raise e
