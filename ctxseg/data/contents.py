"""What files hold, in digests: of the bytes, so that a copy elsewhere is the same and a changed pixel is not.

Reading every image at every start would take minutes for a large data set. As in git's index, a digest is kept with the file's size, inode
and times, and the file is read again when one of these has changed. Size and modification time alone are not enough: an editor can keep
both. The time of the last change of the inode (ctime) cannot be set by hand.
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

# Nanoseconds by which a file must be older than its reading for its digest to be kept: a change within the resolution of
# the times, 2 s on some file systems, would not show.
SETTLED = 3_000_000_000


def digests(paths: Iterable[str], cache: Path | None = None) -> dict[str, str | None]:
    """Digests of the contents of files.

    Args:
        paths: of files.
        cache: a file that keeps the digests for the next time; None to read everything. It is a help alone: missing, damaged or not to be
            written, everything is read.

    Returns:
        {path: 32 hexadecimal digits, or None if it is no file}.

    Raises:
        OSError: a file that cannot be read.
    """
    known = _read(cache)
    found: dict[str, str | None] = {}
    marks: dict[str, list[int] | None] = {}
    unknown: list[str] = []
    for path in dict.fromkeys(paths):
        marks[path] = _mark(path)
        entry = known.get(path)
        if marks[path] is None:
            found[path] = None
        elif isinstance(entry, list) and entry[1:] == marks[path]:
            found[path] = entry[0]
        else:
            unknown.append(path)
    now = time.time_ns()
    if unknown:
        found |= zip(unknown, each(_digest, unknown, "read files"), strict=True)
        if cache:
            kept = {p: [found[p], *mark] for p, mark in marks.items() if mark and max(mark[2:]) < now - SETTLED}
            with contextlib.suppress(OSError):
                cache.parent.mkdir(parents=True, exist_ok=True)
                write_text(cache, json.dumps(kept))
    return found


def _mark(path):
    """[size, inode, mtime, ctime] of a file; None if there is none."""
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
        known = parse_json(cache.read_bytes()) if cache else {}
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
