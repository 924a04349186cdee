"""Interrupts `main.py` at times spread over its first 40 seconds, in four modes, and counts how it ends.

python benchmarks/stops.py [train evaluate predict sweep] --moments=20 --first=0.5 --last=40

Each mode is one command, run again in the same folder at every time: early times fall into imports and compilation, late ones also into
resumed work. A finished result is removed first. The signals alternate: SIGINT, SIGTERM, and SIGINT to the process group, as from a
terminal. An interruption passes if the process has finished with status 0, or ends with status 2 and a single error line, which reports
the interruption; no process is left, and every file with its final name is readable. Afterwards the same command must finish.
`slowest`: seconds from a signal to status 2.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
MODES = ("train", "evaluate", "predict", "sweep")
# Seconds after a signal within which a process must end.
LIMIT = 60
CRASHES = ("Traceback", "Fatal Python error", "terminate called", "Exception ignored")
# Widths of the images to predict: 100 sizes, each compiled.
WIDTHS = range(64, 164)
# How a process is interrupted: a name, the signal, and whether the process group gets it.
WAYS = (("SIGINT", signal.SIGINT, False), ("SIGTERM", signal.SIGTERM, False), ("Ctrl-C", signal.SIGINT, True))


def command(mode: str, folder: Path) -> list[str]:
    """The arguments of main.py for a command that takes more than 40 s on two idle cores."""
    fcn, run = "--config=configs/fcn.py", f"--workdir={folder / 'run'}"
    return {
        "train": [fcn, "--config.train.steps=600", f"--workdir={target(mode, folder)}"],
        "evaluate": ["--mode=evaluate", run, "--config.eval.scales=0.5,0.75,1,1.25,1.5,1.75,2", "--config.eval.flip"],
        "predict": [
            "--mode=predict", run, f"--input={folder / 'images'}", f"--output={target(mode, folder)}",
            "--config.eval.shapes=exact",
        ],
        "sweep": [
            fcn, "--mode=sweep", "--sweep=model.context.name=none,ppm", "--jobs=2", "--config.train.steps=400",
            f"--workdir={target(mode, folder)}",
        ],
    }[mode]  # fmt: skip


def target(mode: str, folder: Path) -> Path:
    """The folder that the command of a mode writes to."""
    return folder / ("run" if mode == "evaluate" else mode)


def moments(count: int, first: float, last: float) -> list[float]:
    """`count` times, evenly spaced from `first` to `last`."""
    return [float(t) for t in np.linspace(first, last, count)]


def stop(arguments: list[str], log: Path, after: float, number: int, group: bool) -> tuple[int | None, float]:
    """Starts main.py and signals it after `after` seconds. Returns its exit status, None if it does not end, and the seconds it took."""
    with open(log, "w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "main.py", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
    try:
        return process.wait(after), 0.0
    except subprocess.TimeoutExpired:
        (os.killpg if group else os.kill)(process.pid, number)
    began = time.monotonic()
    try:
        return process.wait(LIMIT), time.monotonic() - began
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None, float(LIMIT)


def fault(status: int | None, stderr: str) -> str | None:
    """The fault in how a process ended; None if it finished, or ended as an interrupted process should."""
    lines = stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    if status is None:
        return f"did not end within {LIMIT} s"
    if status not in (0, 2):
        return f"status {status}: {lines[-1] if lines else 'nothing on stderr'}"
    if crashes := [line for line in lines if any(crash in line for crash in CRASHES)]:
        return f"status {status}, but {crashes[0]}"
    if status == 0:
        return f"status 0, but {errors[0]}" if errors else None
    if len(errors) != 1 or lines[-1] != errors[0] or not errors[0].startswith("error: interrupted"):
        return f"status 2, but the errors are {errors}, and the last line is {lines[-1] if lines else 'none'}"
    return None


def unreadable(folder: Path) -> list[str]:
    """A message for each file below `folder` that has its final name and is incomplete."""
    messages = []
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") or "tmp" in part for part in path.relative_to(folder).parts):
            continue  # a file that is being written
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix in (".png", ".jpg"):
                with Image.open(path) as image:
                    image.load()
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    for name in arrays:
                        arrays[name]
            elif path.suffix == ".html" and "</html>" not in path.read_text():
                raise ValueError("it is incomplete")
        except Exception as e:  # Pillow and NumPy raise many kinds for damaged files
            messages.append(f"{path} cannot be read: {e}")
    return messages


def running_processes(folder: Path) -> dict[int, str]:
    """The processes of main.py that work below `folder`: {id: command}."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True)
    processes = {}
    for pid, state, args in (
        line.split(None, 2) for line in listed.stdout.splitlines() if len(line.split(None, 2)) == 3
    ):
        if "main.py" in args and f"{folder}{os.sep}" in args and not state.startswith("Z"):
            processes[int(pid)] = args
    return processes


