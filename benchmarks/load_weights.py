"""Loading ResNet-101 from a file of `torch.save`: this project against PyTorch, alternately, in one run.

python benchmarks/load_weights.py --torch=PYTHON [--rounds=9] [--stream] [--threads=N]

PYTHON is the interpreter of an environment with torch and torchvision. It makes the file, random weights of torchvision's `resnet101`,
in the zip format or with `--stream` in the older one. Each side has a process of its own, which imports and creates its network before it
is timed:

- ours: `load_weights` of the file into the variables of an FCN on `resnet101`;
- PyTorch: `torch.load` and `load_state_dict`, in its default number of threads, or in N.

Printed for both: the median time, the time of the first round, the same of processor time, which other processes disturb less, and how
much the peak of resident memory in the first round exceeds the memory before it, as a multiple of the file's size. Ratios of times are
medians over rounds. Linux only.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("ours", "PyTorch")


def ours(path):
    """A function that loads the file."""
    sys.path.insert(0, str(ROOT))
    import jax
    import jax.numpy as jnp

    import ctxseg
    from ctxseg.configs import fcn

    model = ctxseg.create_model(fcn.get_config("voc2012").model, 21)
    shapes = jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), jnp.zeros((1, 64, 64, 3), jnp.uint8)))
    variables = jax.block_until_ready(jax.tree.map(lambda x: jnp.full(x.shape, 1, x.dtype), shapes))
    load_weights = ctxseg.load_weights  # imported now

    def load():
        result, _ = load_weights(model, variables, path)
        jax.block_until_ready(result)

    return load


def pytorch(path, threads):
    """A function that loads the file."""
    import torch
    import torchvision

    if threads:
        torch.set_num_threads(threads)
    model = torchvision.models.resnet101()
    return lambda: model.load_state_dict(torch.load(path))


def save(path, stream):
    """Writes the file."""
    import torch
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet101().state_dict(), path, _use_new_zipfile_serialization=not stream)


def memory(name):
    """A field of /proc/self/status, in bytes."""
    return 1024 * int(re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())[1])


def serve(load):
    """Loads once for every line of the standard input; answers each with [seconds, processor seconds, bytes of memory]."""
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, processor, start = memory("VmRSS"), time.process_time(), time.perf_counter()
        load()
        seconds = [time.perf_counter() - start, time.process_time() - processor]
        print(json.dumps([*seconds, memory("VmHWM") - before]), flush=True)


def compare(python, rounds, stream, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "resnet101.pth")
        script = [os.path.abspath(__file__), path, f"--threads={threads}", *["--stream"] * stream]
        subprocess.run([python, *script, "--side=save"], check=True)
        size = os.path.getsize(path)
        processes = [
            subprocess.Popen([program, *script, f"--side={side}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for program, side in zip((sys.executable, python), SIDES, strict=True)
        ]  # fmt: skip
        try:
            for process in processes:
                json.loads(process.stdout.readline())
            results = []
            for i in range(rounds):
                results.append([None, None])
                for j in (0, 1) if i % 2 else (1, 0):
                    print(file=processes[j].stdin, flush=True)
                    results[-1][j] = json.loads(processes[j].stdout.readline())
        finally:
            for process in processes:
                process.kill()
    print(f"{size / 1e6:.1f} MB, {'older stream' if stream else 'zip'} format")
    for side, values in zip(SIDES, zip(*results, strict=True), strict=True):
        print(
            f"{side:8}{_times([v[0] for v in values])}; processor {_times([v[1] for v in values])}; "
            f"memory {values[0][2] / size:.2f} × the file"
        )
    for i, name in enumerate(("time", "processor time")):
        ratios = [mine[i] / other[i] for mine, other in results]
        print(f"{name}, ours / PyTorch: {statistics.median(ratios):.2f}, in the first round {ratios[0]:.2f}")


def _times(seconds):
    return f"median {statistics.median(seconds):.3f} s, first {seconds[0]:.3f} s"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", help="interpreter of an environment with torch and torchvision")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0, help="of PyTorch")
    parser.add_argument("--stream", action="store_true", help="the older format")
    parser.add_argument("--side", choices=("save", *SIDES), help=argparse.SUPPRESS)  # of a process that this one starts
    parser.add_argument("path", nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side == "save":
        save(options.path, options.stream)
    elif options.side:
        serve(ours(options.path) if options.side == "ours" else pytorch(options.path, options.threads))
    elif options.torch:
        compare(options.torch, options.rounds, options.stream, options.threads)
    else:
        parser.error("--torch is missing")
