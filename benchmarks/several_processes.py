"""Runs of several processes on this machine, over its loopback address: are they equal to runs of one, and do they end and continue well?

python benchmarks/several_processes.py [equal kills signals faults speed] [--folder=DIR] [--kills=12]

equal: FCN, MCIBI (with a clustered memory) and MSCI; one process of four devices against two of two, in float32 and in float64, and the
    second one's run continued by one process of one device. --rate is the learning rate: at a high one, training is chaotic, and
    differences of rounding grow in 20 steps.
kills: SIGKILL to either process at random moments, and the same commands again until they finish, against an undisturbed run.
signals: SIGTERM to the second process alone, while it trains, compiles and evaluates; SIGSTOP; SIGINT.
faults: wrong coordinators, ports in use, equal indices, other configs, other data, folders that are not shared.
speed: images per second of one and of two processes with one device each, and of one process with both.

The network is small, and the data set is `scenes`. Each process uses the CPU.
"""

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from etils import epath
from orbax import checkpoint as ocp

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--config.data.crop=48,48", "--config.model.backbone.width=8", "--config.eval.batch_size=8"]
SYSTEMS = {
    "fcn": [],
    "mcibi": ["--config.model.memory.first=clustering", "--config.model.memory.clustering_batches=4"],
    "msci": ["--config.data.superpixels=30"],
}
# Replaces float32 by float64 in the whole program.
IN_FLOAT64 = "import jax.numpy; jax.numpy.float32 = jax.numpy.float64; import ctxseg.__main__ as m; m.main()"


def start(
    folder,
    index=0,
    count=1,
    port=0,
    devices=2,
    system="fcn",
    mode="train",
    extra=(),
    float64=False,
    environment=None,
    workdir=None,
):
    """Starts a process of a run in `workdir` (default: `folder`). Its output goes to folder.INDEX.log."""
    program = ["-c", IN_FLOAT64] if float64 else [str(ROOT / "main.py")]
    arguments = [
        f"--config=configs/{system}.py",
        f"--workdir={workdir or folder}",
        f"--mode={mode}",
        *(flag for flag in SMALL if flag.split("=")[0] not in {given.split("=")[0] for given in extra}),
        *SYSTEMS[system],
        *extra,
    ]
    if count > 1:
        arguments += [f"--coordinator=127.0.0.1:{port}", f"--process_count={count}", f"--process_id={index}"]
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    variables = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_ENABLE_X64": str(int(float64)), **(environment or {})}
    with open(f"{folder}.{index}.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, *program, *arguments], stdout=log, stderr=log, cwd=ROOT, env=os.environ | variables
        )  # fmt: skip


def run(folder, count=1, **options):
    """Runs all processes to their ends. Returns their exit statuses."""
    port = free_port()
    return [process.wait() for process in [start(folder, i, count, port, **options) for i in range(count)]]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def log_of(folder, index):
    """What a process printed, without Gloo's lines and the stack traces of a crash."""
    return Path(f"{folder}.{index}.log").read_text(errors="replace")


def last_line(folder, index):
    lines = log_of(folder, index).splitlines()
    return lines[-1] if lines else ""


def metrics(folder, kind="train"):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {entry["step"]: entry for entry in lines if entry["kind"] == kind}


def state(folder, step):
    """{name: array} of a checkpoint."""
    path, reader = epath.Path(folder).absolute() / "checkpoints" / str(step) / "state", ocp.StandardCheckpointer()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), reader.metadata(path).item_metadata.tree
    )
    leaves = jax.tree_util.tree_flatten_with_path(reader.restore(path, target))[0]
    return {jax.tree_util.keystr(keys): np.asarray(leaf) for keys, leaf in leaves}


def steps_saved(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit())


