"""Digests of files' contents: a copy has the same digest, a file with a changed pixel has another one.

Reading every image at every start would take minutes for a large data set. As in git's index, a digest is stored with the file's size,
inode and times, and the file is read again when one of these has changed. Size and modification time are not enough: an editor can keep
both. The time of the inode's last change (ctime) cannot be set by hand.
"""

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from ctxseg.data.parallel import each
from ctxseg.files import parse_json, write_text

# Nanoseconds. The digest of a file that changed more recently is not stored: another change within the resolution of the
# file system's times, 2 s on some, would not be noticed.
SETTLED = 3_000_000_000


def digests(paths: Iterable[str], cache: Path | None = None) -> dict[str, str | None]:
    """Digests of the contents of files.

    Args:
        paths: the files.
        cache: a file that stores the digests for the next call; None to read everything. If it is missing, damaged or cannot be written,
            everything is read.

    Returns:
        {path: 32 hexadecimal digits, or None if it is not a file}.

    Raises:
        OSError: a file that cannot be read.
    """
    cached = _read(cache)
    results: dict[str, str | None] = {}
    stamps: dict[str, list[int] | None] = {}
    changed: list[str] = []
    for path in dict.fromkeys(paths):
        stamps[path] = _stamp(path)
        entry = cached.get(path)
        if stamps[path] is None:
            results[path] = None
        elif isinstance(entry, list) and entry[1:] == stamps[path]:
            results[path] = entry[0]
        else:
            changed.append(path)
    now = time.time_ns()
    if changed:
        results |= zip(changed, each(_digest, changed, "read files"), strict=True)
        if cache:
            settled = {
                path: [results[path], *stamp]
                for path, stamp in stamps.items()
                if stamp and max(stamp[2:]) < now - SETTLED
            }
            with contextlib.suppress(OSError):
                cache.parent.mkdir(parents=True, exist_ok=True)
                write_text(cache, json.dumps(settled))
    return results


def _stamp(path):
    """[size, inode, mtime, ctime] of a file; None if it is not a file."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _read(cache):
    try:
        cached = parse_json(cache.read_bytes()) if cache else {}
    except (OSError, ValueError):
        return {}
    return cached if isinstance(cached, dict) else {}
