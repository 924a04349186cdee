"""Handles SIGINT and SIGTERM at any time: one line on stderr, and exit status 2.

This module is imported before the packages that take seconds to load, so it imports only the standard library.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

LINE = "error: interrupted; run the same command to continue"
# A process that does not react to a signal for this long, for example because it compiles, is ended.
SECONDS = 3.0

# Functions that `leave` calls with its line before it ends the process.
cleanups: list[Callable[[str], None]] = []
# Whether the main thread may take as long as it needs to handle the next signal.
patient = False
# Whether the process is unwinding after a signal.
interrupted = False
_leaving = threading.Lock()


def install() -> None:
    """Makes a signal end the process at once: nothing needs cleaning up while modules are imported."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_at_once)
    # Python calls signal handlers only between bytecode instructions, so not while XLA compiles. The wakeup byte reaches a thread at once.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    sys.unraisablehook = _unraisable


def unwind() -> None:
    """Makes a signal raise KeyboardInterrupt, so that unfinished files are removed. Does nothing without `install`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _leave_at_once:
            signal.signal(number, _raise)


def ignore() -> None:
    """Ignores signals, when the work is done and the interpreter shuts down."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def leave(line: str = LINE) -> None:
    """Prints `line` and ends the process with status 2. Skips the interpreter's shutdown, which crashes threads that are compiling."""
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()  # another thread is ending the process
    for cleanup in cleanups:
        with contextlib.suppress(OSError):
            cleanup(line)
    if threading.current_thread() is threading.main_thread():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a closed pipe, or a signal in the middle of a write
                stream.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    os._exit(2)


def _leave_at_once(*_):
    leave()


def _raise(*_):
    global interrupted
    if interrupted:
        leave()
    interrupted = True
    raise KeyboardInterrupt


def _watch(reader):
    global patient
    while number := os.read(reader, 1):
        handler = signal.getsignal(number[0])
        if handler is _leave_at_once:
            leave()
        if patient:
            patient = False
        elif handler is _raise:
            time.sleep(SECONDS)
            leave()


def _unraisable(error):
    """Ends the process after a KeyboardInterrupt in a destructor or callback, which Python would print and ignore."""
    if interrupted:
        leave()
    sys.__unraisablehook__(error)
