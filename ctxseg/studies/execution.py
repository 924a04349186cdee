"""The runs of a sweep: ordinary commands of `main.py`, each made in a folder of its own, found finished, and read.

What is known of a run is in its folder, so a sweep can be stopped at any time and started again.
"""

import contextlib
import itertools
import json
import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from filelock import Timeout

from ctxseg import locks, program
from ctxseg.errors import UserError
from ctxseg.progress import duration
from ctxseg.runs import metrics_log, record, workdir
from ctxseg.settings.fields import flatten_as_json
from ctxseg.studies import tables


class Run(NamedTuple):
    """A command of a sweep.

    Attributes:
        title: row, column and seed, in words.
        arguments: of main.py.
        config: that they resolve to.
        folder: its work directory.
        mode: `train` or `complexity`.
    """

    title: str
    arguments: tuple[str, ...]
    config: Any
    folder: str
    mode: str


def unique(runs: Iterable[Run]) -> list[Run]:
    """Without those that several rows have in common."""
    return list({run.folder: run for run in runs}.values())


def commands(runs: Sequence[Run]) -> Iterator[str]:
    """What makes each of the runs, to be given to a shell."""
    for run in unique(runs):
        yield f"{program.NAME} {shlex.join(run.arguments)}"


def read_scores(run: Run) -> dict[str, float] | None:
    """What a finished run gave; None if it has not finished, or with another config than the present one.

    Returns:
        `tables.SCORES`: `mIoU`, `pixel accuracy` and `mean accuracy` in %, `minutes` those in the training loop; of `train` also
        `IoU of CLASS` of every class in %, and `classes`, how many the mean of mIoU is over.
    """
    name = "results.json" if run.mode == "train" else "complexity.json"
    try:
        if run.mode == "train":
            found = record.read(run.folder)
            return _training(run, found) if found else None
        found = record.read_object(os.path.join(run.folder, name))
        return _complexity(run, found) if found else None
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as e:
        raise UserError(f"{os.path.join(run.folder, name)} is damaged ({e}): remove it") from e


# Fields of config.eval that change no score.
UNSCORED = ("samples", "crf_images", "max_pixels")


def _training(run, found):
    config = run.config
    tested = flatten_as_json(found["eval"])
    other = [k for k, v in flatten_as_json(config.eval).items() if tested.get(k, v) != v and k not in UNSCORED]
    if found["step"] != config.train.steps or other:
        return None
    entries = [e for e in metrics_log.read_metrics(run.folder) if e["kind"] == "train"]
    steps = [b["step"] - a["step"] for a, b in itertools.pairwise([{"step": 0}, *entries])]
    if not all(e.get("images_per_second") for e in entries):
        where = os.path.join(run.folder, "metrics.jsonl")
        raise UserError(f"{where} is damaged: a line of training has no images_per_second: delete that line")
    seconds = sum(n * config.train.batch_size / e["images_per_second"] for n, e in zip(steps, entries, strict=True))
    scores = {name: found[name.replace(" ", "_")] for name in ("mIoU", "pixel accuracy", "mean accuracy")}
    scores |= {tables.IOU + name: iou for name, iou in found["per_class_iou"].items()}
    return {name: None if score is None else 100 * score for name, score in scores.items()} | {
        "classes": sum(iou is not None for iou in found["per_class_iou"].values()),
        "seconds per image": found.get("seconds_per_image"),
        "parameters, M": found["parameters"] / 1e6,
        "minutes": seconds / 60,
    }


def _complexity(run, found):
    config = run.config.complexity
    if (found["input"], found["channels"], found["repeats"]) != (list(config.input), config.channels, config.repeats):
        return None
    rows = {row["context"]: row for row in found["rows"]}
    if list(rows) != list(config.contexts):
        return None
    (row,) = rows.values()
    return {
        "parameters, M": row["parameters"] / 1e6,
        "multiply-adds, G": row["multiply_adds"] / 1e9,
        "milliseconds": row["milliseconds"],
    }


