"""SIGINT and SIGTERM at any moment: one line on stderr, and exit status 2.

Imported first, before the packages that take seconds, so it imports nothing but the standard library.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

LINE = "error: interrupted; the same command completes what it left"
SECONDS = 3.0  # from a signal to the end of a process that does not react to it: one that compiles

cleanups: list[Callable[[], None]] = []  # what is done in any case before the process ends
patient = False  # whether the next signal is left to the main thread, however long that takes
asked = False  # whether the process unwinds after a signal
_leaving = threading.Lock()


def install() -> None:
    """From here on a signal ends the process at once: there is nothing to put away while modules are imported."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_at_once)
    # Python calls handlers between two of its instructions, so not while XLA compiles; a byte for the thread comes at once.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    sys.unraisablehook = _unraisable


def unwind() -> None:
    """From here on a signal is a KeyboardInterrupt, so that what is half done is put away. Does nothing without `install`."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _leave_at_once:
            signal.signal(number, _raise)


def ignore() -> None:
    """From here on signals do nothing: all is done, and the interpreter shuts down."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def leave(line: str = LINE) -> None:
    """Ends the process with `line` and status 2; not by way of the interpreter's end, where threads that still compile crash."""
    if not _leaving.acquire(blocking=False):
        threading.Event().wait()  # another thread is about to
    for cleanup in cleanups:
        with contextlib.suppress(OSError):
            cleanup()
    if threading.current_thread() is threading.main_thread():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # of a pipe that nobody reads, or in the middle of a write
                stream.flush()
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    os._exit(2)


def _leave_at_once(*_):
    leave()


def _raise(*_):
    global asked
    if asked:
        leave()
    asked = True
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


def _unraisable(found):
    """A KeyboardInterrupt in a destructor or a callback goes no further, and Python would print it."""
    if asked:
        leave()
    sys.__unraisablehook__(found)
