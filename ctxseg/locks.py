"""Locks between processes, by flock: the system lets go of one when its process dies."""

import contextlib
import errno
from collections.abc import Callable, Iterator

from filelock import FileLock, Timeout


@contextlib.contextmanager
def hold(path, waiting: Callable[[], None] | None = None, stopped: Callable[[], bool] | None = None) -> Iterator[list]:
    """Holds the lock file at `path`; it and its folder are made if they are not there, and stay.

    On a file system without locks nothing is held: two processes at once are the user's to avoid.

    Args:
        path: of the lock file.
        waiting: called once if another process holds it, before waiting for that process; None: that is an error.
        stopped: asked again and again; waiting ends when it returns True.

    Yields:
        The descriptor that holds it, in a list; [] without locks. A process that inherits it goes on holding.

    Raises:
        filelock.Timeout: another process holds it, and there is no `waiting`, or `stopped` returned True.
        OSError: it cannot be made.
    """
    descriptors: list[int] = []
    # Not filelock's substitute for flock, a file that is there while it is held: that outlives a killed process.
    lock = FileLock(path, fallback_to_soft=False, on_acquired=descriptors.append)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if waiting is None:
                raise
            waiting()
            _wait(lock, stopped)
    except OSError as e:
        if e.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    try:
        yield descriptors
    finally:
        lock.release()


def _wait(lock, stopped):
    while True:
        with contextlib.suppress(FileNotFoundError):  # its holder has removed the folder, which is made again
            lock.acquire(cancel_check=stopped)
            return
