"""Prepared data sets on disk: each is built once, completely or not at all, and reused.

A build is stored in `data_dir/name/fingerprint/version`. The fingerprint identifies the contents of the data. The build's `source.json`
has the `manual_dir` that it was last prepared from, and the time.

A `data_dir` in cloud storage, gs://bucket/prepared, is only read: ArrayRecord writes local files only.
"""

import contextlib
import difflib
import errno
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import time
import types
from functools import partial
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging
from array_record.python.array_record_module import ArrayRecordReader
from etils import epath
from google.protobuf.json_format import ParseError

from ctxseg import locks
from ctxseg.data import contents, download
from ctxseg.errors import UserError
from ctxseg.files import check_reachable, is_remote, parse_json, read_bytes, write_json
from ctxseg.nearest import NEAR

SHARD = 1000  # records per file
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


def prepare(builder_cls, data_dir, manual_dir=None, download: bool = False):
    """A builder with prepared data: found in `data_dir`, or built there.

    If several processes need the same build, one of them builds it and the others wait. A build gets its final name when it is complete.
    An interrupted build is removed and started again.

    Args:
        builder_cls: a builder class, as `builders.records` describes it.
        data_dir: the folder of prepared data sets.
        manual_dir: the data set as its authors publish it; None if it is generated, or to use the prepared one. If a folder has several
            builds, because its contents have changed, the last one is used.
        download: whether to download the data set to data_dir/downloads, if `manual_dir` is None and nothing is prepared.

    Raises:
        UserError: `manual_dir` is missing or invalid; `data_dir` cannot be written, is full, or is in cloud storage without the build.
    """
    data_dir = _place(data_dir)
    if builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS is None:
        manual_dir = None
    elif not manual_dir:
        try:
            only = _only_build(builder_cls, data_dir)
            if only:
                builder = _builder(builder_cls, data_dir, only)
                if not _prepared(builder):
                    raise UserError(
                        f"config.data.data_dir: {builder.data_dir} lacks some records: delete it to prepare it again"
                    )
                return builder
        except OSError as error:
            raise UserError(f"config.data.data_dir: cannot read {reason(error)}") from error
        _check_writable(builder_cls, data_dir)
        manual_dir = _download(builder_cls, data_dir, download)
    try:
        if manual_dir:
            if is_remote(manual_dir):
                raise UserError(f"config.data.manual_dir={manual_dir}: expected a folder on this machine")
            manual_dir = Path(manual_dir).expanduser()
            _check_manual_dir(builder_cls, manual_dir)
    except OSError as error:
        raise UserError(f"config.data.manual_dir: cannot read {reason(error)}") from error
    fingerprint = fingerprint_of(builder_cls, data_dir, manual_dir)
    try:
        builder = _builder(builder_cls, data_dir, fingerprint)
        if _prepared(builder):
            _remember_again(builder, manual_dir)
            return builder
        _check_writable(builder_cls, data_dir)
        folder = Path(builder.data_dir).parent
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with lock(folder):
                if not _prepared(builder):  # another process may have built it in the meantime
                    _build(builder_cls, folder, Path(builder.data_dir), manual_dir)
        finally:
            _remove_empty(folder)
    except OSError as error:
        raise UserError(
            f"cannot prepare {builder_cls.name} in config.data.data_dir={data_dir}: {reason(error)}"
        ) from error
    return _builder(builder_cls, data_dir, fingerprint)


def _place(data_dir) -> epath.Path:
    """`data_dir` as a path. UserError for a URL that cannot be read."""
    if is_remote(data_dir) and not os.fspath(data_dir).startswith("gs://"):
        raise UserError(
            f"config.data.data_dir={data_dir}: expected a folder on this machine or gs://…, as ArrayRecord reads no others"
        )
    check_reachable(data_dir)
    return epath.Path(data_dir).expanduser()


def _check_writable(builder_cls, data_dir):
    """UserError for a `data_dir` in cloud storage, where nothing is built."""
    if is_remote(data_dir):
        raise UserError(
            f"config.data.data_dir={data_dir} does not have this {builder_cls.name}, and ArrayRecord writes local files only: prepare it "
            "in a folder on this machine (--mode=prepare), and copy the folder there"
        )


def _remove_empty(folder):
    """Removes the folder of a failed build. Another process that waits for its lock creates it again."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            folder.rmdir()


def fingerprint_of(builder_cls, data_dir, manual_dir) -> str:
    """The fingerprint of the contents of a data set's files, wherever they are. UserError if they cannot be read."""
    data_dir, manual_dir = _place(data_dir), manual_dir and Path(manual_dir).expanduser()
    try:
        return builder_cls.fingerprint(manual_dir, _digests(builder_cls, data_dir, manual_dir))
    except OSError as error:
        raise UserError(f"config.data.manual_dir: cannot read {reason(error)}") from error