def equal(root, arguments):
    extra = [
        "--config.train.steps=20",
        "--config.train.checkpoint_every=10",
        "--config.train.keep=2",
        "--config.train.log_every=1",
        f"--config.optimizer.learning_rate={arguments.rate}",
    ]
    for system in SYSTEMS:
        for float64 in (False, True):
            name = f"{system}, {'float64' if float64 else 'float32'}"
            one, two = (root / f"{system}-{int(float64)}-{n}" for n in (1, 2))
            options = {"system": system, "float64": float64, "extra": extra}
            statuses = run(one, devices=4, **options) + run(two, count=2, devices=2, **options)
            if any(statuses):
                print(f"{name}: statuses {statuses}: {last_line(two, 0)}", flush=True)
                continue
            losses = [[metrics(folder)[step]["loss"] for step in range(1, 21)] for folder in (one, two)]
            relative = np.abs(np.subtract(*losses)) / losses[0]
            scores = [json.loads((folder / "results.json").read_text())["mIoU"] for folder in (one, two)]
            images = [np.load(folder / "images.npz", allow_pickle=False) for folder in (one, two)]
            listed = (images[0]["names"] == images[1]["names"]).all()
            print(
                f"{name}: loss of the first step differs by {relative[0]:.1e}, of 20 steps by at most {relative.max():.1e} (relative); "
                f"mIoU {100 * scores[0]:.4f} and {100 * scores[1]:.4f}; the same images: {listed}",
                flush=True,
            )
            if not float64:
                shutil.rmtree(two / "checkpoints" / "20")
                status = run(two, devices=1, system=system, extra=extra)
                resumed = "continuing from step 10" in log_of(two, 0)
                continued = [metrics(two)[step]["loss"] for step in range(11, 21)]
                relative = np.abs(np.subtract(continued, losses[0][10:])) / losses[0][10:]
                print(
                    f"{name}: continued from step 10 by one process of one device: {resumed}, status {status}, loss differs by at most "
                    f"{relative.max():.1e}; {last_line(two, 0)}",
                    flush=True,
                )


def kills(root, arguments):
    steps = 300
    extra = [f"--config.train.steps={steps}", "--config.train.checkpoint_every=10", "--config.train.eval_every=150"]
    options = {"count": 2, "devices": 2, "system": "mcibi", "extra": [*extra, "--config.train.log_every=10"]}
    undisturbed, killed = root / "undisturbed", root / "killed"
    began = time.monotonic()
    if any(run(undisturbed, **options)):
        sys.exit(f"the undisturbed run failed: {last_line(undisturbed, 0)}")
    whole = time.monotonic() - began
    expected, rng, done = state(undisturbed, steps), random.Random(0), 0

    def compare():
        arrays = state(killed, steps)
        same = arrays.keys() == expected.keys() and all(np.array_equal(arrays[name], expected[name]) for name in arrays)
        print(f"finished; its {len(arrays)} arrays equal those of the undisturbed run to the bit: {same}", flush=True)

    while done < arguments.kills:
        port, victim, after = free_port(), rng.randrange(2), rng.uniform(0.15, 0.7) * whole
        processes = [start(killed, i, port=port, **options) for i in range(2)]
        try:
            processes[victim].wait(after)
        except subprocess.TimeoutExpired:
            processes[victim].kill()
        else:
            processes[1 - victim].wait()
            compare()
            shutil.rmtree(killed)  # the next one starts from the beginning
            continue
        began = time.monotonic()
        status = processes[1 - victim].wait(120)
        processes[victim].wait()
        done += 1
        saved = steps_saved(killed) if (killed / "checkpoints").exists() else []
        print(
            f"kill {done}: process {victim} after {after:.1f} of {whole:.1f} s; the other ended {time.monotonic() - began:.1f} s later "
            f"with status {status}; saved {saved}: {last_line(killed, 1 - victim)}",
            flush=True,
        )
    print(f"statuses of the last start: {run(killed, **options)}", flush=True)
    compare()


def signals(root, _):
    extra = ["--config.train.steps=5000", "--config.train.checkpoint_every=5000", "--config.train.log_every=5"]
    cases = {
        "SIGTERM, training": (signal.SIGTERM, lambda folder: bool(metrics(folder)), []),
        "SIGTERM, compiling": (
            signal.SIGTERM,
            lambda folder: "compiling\n" in log_of(folder, 0).split("initial state")[-1],
            [],
        ),
        "SIGTERM, evaluating": (
            signal.SIGTERM,
            lambda folder: 10 in metrics(folder),  # the evaluation after this step comes next
            ["--config.train.eval_every=10"],
        ),
        "SIGINT, training": (signal.SIGINT, lambda folder: bool(metrics(folder)), []),
        "SIGSTOP, training": (signal.SIGSTOP, lambda folder: bool(metrics(folder)), ["--process_timeout=10"]),
    }
    for victim in (1, 0):
        for name, (number, reached, more) in cases.items():
            folder, port = root / f"{name.replace(', ', '-')}-{victim}", free_port()
            processes = [start(folder, i, 2, port, extra=[*extra, *more]) for i in range(2)]
            wait_for(lambda folder=folder, reached=reached: (folder / "metrics.jsonl").exists() and reached(folder))
            processes[victim].send_signal(number)
            began = time.monotonic()
            if number == signal.SIGSTOP:
                statuses = [processes[1 - victim].wait(120)]
                seconds = time.monotonic() - began
                processes[victim].send_signal(signal.SIGCONT)
                statuses.append(processes[victim].wait(120))
            else:
                statuses = [process.wait(300) for process in processes]
                seconds = time.monotonic() - began
            lines = [last_line(folder, i) for i in (1 - victim, victim)]
            saved = steps_saved(folder) if (folder / "checkpoints").exists() else []
            print(
                f"{name}, process {victim}: {seconds:.1f} s, statuses {statuses}, saved {saved}: {' | '.join(lines)}",
                flush=True,
            )


