"""Downloading data sets that their hosts give to anybody, without a login: resumed, verified, and unpacked when complete.

Not TFDS's download manager: without TensorFlow it cannot unpack, and it neither resumes nor knows other checksums than SHA-256.
"""

import errno
import hashlib
import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ctxseg.errors import UserError
from ctxseg.progress import Progress

TRIES = 5  # each goes on where the last one broke off
PAUSE = 2.0  # seconds before the next
SECONDS = 60  # without a byte, until a connection counts as broken
CHUNK = 1 << 20


class Archive(NamedTuple):
    """A file to download.

    Attributes:
        url: where; the last part is the file's name, whose suffix says whether it is unpacked: .zip, .tar, .tar.gz or .tgz.
        checksum: 'md5:…', 'sha1:…' or 'sha256:…' in hexadecimal digits; None if none is published.
        into: the folder that it is unpacked or put in.
    """

    url: str
    checksum: str | None = None
    into: str = "."


class Download(NamedTuple):
    """What a data set is made of.

    Attributes:
        name: of the folder that it is kept in; data sets made of the same files have the same.
        archives: all unpacked side by side.
        root: the folder, in what was unpacked, that becomes `manual_dir`.
    """

    name: str
    archives: Sequence[Archive]
    root: str = "."


def fetch(source: Download, folder: Path) -> Path:
    """The `root` of a downloaded data set. Nothing is downloaded or unpacked twice.

    `folder/files` appears when all is unpacked. What was downloaded until then stays beside it, in full or as `.part`, and a
    second call goes on with that.

    Args:
        source: what to download.
        folder: where it is kept, for this source alone. Only one process may be in here at a time.

    Raises:
        UserError: the network or the host fails, or a file is not what it should be; it starts with the URL.
        OSError: the disk is full or cannot be written.
    """
    files, incomplete = folder / "files", folder / "incomplete"
    if not files.is_dir():
        try:
            paths = [_download(archive, folder) for archive in source.archives]
            shutil.rmtree(incomplete, ignore_errors=True)  # of a process that was killed
            for archive, path in zip(source.archives, paths, strict=True):
                _unpack(archive.url, path, incomplete / archive.into)
            incomplete.rename(files)
        finally:
            shutil.rmtree(incomplete, ignore_errors=True)
        for path in paths:
            path.unlink()
    return files / source.root


def _download(archive, folder):
    """The path of an archive, downloaded unless it is there. It gets its name once it is complete and has its checksum."""
    url = archive.url
    path = folder / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    part = path.with_name(f"{path.name}.part")
    print(f"downloading {url} to {folder}", file=sys.stderr, flush=True)
    for left in reversed(range(TRIES)):
        try:
            fault = _transfer(url, part)
        except urllib.error.HTTPError as error:  # the host's answer, which another try would not change
            raise UserError(f"{url}: the host says {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            fault = str(getattr(error, "reason", "") or error or type(error).__name__)
        if not fault:
            break
        if not left:
            raise UserError(f"{url}: {fault}; the next run goes on from there")
        time.sleep(PAUSE)
    if archive.checksum:
        algorithm, expected = archive.checksum.split(":")
        with open(part, "rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
        if found != expected:
            part.unlink()
            raise UserError(f"{url}: it has {algorithm} {found}, but should have {expected}; it is deleted")
    return part.rename(path)


def _transfer(url, part):
    """Downloads what `part` lacks. Returns what went wrong if the host stopped early; urllib's errors are raised."""
    have = part.stat().st_size if part.exists() else 0
    # Compressed on the way, sizes and ranges would be those of something else.
    headers = {"User-Agent": "ctxseg", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing lies behind what there is
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return None
        part.unlink()
        return "the file has another size than before"
    with response:
        if have and response.status != 206:  # a host that cannot resume sends all of it again
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if total and total - have > shutil.disk_usage(part.parent).free:
            raise OSError(errno.ENOSPC, f"no space for the {(total - have) / 1e9:.1f} GB of {url}", str(part.parent))
        with open(part, "ab" if have else "wb") as file, Progress(_mb(total), _mb(have), f"{part.stem} MB") as shown:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                shown.update(_mb(have))
    return f"it ended after {have} of {total} bytes" if total and have < total else None


def _unpack(url, path, into):
    into.mkdir(parents=True, exist_ok=True)
    if not path.name.endswith((".zip", ".tar", ".tar.gz", ".tgz")):
        shutil.copyfile(path, into / path.name)
        return
    print(f"unpacking {path}", file=sys.stderr, flush=True)
    try:
        # Neither way writes outside of `into`: zips' paths that lead there are skipped, and tar's filter refuses them.
        shutil.unpack_archive(path, into, **({} if path.suffix == ".zip" else {"filter": "data"}))
    except Exception as error:  # damaged archives make their readers raise all sorts
        if isinstance(error, OSError) and error.errno is not None:
            raise
        path.unlink()
        raise UserError(f"{url}: cannot unpack it, and deleted it: {' '.join(str(error).split())}") from error


def _mb(size):
    return (size or 0) // 1_000_000