def _digests(builder_cls, data_dir, manual_dir):
    """`contents.digests` with a cache for this `manual_dir` beside the builds, if they are on this machine."""
    if is_remote(data_dir):
        return contents.digests
    path_hash = hashlib.sha256(os.path.abspath(manual_dir or "").encode(errors="surrogateescape")).hexdigest()[:12]
    return partial(contents.digests, cache=data_dir / builder_cls.name / f"files-{path_hash}.json")


def _build(builder_cls, folder, target, manual_dir):
    """Builds in a temporary folder within `folder`, which is renamed to `target` when everything is on the disk."""
    # `target` may exist without its dataset_info.json.
    for leftover in [*folder.glob("incomplete.*"), target]:
        if leftover.exists():
            shutil.rmtree(leftover)
    print(f"preparing {builder_cls.name} in {target}", file=sys.stderr, flush=True)
    incomplete = tempfile.mkdtemp(prefix="incomplete.", dir=folder)
    try:
        builder = _builder(builder_cls, incomplete, folder.name)
        Path(builder.data_dir).mkdir(parents=True)
        with _quiet(), writing():
            # Not by download_and_prepare, which holds a split in memory, and needs TensorFlow beyond 1 GB.
            writer = tfds.core.SequentialWriter(builder.info, SHARD, file_format="array_record")
            for split, examples in builder._split_generators(types.SimpleNamespace(manual_dir=manual_dir)).items():
                writer.initialize_splits([split])
                writer.add_examples({split: (example for _, example in examples)})
            writer.close_all()
        for split in builder.info.splits.values():
            for path, records in zip(split.filepaths, split.shard_lengths, strict=True):
                check_written(path, records)
        if manual_dir:
            _remember(Path(builder.data_dir), manual_dir)
        os.replace(builder.data_dir, target)
    finally:
        shutil.rmtree(incomplete, ignore_errors=True)
    for older in _builds(builder_cls, folder.parent.parent) if manual_dir else []:
        if older != target and (_source(older) or {}).get("manual_dir") == os.path.abspath(manual_dir):
            print(
                f"{older.parent} was prepared from earlier contents of {manual_dir}: it can be deleted",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def writing():
    """Turns the RuntimeErrors that ArrayRecord's writer raises when it is closed into OSErrors of the system."""
    try:
        yield
    except RuntimeError as error:
        match = re.match(r"\w+\(\) failed: ([^;]+); \w+ ([^;]+)", str(error))
        if not match:
            raise
        code = next((code for code in errno.errorcode if os.strerror(code) == match[1]), errno.EIO)
        raise OSError(code, match[1], match[2]) from error


def check_written(path, records: int) -> None:
    """Flushes the ArrayRecord file at `path` to the disk. OSError if that fails, or the file does not have `records` records."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    reader = ArrayRecordReader(str(path))
    if not reader.ok() or reader.num_records() != records:
        raise OSError(errno.EIO, "not written completely: the disk may be full or failing", str(path))


def reason(error: OSError) -> str:
    """The system's error about a file, and the remedy."""
    text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{text}; free some space, or choose another config.data.data_dir, and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{text}; get access to it, or choose another folder"
    return text


def _builder(builder_cls, data_dir, fingerprint):
    folder = epath.Path(data_dir, builder_cls.name, fingerprint, str(builder_cls.VERSION))
    try:
        with _quiet():
            return builder_cls(
                data_dir=data_dir, config=tfds.core.BuilderConfig(name=fingerprint), file_format="array_record"
            )
    except (ParseError, ValueError, KeyError, TypeError) as error:
        if not (folder / "dataset_info.json").exists():
            raise
        raise UserError(f"config.data.data_dir: {folder} is damaged: delete it to prepare it again") from error


def folder_of(builder) -> str | None:
    """The `manual_dir` that a builder was last prepared from; None if there is none, or it is not recorded."""
    return (_source(epath.Path(builder.data_dir)) or {}).get("manual_dir")


def only_folder(builder_cls, data_dir) -> str | None:
    """The `manual_dir` of the build that `prepare` uses if it is given none; None if there is no build, or it is not recorded."""
    data_dir = _place(data_dir)
    only = _only_build(builder_cls, data_dir)
    return only and (_source(data_dir / builder_cls.name / only / str(builder_cls.VERSION)) or {}).get("manual_dir")


def has_build(builder_cls, data_dir) -> bool:
    """Whether `prepare` needs no `manual_dir`: the data set is generated or has a build. UserError: several folders have builds."""
    try:
        return builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS is None or bool(_only_build(builder_cls, _place(data_dir)))
    except OSError:  # `prepare` says why
        return True


def unprepared(builder_cls):
    """A builder without data, for its metadata; it writes nothing."""
    return _builder(builder_cls, tempfile.gettempdir(), "unprepared")


def _prepared(builder):
    files = [path for split in builder.info.splits.values() for path in split.filepaths]
    files.append(epath.Path(builder.data_dir) / "dataset_info.json")
    return all(epath.Path(path).exists() for path in files)  # TFDS's is_prepared warns if one does not exist


def _only_build(builder_cls, data_dir):
    """The fingerprint of the only build of a data set; of the last one if all were prepared from one folder; None if there is none."""
    name = builder_cls.name
    builds = {build: _source(build) for build in _builds(builder_cls, data_dir)}
    if not builds:
        return None
    folders = {source["manual_dir"] if source else str(build) for build, source in builds.items()}
    if len(folders) > 1:
        choices = ", ".join(
            f"{source['manual_dir'] if source else 'an unknown folder'} in {build.parent}"
            for build, source in builds.items()
        )
        raise UserError(
            f"config.data.manual_dir is not given, and several folders of {name} are prepared: give one, or delete the other builds: "
            f"{choices}"
        )
    return max(builds, key=lambda build: builds[build]["time"] if builds[build] else 0).parent.name


def _builds(builder_cls, data_dir):
    """The folders of the builds of a data set."""
    folder = epath.Path(data_dir, builder_cls.name)
    # Not by epath's glob, which does not escape the folder's name.
    builds = [build / str(builder_cls.VERSION) for build in folder.iterdir()] if folder.is_dir() else []
    return sorted(build for build in builds if (build / "dataset_info.json").exists())


def _source(build):
    """The content of source.json in a build's folder; None if it is damaged, or missing as in builds of earlier versions."""
    try:
        source = parse_json(read_bytes(build / "source.json"))
        return {"manual_dir": str(source["manual_dir"]), "time": float(source["time"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(build, manual_dir):
    # The time is stored in the file, so that a copy of data_dir keeps it.
    write_json(build / "source.json", {"manual_dir": os.path.abspath(manual_dir), "time": time.time()})


def _remember_again(builder, manual_dir):
    """Marks a build that is used again as the last one of its folder, for example after a change was undone."""
    build = epath.Path(builder.data_dir)
    source = _source(build)
    # A folder that was moved takes over the builds of its old path; a copy does not.
    if (
        manual_dir
        and not is_remote(build)
        and (
            source is None
            or source["manual_dir"] == os.path.abspath(manual_dir)
            or not os.path.exists(source["manual_dir"])
        )
    ):
        moved = source and source["manual_dir"] != os.path.abspath(manual_dir)
        with contextlib.suppress(OSError):  # reading the build is enough for this run
            for other in _builds(type(builder), build.parents[2]):
                if other != build and moved and (_source(other) or {}).get("manual_dir") == source["manual_dir"]:
                    _remember(other, manual_dir)
            _remember(build, manual_dir)  # after the others, so that it is the last


def _download(builder_cls, data_dir, allowed):
    """Downloads a data set and returns its `manual_dir`. UserError: it cannot be downloaded, or `allowed` is false."""
    missing = f"config.data.manual_dir is not given, and no {builder_cls.name} is prepared in {data_dir}"
    expected = f"{builder_cls.name} expects {builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS}"
    source = getattr(builder_cls, "downloads", None)
    if source is None:
        raise UserError(f"{missing}: {expected}")
    if not allowed:
        raise UserError(f"{missing}: --mode=prepare downloads it; for a manual download, {expected}")
    folder = data_dir / "downloads" / source.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(folder):
            return download.fetch(source, folder)
    except OSError as error:
        raise UserError(f"{missing}; downloading failed: {reason(error)}") from error
    except UserError as error:
        raise UserError(f"{missing}; downloading failed: {error}; for a manual download, {expected}") from error


def _check_manual_dir(builder_cls, manual_dir):
    expected = f"{builder_cls.name} expects {builder_cls.MANUAL_DOWNLOAD_INSTRUCTIONS}"
    if not manual_dir.exists():
        siblings = [path.name for path in manual_dir.parent.glob("*/")]
        near = difflib.get_close_matches(manual_dir.name, siblings, 1, NEAR)
        hint = f"did you mean {manual_dir.parent / near[0]}?" if near else expected
        raise UserError(f"config.data.manual_dir: {manual_dir} does not exist; {hint}")
    if not manual_dir.is_dir():
        raise UserError(f"config.data.manual_dir: {manual_dir} is not a folder; {expected}")
    names = sorted(path.name for path in manual_dir.iterdir())
    if not names:
        raise UserError(f"config.data.manual_dir: {manual_dir} is empty; {expected}")
    if all(name.endswith(ARCHIVES) for name in names):
        raise UserError(
            f"config.data.manual_dir: {manual_dir} has only archives, {', '.join(names[:3])}: unpack them; {expected}"
        )


def lock(folder):
    """Locks `folder`. If another process has the lock, says so and waits; see `locks.hold`."""

    def waiting():
        print(f"waiting for another process that prepares {folder}", file=sys.stderr, flush=True)

    return locks.hold(folder / ".lock", waiting)


@contextlib.contextmanager
def _quiet():
    """Keeps TFDS from printing to stdout, drawing progress bars and warning about unlisted configs."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
