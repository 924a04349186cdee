"""Executes the runs of a sweep, ordinary commands of `main.py` in their own folders, and reads their results.

The state of a run is in its folder, so a sweep can be stopped at any time and started again.
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
from ctxseg.training import early_stopping


class Run(NamedTuple):
    """A command of a sweep.

    Attributes:
        title: row, column and seed, in words.
        arguments: arguments of main.py.
        config: the config of these arguments.
        folder: work directory of the run.
        mode: `train` or `complexity`.
        start: the run that it starts from, or None.
    """

    title: str
    arguments: tuple[str, ...]
    config: Any
    folder: str
    mode: str
    start: "Run | None" = None


def unique(runs: Iterable[Run]) -> list[Run]:
    """The runs, each after the run that it starts from, without repetitions of those that several rows share."""
    return list({each.folder: each for run in runs for each in (run.start, run) if each}.values())


def commands(runs: Sequence[Run]) -> Iterator[str]:
    """The shell command of each run."""
    for run in unique(runs):
        yield f"{program.NAME} {shlex.join(run.arguments)}"


def read_scores(run: Run) -> dict[str, float] | None:
    """The scores of a run; None if it has not finished, or was evaluated with another config.

    Returns:
        `tables.SCORES`: `tables.SHARES` of its task in %, `minutes` of the training loop; for segmentation also `IoU of CLASS` of every
        class in %, and `classes`, the number of classes over which mIoU is averaged.

    Raises:
        UserError: a file of the run is damaged.
    """
    name = "results.json" if run.mode == "train" else "complexity.json"
    try:
        if run.mode == "train":
            results = record.read(run.folder)
            return _training(run, results) if results else None
        results = record.read_object(os.path.join(run.folder, name))
        return _complexity(run, results) if results else None
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as e:
        raise UserError(f"{os.path.join(run.folder, name)} is damaged ({e}); remove it") from e


# Fields of config.eval that do not affect the scores.
UNSCORED = ("samples", "crf_images", "max_pixels")


def _training(run, results):
    """The scores in a results.json, see `read_scores`."""
    config = run.config
    evaluated = flatten_as_json(results["eval"])
    changed = [k for k, v in flatten_as_json(config.eval).items() if evaluated.get(k, v) != v and k not in UNSCORED]
    if results["step"] != config.train.steps and not early_stopping.of_run(config, run.folder, results["step"]).stops:
        return None
    if changed:
        return None
    entries = [e for e in metrics_log.read_metrics(run.folder) if e["kind"] == "train"]
    steps = [b["step"] - a["step"] for a, b in itertools.pairwise([{"step": 0}, *entries])]
    if not all(e.get("images_per_second") for e in entries):
        path = os.path.join(run.folder, "metrics.jsonl")
        raise UserError(f"{path} is damaged: a line of kind train has no images_per_second; delete that line")
    seconds = sum(n * config.train.batch_size / e["images_per_second"] for n, e in zip(steps, entries, strict=True))
    scores = {name: results[key] for name in tables.SHARES if (key := name.replace(" ", "_")) in results}
    counts = {}
    if "mIoU" in scores:
        per_class = results["per_class_iou"]
        scores |= {tables.IOU + name: iou for name, iou in per_class.items()}
        counts["classes"] = sum(iou is not None for iou in per_class.values())
    return (
        {name: None if score is None else 100 * score for name, score in scores.items()}
        | counts
        | {
            "seconds per image": results.get("seconds_per_image"),
            "parameters, M": results["parameters"] / 1e6,
            "minutes": seconds / 60,
        }
    )


def _complexity(run, results):
    """The scores in a complexity.json, see `read_scores`."""
    config = run.config.complexity
    measured = results["input"], results["channels"], results["repeats"]
    if measured != (list(config.input), config.channels, config.repeats):
        return None
    rows = {row["context"]: row for row in results["rows"]}
    if list(rows) != list(config.contexts):
        return None
    (row,) = rows.values()
    return {
        "parameters, M": row["parameters"] / 1e6,
        "multiply-adds, G": row["multiply_adds"] / 1e9,
        "milliseconds": row["milliseconds"],
    }


def execute(runs: Sequence[Run], command: Sequence[str], jobs: int = 1) -> dict[str, str]:
    """Executes the unfinished runs.

    The output of a run goes to log.txt in its folder. A run that differs from a finished one only in its evaluation starts from a copy of
    it. If several sweeps use the same folder, one executes a run and the others wait for it.

    Args:
        runs: the runs, in the order in which they are started.
        command: the command that starts main.py.
        jobs: number of runs at the same time; the CPU cores are divided among them.

    Returns:
        {folder: error message} of the failed runs.

    Raises:
        UserError: interrupted; active runs have saved their state.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; expected at least 1")
    # Runs that differ only in their evaluation are executed one after the other, and so are runs that start from the same run.
    groups: dict[str, list[Run]] = {}
    for run in unique(runs):
        groups.setdefault(_training_config(run.start or run), []).append(run)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for i in range(jobs):
        shares.put(cores[i::jobs] if len(cores) >= jobs > 1 else [])
    total, began, done = sum(map(len, groups.values())), time.monotonic(), itertools.count(1)
    stopping, failed = threading.Event(), {}

    def execute_group(group):
        trained: dict[str, str] = {}  # {config of the training: folder of a finished run}
        share = shares.get()
        try:
            for run in group:
                if stopping.is_set():
                    return
                fault, outcome = None, "finished before"
                try:
                    if run.start and run.start.folder in failed:
                        fault = f"the run that it starts from failed: {run.start.title}"
                    elif read_scores(run) is None:
                        fault = _execute(run, command, share, trained.get(_training_config(run)), stopping)
                        outcome = "" if fault or stopping.is_set() else _brief(read_scores(run))
                except (UserError, OSError) as e:
                    fault = f"{e.filename}: {e.strerror}" if isinstance(e, OSError) and e.filename else str(e)
                if stopping.is_set():
                    return
                if fault:
                    outcome = f"failed: {fault}"
                    failed[run.folder] = fault
                elif run.mode == "train":
                    trained.setdefault(_training_config(run), run.folder)
                say(f"[{next(done)}/{total}] {duration(time.monotonic() - began)}  {run.title}: {outcome}")
        finally:
            shares.put(share)

    with _interruptible(stopping), ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(execute_group, group) for group in groups.values()]
        try:
            for future in futures:
                future.result()
        except KeyboardInterrupt:
            raise UserError("interrupted; finished runs are kept: run the same command to continue") from None
        finally:
            stopping.set()  # stops the others if one raised
    return failed


