"""Locks between processes, by flock: the system releases a lock when its process dies."""

import contextlib
import errno
from collections.abc import Callable, Iterator

from filelock import FileLock, Timeout


@contextlib.contextmanager
def hold(path, waiting: Callable[[], None] | None = None, stopped: Callable[[], bool] | None = None) -> Iterator[list]:
    """Holds a lock on the file at `path`. The file and its folder are created if missing, and are not removed.

    On a file system without locks, nothing is locked: the user must not start two processes at once.

    Args:
        path: path of the lock file.
        waiting: called once if another process has the lock, before waiting for it; None: do not wait, but raise.
        stopped: called repeatedly while waiting; waiting ends when it returns True.

    Yields:
        A list with the file descriptor of the lock; [] on a file system without locks. A process that inherits the descriptor keeps the
        lock.

    Raises:
        filelock.Timeout: another process has the lock, and `waiting` is None or `stopped` returned True.
        OSError: the lock file cannot be created.
    """
    descriptors: list[int] = []
    # Not filelock's fallback, a file that exists while the lock is held: it would remain after a process is killed.
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
        # FileNotFoundError: the other process has removed the folder. The next attempt creates it.
        with contextlib.suppress(FileNotFoundError):
            lock.acquire(cancel_check=stopped)
            return