def run_to_end(arguments: list[str], task: str) -> None:
    """Runs main.py to its end; exits if it fails."""
    done = subprocess.run([sys.executable, "main.py", *arguments], capture_output=True, text=True, cwd=ROOT)
    if wrong := fault(done.returncode, done.stderr) or (done.returncode and done.stderr.splitlines()[-1]):
        sys.exit(f"error: {task}: {wrong}")


def prepare(folder: Path, modes: list[str]) -> None:
    """Creates the inputs of the commands: the data set, and for evaluation and prediction a run and images."""
    run_to_end(["--config=configs/fcn.py", "--mode=prepare"], "preparing the data set")
    if {"evaluate", "predict"} & set(modes):
        run = ["--config=configs/fcn.py", "--config.train.steps=2", f"--workdir={folder / 'run'}"]
        run_to_end(run, "training a run to evaluate")
    (folder / "images").mkdir(parents=True)
    for width in WIDTHS:
        noise = np.random.default_rng(width).integers(0, 256, (96, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{width}.png")


def measure(mode: str, folder: Path, times: list[float]) -> dict[str, str]:
    """The table row of a mode."""
    counts, slowest, finished = {"status 2": 0, "finished": 0, "other": 0}, 0.0, False
    log = folder / f"{mode}.log"
    for index, after in enumerate(times):
        if finished and mode != "evaluate":
            shutil.rmtree(target(mode, folder), ignore_errors=True)
        name, number, group = WAYS[index % len(WAYS)]
        status, seconds = stop(command(mode, folder), log, after, number, group)
        leftover, finished = running_processes(folder), status == 0
        for pid in leftover:
            os.kill(pid, signal.SIGKILL)
        stderr = log.read_text(errors="replace")
        wrong = [fault(status, stderr), *(f"still running: {args}" for args in leftover.values())]
        wrong = [*filter(None, wrong), *unreadable(target(mode, folder))]
        kind = "other" if wrong else "finished" if finished else "status 2"
        counts[kind] += 1
        slowest = max(slowest, seconds if kind == "status 2" else 0.0)
        last = " / ".join(stderr.splitlines()[-2:])  # the line before the error shows the progress
        outcome = "; ".join(wrong) or f"{kind}: {last}"
        print(f"{mode} {name} after {after:.1f} s, {seconds:.1f} s: {outcome}", file=sys.stderr, flush=True)
        if wrong:
            shutil.copy(log, folder / f"{mode}-{index}.log")
    done = subprocess.run([sys.executable, "main.py", *command(mode, folder)], capture_output=True, text=True, cwd=ROOT)
    ended = "yes" if done.returncode == 0 and not unreadable(target(mode, folder)) else "no"
    if ended == "no":
        print(f"{mode}, final run: status {done.returncode}: {done.stderr}", file=sys.stderr, flush=True)
    row = {"mode": mode, "moments": str(len(times))} | {kind: str(n) for kind, n in counts.items()}
    return row | {"slowest": f"{slowest:.1f} s", "completed afterwards": ended}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modes", nargs="*", default=MODES, help=f"any of {', '.join(MODES)}; default: all")
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--first", type=float, default=0.5, help="seconds after the start")
    parser.add_argument("--last", type=float, default=40.0)
    parser.add_argument("--runs", default=str(ROOT / "runs" / "stops"), help="folder of all outputs, emptied first")
    args = parser.parse_args()
    if other := set(args.modes) - set(MODES):
        parser.error(f"there is no mode {other.pop()}; expected any of {', '.join(MODES)}")
    # A background process of a shell ignores SIGINT, and its children would inherit that; they do not inherit a handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(os.path.abspath(args.runs))
    shutil.rmtree(folder, ignore_errors=True)
    prepare(folder, args.modes)
    rows = [measure(mode, folder, moments(args.moments, args.first, args.last)) for mode in args.modes]
    print("|", " | ".join(rows[0]), "|")
    print("|---" * len(rows[0]) + "|")
    for row in rows:
        print("|", " | ".join(row.values()), "|")
    sys.exit(any(row["other"] != "0" or row["completed afterwards"] == "no" for row in rows))


if __name__ == "__main__":
    main()
