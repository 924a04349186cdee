"""Downloads data sets that need no login: resumes, verifies, and unpacks when complete.

TFDS's download manager is not used: without TensorFlow it cannot unpack, it does not resume, and it only knows SHA-256 checksums.
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

TRIES = 5  # each resumes where the last one stopped
PAUSE = 2.0  # seconds between tries
TIMEOUT = 60  # seconds without data after which a connection is given up
CHUNK = 1 << 20  # bytes


class Archive(NamedTuple):
    """A file to download.

    Attributes:
        url: its last part is the file's name; a .zip, .tar, .tar.gz or .tgz is unpacked.
        checksum: 'md5:…', 'sha1:…' or 'sha256:…' in hexadecimal digits; None if none is published.
        into: the folder to unpack or put it in.
    """

    url: str
    checksum: str | None = None
    into: str = "."


class Download(NamedTuple):
    """The files of a data set.

    Attributes:
        name: the folder to store them in; data sets made of the same files share it.
        archives: unpacked side by side.
        root: the unpacked folder that becomes `manual_dir`.
    """

    name: str
    archives: Sequence[Archive]
    root: str = "."


def fetch(source: Download, folder: Path) -> Path:
    """The `root` of a downloaded data set. Nothing is downloaded or unpacked twice.

    `folder/files` appears when everything is unpacked. Until then, downloaded files stay in `folder`, complete or as `.part`, and
    the next call continues with them.

    Args:
        source: what to download.
        folder: where to store it; for this source only. Only one process at a time may call this for a folder.

    Raises:
        UserError: the network or the host fails, or a file is damaged; the message starts with the URL.
        OSError: the disk is full or cannot be written.
    """
    files, incomplete = folder / "files", folder / "incomplete"
    if not files.is_dir():
        try:
            paths = [_download(archive, folder) for archive in source.archives]
            shutil.rmtree(incomplete, ignore_errors=True)  # left by a process that was killed
            for archive, path in zip(source.archives, paths, strict=True):
                _unpack(archive.url, path, incomplete / archive.into)
            incomplete.rename(files)
        finally:
            shutil.rmtree(incomplete, ignore_errors=True)
        for path in paths:
            path.unlink()
    return files / source.root


def _download(archive, folder):
    """The path of an archive, downloaded unless it exists. A download gets its final name once its checksum is verified."""
    url = archive.url
    path = folder / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    part = path.with_name(f"{path.name}.part")
    print(f"downloading {url} to {folder}", file=sys.stderr, flush=True)
    for left in reversed(range(TRIES)):
        try:
            fault = _transfer(url, part)
        except urllib.error.HTTPError as error:  # another try would get the same answer
            raise UserError(f"{url}: the host answered {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            fault = str(getattr(error, "reason", "") or error or type(error).__name__)
        if not fault:
            break
        if not left:
            raise UserError(f"{url}: {fault}; run the command again to resume")
        time.sleep(PAUSE)
    if archive.checksum:
        algorithm, expected = archive.checksum.split(":")
        with open(part, "rb") as file:
            actual = hashlib.file_digest(file, algorithm).hexdigest()
        if actual != expected:
            part.unlink()
            raise UserError(f"{url}: expected {algorithm} {expected}, got {actual}; deleted the file")
    return part.rename(path)


def _transfer(url, part):
    """Downloads the rest of `part`. Returns a message if the host stopped early. Raises urllib's errors."""
    size = part.stat().st_size if part.exists() else 0
    # Without compression: it would change the sizes and the ranges.
    headers = {"User-Agent": "ctxseg", "Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # the range starts at or beyond the file's end
            raise
        if error.headers.get("Content-Range") == f"bytes */{size}":
            return None
        part.unlink()
        return "the file has another size than before"
    with response:
        if size and response.status != 206:  # a host that cannot resume sends everything again
            size = 0
        length = response.headers.get("Content-Length")
        total = size + int(length) if length else None
        if total and total - size > shutil.disk_usage(part.parent).free:
            raise OSError(errno.ENOSPC, f"no space for the {(total - size) / 1e9:.1f} GB of {url}", str(part.parent))
        with open(part, "ab" if size else "wb") as file, Progress(_mb(total), _mb(size), f"{part.stem} MB") as progress:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                size += len(chunk)
                progress.update(_mb(size))
    return f"the transfer ended after {size} of {total} bytes" if total and size < total else None


def _unpack(url, path, into):
    into.mkdir(parents=True, exist_ok=True)
    if not path.name.endswith((".zip", ".tar", ".tar.gz", ".tgz")):
        shutil.copyfile(path, into / path.name)
        return
    print(f"unpacking {path}", file=sys.stderr, flush=True)
    try:
        # Nothing is written outside of `into`: shutil skips such paths in a zip, and the filter refuses them in a tar.
        shutil.unpack_archive(path, into, **({} if path.suffix == ".zip" else {"filter": "data"}))
    except Exception as error:  # readers raise many kinds of errors on damaged archives
        if isinstance(error, OSError) and error.errno is not None:
            raise
        path.unlink()
        raise UserError(f"{url}: cannot unpack the file, and deleted it: {' '.join(str(error).split())}") from error


def _mb(size):
    return (size or 0) // 1_000_000