def _training_config(run):
    """The fields of the config on which the weights of a run depend, as JSON."""
    return json.dumps(
        {k: v for k, v in flatten_as_json(run.config).items() if not k.startswith("eval.")}, sort_keys=True
    )


def _execute(run, command, cores, trained, stopping):
    """Executes a run in a subprocess. Returns an error message, or None."""
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(
                locks.hold(
                    os.path.join(run.folder, ".lock"),
                    lambda: say(f"{run.title}: waiting for another process that uses {run.folder}"),
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
                env=os.environ | {workdir.LOCK: os.path.abspath(run.folder)},
                # If this process is killed, the run keeps the lock, and the next sweep waits for it.
                pass_fds=lock,
                # The run gets Ctrl-C only from below, once.
                start_new_session=True,
            )
            if cores:
                os.sched_setaffinity(process.pid, cores)  # before JAX starts its threads
            signalled = False
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                if stopping.is_set() and not signalled:
                    signalled = True
                    process.send_signal(signal.SIGINT)
    if process.returncode == 0:
        return None
    with open(os.path.join(run.folder, "log.txt"), errors="replace") as log:
        lines = [line.strip() for line in log if line.strip()]
    error = lines[-1].removeprefix("error: ") if lines else f"exit status {process.returncode}"
    return f"{error} ({os.path.join(run.folder, 'log.txt')})"


def _copy(source, target):
    """Copies the folder of a finished run without its results."""
    partial = f"{target}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(
        source, partial, ignore=shutil.ignore_patterns(".lock", "log.txt", "*.npz", "results.json", "*.html")
    )
    # Checkpoints are moved last, since they mark the run as trained.
    for name in sorted(os.listdir(partial), key=lambda name: name == "checkpoints"):
        os.replace(os.path.join(partial, name), os.path.join(target, name))
    os.rmdir(partial)


@contextlib.contextmanager
def _interruptible(stopping):
    """Makes SIGTERM and SIGHUP act as SIGINT. Signals after the first are ignored, while the active runs save their state."""

    def interrupt(*_):
        if not stopping.is_set():
            stopping.set()
            raise KeyboardInterrupt

    previous = {s: signal.signal(s, interrupt) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _brief(scores):
    """The first two scores of a run, in words."""
    return "  ".join(f"{name} {tables.number(value)}" for name, value in list((scores or {}).items())[:2])


def say(line):
    """Prints a line on stderr."""
    print(line, file=sys.stderr, flush=True)
