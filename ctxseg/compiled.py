"""Compiled programs on disk, so that a network that is run again starts without compiling: JAX's persistent compilation cache."""

import os
import stat
import sys
import warnings
from pathlib import Path

import jax
from filelock import FileLock, Timeout
from tqdm import tqdm

from ctxseg.files import is_remote

LIMIT = 2 * 2**30  # bytes; what was not used for longest is removed first
FOLDER = "compiled"
HIT = "/jax/compilation_cache/cache_hits"


def keep_beside(data_dir) -> None:
    """Reads programs from `data_dir`/compiled, and writes those that take a second or more to compile. Says on stderr when one is read.

    Without such a folder of the user's own, all programs are compiled: JAX executes what it finds there. JAX's own settings take
    precedence: JAX_COMPILATION_CACHE_DIR is another folder, and JAX_ENABLE_COMPILATION_CACHE=false compiles all programs.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder:
        folder = _own_folder(data_dir)
        if folder is None:
            return
        _remove_incomplete(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_compilation_cache_max_size", LIMIT)
    # A fault of a file or of the disk only costs the time of compiling.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    jax.monitoring.register_event_listener(_Told(folder))


class _Told:
    """Called with each event of JAX; says once that programs are read."""

    def __init__(self, folder):
        self._folder: Path | None = folder

    def __call__(self, event: str, **_):
        if event == HIT and self._folder is not None:
            tqdm.write(f"reading programs compiled before from {self._folder}", file=sys.stderr)
            self._folder = None


def _own_folder(data_dir) -> Path | None:
    """`data_dir`/compiled, created if missing. None if it cannot be created, or if others can write to it."""
    if is_remote(data_dir):
        return None
    folder = Path(data_dir).expanduser() / FOLDER
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return None
    others = stat.S_IWGRP | stat.S_IWOTH
    own = status.st_uid == os.getuid() and not status.st_mode & others and os.access(folder, os.W_OK | os.X_OK)
    return folder if own else None


def _remove_incomplete(folder: Path) -> None:
    """Removes programs that were not written completely, which JAX would never replace.

    JAX writes a program, and then the time of its last use, 8 bytes. A process that is killed may leave the first alone, and a machine that
    loses power may leave both empty.
    """
    try:
        with FileLock(folder / ".lockfile", timeout=1):  # JAX's
            for program in folder.glob("*-cache"):
                used = program.with_name(program.name.removesuffix("-cache") + "-atime")
                if not (program.stat().st_size and used.exists() and used.stat().st_size):
                    program.unlink()
                    used.unlink(missing_ok=True)
    except (OSError, NotImplementedError, Timeout):  # NotImplementedError: the file system has no locks
        pass