def execute(runs: Sequence[Run], command: Sequence[str], compiled: str, jobs: int = 1) -> dict[str, str]:
    """Makes the runs that are not finished.

    What a run prints goes to log.txt in its folder. A run that trains as a finished one and is only evaluated otherwise starts from a
    copy of it. Of several sweeps over one folder, one makes a run and the others wait for it.

    Args:
        runs: in the order in which they are begun.
        command: that starts main.py.
        compiled: folder for compiled programs, which the seeds of a row share.
        jobs: runs at a time, each on its share of the CPU's cores.

    Returns:
        {folder: the line in which a run says what is wrong} of those that failed.

    Raises:
        UserError: interrupted; the runs at work have saved where they are.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}, but must be at least 1")
    groups: dict[str, list[Run]] = {}  # what differs in its evaluation alone is made one after the other
    for run in unique(runs):
        groups.setdefault(_trained(run), []).append(run)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for i in range(jobs):
        shares.put(cores[i::jobs] if len(cores) >= jobs > 1 else [])
    total, began, done = sum(map(len, groups.values())), time.monotonic(), itertools.count(1)
    stopping, failed = threading.Event(), {}

    def make(group):
        trained, share = None, shares.get()
        try:
            for run in group:
                if stopping.is_set():
                    return
                fault, said = None, "finished before"
                try:
                    if read_scores(run) is None:
                        fault = _make(run, command, compiled, share, trained, stopping)
                        said = "" if fault or stopping.is_set() else _brief(read_scores(run))
                except (UserError, OSError) as e:
                    fault = f"{e.filename}: {e.strerror}" if isinstance(e, OSError) and e.filename else str(e)
                if stopping.is_set():
                    return
                if fault:
                    said = f"failed: {fault}"
                    failed[run.folder] = fault
                else:
                    trained = trained or (run.folder if run.mode == "train" else None)
                say(f"[{next(done)}/{total}] {duration(time.monotonic() - began)}  {run.title}: {said}")
        finally:
            shares.put(share)

    with _interruptible(stopping), ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(make, group) for group in groups.values()]
        try:
            for future in futures:
                future.result()
        except KeyboardInterrupt:
            raise UserError("interrupted; what is finished is kept: the same command continues") from None
        finally:
            stopping.set()  # the others, should one have raised
    return failed


def _trained(run):
    """What a run's weights depend on."""
    return json.dumps(
        {k: v for k, v in flatten_as_json(run.config).items() if not k.startswith("eval.")}, sort_keys=True
    )


def _make(run, command, compiled, cores, trained, stopping):
    """Makes a run in a process of its own. Returns what is wrong, in a line, or None."""
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(
                locks.hold(
                    os.path.join(run.folder, ".lock"),
                    lambda: say(f"{run.title}: another process is at work in {run.folder}: waiting for it"),
                    stopping.is_set,
                )
            )
        except Timeout:
            return None
        if read_scores(run) is not None:
            return None
        if trained and not os.path.exists(os.path.join(run.folder, "checkpoints")):
            _copy(trained, run.folder)
        with open(os.path.join(run.folder, "log.txt"), "a") as log:
            process = subprocess.Popen(
                [*command, *run.arguments],
                stdout=log,
                stderr=log,
                env={"JAX_COMPILATION_CACHE_DIR": os.path.abspath(compiled)}
                | os.environ
                | {workdir.LOCK: os.path.abspath(run.folder)},
                pass_fds=lock,  # should this process be killed, the next sweep waits for what it left behind
                start_new_session=True,  # Ctrl-C is passed on below, once
            )
            if cores:
                os.sched_setaffinity(process.pid, cores)  # long before JAX makes its threads
            asked = False
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                if stopping.is_set() and not asked:
                    asked = True
                    process.send_signal(signal.SIGINT)
    if process.returncode == 0:
        return None
    with open(os.path.join(run.folder, "log.txt"), errors="replace") as log:
        lines = [line.strip() for line in log if line.strip()]
    said = lines[-1].removeprefix("error: ") if lines else f"exit status {process.returncode}"
    return f"{said} ({os.path.join(run.folder, 'log.txt')})"


def _copy(source, target):
    """A finished run's folder without its results."""
    partial = f"{target}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(
        source, partial, ignore=shutil.ignore_patterns(".lock", "log.txt", "*.npz", "results.json", "*.html")
    )
    for name in sorted(
        os.listdir(partial), key=lambda name: name == "checkpoints"
    ):  # last what says that it was trained
        os.replace(os.path.join(partial, name), os.path.join(target, name))
    os.rmdir(partial)


@contextlib.contextmanager
def _interruptible(stopping):
    """SIGTERM and SIGHUP act as SIGINT does; after the first, none does anything: the runs at work are saving."""

    def ask(*_):
        if not stopping.is_set():
            stopping.set()
            raise KeyboardInterrupt

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _brief(scores):
    """The first of a run's scores, in words."""
    return "  ".join(f"{name} {tables.number(value)}" for name, value in list((scores or {}).items())[:2])


def say(line):
    print(line, file=sys.stderr, flush=True)
