"""Loading ResNet-101 from a file of `torch.save`: this project against PyTorch, alternately, in one run.

python benchmarks/load_weights.py --torch=PYTHON [--processes=3] [--rounds=5] [--stream] [--threads=N]

PYTHON is the interpreter of an environment with torch and torchvision. It makes the file, random weights of torchvision's `resnet101`,
in the zip format or with `--stream` in the older one. Each side has processes of its own, which import and create their network before
they are timed:

- ours: `load_weights` of the file into the variables of an FCN on `resnet101`;
- PyTorch: `torch.load` and `load_state_dict`, in its default number of threads, or in N.

A process loads the file several times. Printed for both, of its first time and of the later ones: the median time; the median processor
time, which other programs disturb less; and of the first time, how much the peak of resident memory exceeds the memory before it, as a
multiple of the file's size. Ratios of times are medians of the ratios of adjacent pairs. Linux only.
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


def compare(python, processes, rounds, stream, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "resnet101.pth")
        script = [os.path.abspath(__file__), path, f"--threads={threads}", *["--stream"] * stream]
        subprocess.run([python, *script, "--side=save"], check=True)
        size = os.path.getsize(path)
        commands = [
            [program, *script, f"--side={side}"] for program, side in zip((sys.executable, python), SIDES, strict=True)
        ]
        pairs = [pair for _ in range(processes) for pair in alternate(commands, rounds)]
    print(f"{size / 1e6:.1f} MB, {'older stream' if stream else 'zip'} format")
    for name, chosen in (("first", pairs[::rounds]), ("later", [p for i, p in enumerate(pairs) if i % rounds])):
        for side, values in zip(SIDES, zip(*chosen, strict=True), strict=True):
            seconds, processor, memory = (statistics.median(column) for column in zip(*values, strict=True))
            extra = f", memory {memory / size:.2f} × the file" if name == "first" else ""
            print(f"{name}  {side:8}{seconds:.3f} s, processor {processor:.3f} s{extra}")
        time, processor = (statistics.median(mine[i] / other[i] for mine, other in chosen) for i in (0, 1))
        print(f"{name}  ours / PyTorch: time {time:.2f}, processor {processor:.2f}")


def alternate(commands, rounds):
    """Starts a process for each of the two commands and lets them load in turn: a pair of their answers for every round."""
    processes = [subprocess.Popen(c, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for c in commands]
    try:
        for process in processes:
            json.loads(process.stdout.readline())
        for i in range(rounds):
            pair = [None, None]
            for j in (0, 1) if i % 2 else (1, 0):
                print(file=processes[j].stdin, flush=True)
                pair[j] = json.loads(processes[j].stdout.readline())
            yield pair
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="PYTHON", help="interpreter of an environment with torch and torchvision")
    parser.add_argument("--processes", type=int, default=3, help="of each side, one after the other")
    parser.add_argument("--rounds", type=int, default=5, help="of each process")
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
        compare(options.torch, options.processes, options.rounds, options.stream, options.threads)
    else:
        parser.error("--torch is missing")