def wait_for(condition, limit=300):
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.1)
    raise TimeoutError


def faults(root, _):
    short = ["--config.train.steps=2", "--process_timeout=8"]

    def case(name, *processes, port=None):
        """Starts processes with these options of `start`, and prints how each ends."""
        port, started = port or free_port(), []
        for number, options in enumerate(processes):
            options = {"index": number, "count": 2, "extra": short, "folder": name} | options
            # The log of each has its number, as two may have one index.
            folder = root / f"{number}" / options.pop("folder").replace(" ", "-")
            folder.parent.mkdir(exist_ok=True)
            shared = root / folder.name
            started.append((start(folder, port=port, workdir=shared, **options), folder, options["index"]))
        print(f"{name}:")
        for process, folder, index in started:
            try:
                status = process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
                status = "still running"
            print(f"    process {index}: status {status}: {last_line(folder, index)}", flush=True)

    case("no process 0", {"index": 1})
    case("no process 1", {})
    nowhere = [*short, "--coordinator=nowhere.invalid:1", "--process_count=2", "--process_id=1"]
    case("a host that does not exist", {"count": 1, "extra": nowhere})
    with socket.create_server(("127.0.0.1", 0)) as server:
        case("a port in use", {}, {}, port=server.getsockname()[1])
    case("two processes 1 of 3", {"count": 3}, {"index": 1, "count": 3}, {"index": 1, "count": 3})
    case("two processes 0", {}, {"index": 0}, {"index": 1})
    case("another number of processes", {}, {"count": 3})
    case("another config", {}, {"extra": [*short, "--config.optimizer.learning_rate=0.5"]})
    case("another folder", {"folder": "place0"}, {"folder": "place1"})
    case("other data", {}, {"environment": {"HOME": str(other_scenes(root))}})


def other_scenes(root):
    """A home folder with prepared `scenes` whose fingerprint differs."""
    home = root / "home"
    prepared = Path.home() / ".cache" / "ctxseg" / "scenes"
    shutil.copytree(prepared, home / ".cache" / "ctxseg" / "scenes")
    for path in home.rglob("metadata.json"):
        contents = json.loads(path.read_text())
        path.write_text(json.dumps(contents | {"fingerprint": "0123456789ab"}))
    return home


def speed(root, _):
    extra = ["--config.train.steps=60", "--config.train.log_every=10", "--config.eval.samples=0"]
    for name, options in {
        "one process, one device": {"devices": 1},
        "one process, two devices": {"devices": 2},
        "two processes, one device each": {"count": 2, "devices": 1},
    }.items():
        folder = root / name.replace(" ", "-").replace(",", "")
        statuses = run(
            folder, extra=[*extra, "--config.data.crop=96,96", "--config.model.backbone.width=32"], **options
        )
        speeds = [entry["images_per_second"] for step, entry in metrics(folder).items() if step > 10]
        print(f"{name}: statuses {statuses}, {np.median(speeds):.1f} images/s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    checks = {"equal": equal, "kills": kills, "signals": signals, "faults": faults, "speed": speed}
    parser.add_argument("checks", nargs="*", choices=[*checks, []], default=[*checks])
    parser.add_argument("--folder", type=Path, help="where the runs are written, empty; default: a temporary folder")
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--kills", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.checks or checks:
            root = (arguments.folder or Path(temporary)) / name
            root.mkdir(parents=True)
            print(f"{name}:", flush=True)
            checks[name](root, arguments)


if __name__ == "__main__":
    main()
