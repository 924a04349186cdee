"""Deformable convolution on the CPU: ctxseg's against torchvision's `deform_conv2d`, forward, and with the gradients of all its arguments.

python benchmarks/deformable.py --torch=PYTHON [--rounds=5] [--scale=2]

PYTHON is the interpreter of an environment with the packages of `benchmarks/requirements-published.txt`. A map [1,64,64,256] is convolved
to 256 channels by a 3×3 kernel with 4 groups of offsets. The offsets are given: normally distributed, with standard deviation `scale` in
cells. Both compute in float32 on one thread per core, each in its own layout of maps, in processes of their own that take turns. Both
compute the same: their values and gradients are compared first. The figures are medians, and the ratio is the median of the ratios of
adjacent pairs: more than 1 if ctxseg is faster.
"""

import argparse
import os
import sys
from pathlib import Path

import alternating
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIZE, CHANNELS, GROUPS = 64, 256, 4
KINDS = ("forward", "both")
CHECKS = ("value", "gradient of the map", "gradient of the offsets", "gradient of the kernel")


def data(scale: float) -> tuple:
    """A map, offsets, a kernel, and the gradient of the result; and an array like each of the four results, to compare them by."""
    rng = np.random.default_rng(0)
    shapes = (
        (1, SIZE, SIZE, CHANNELS),
        (1, SIZE, SIZE, GROUPS, 3, 3, 2),
        (3, 3, CHANNELS, CHANNELS),
        (1, SIZE, SIZE, CHANNELS),
    )
    x, offsets, kernel, dy = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    arrays = x, scale * offsets, kernel / 48, dy
    return arrays, [rng.normal(size=shapes[i]).astype(np.float32) for i in (3, 0, 1, 2)]


def serve(forward, both, probes) -> None:
    """`both` returns the value and the three gradients. Check i is the product of the i-th of them with its probe."""
    checks = {name: lambda i=i: float(np.vdot(both()[i], probes[i])) for i, name in enumerate(CHECKS)}
    alternating.serve({"forward": forward, "both": both} | checks)


def ours(scale: float) -> None:
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from ctxseg import cpu

    cpu.keep_freed_memory()
    import jax

    from ctxseg.models.deformable import deformable_convolve

    arrays, probes = data(scale)
    *inputs, dy = map(jax.numpy.asarray, arrays)

    @jax.jit
    def both(inputs, dy):
        y, backward = jax.vjp(deformable_convolve, *inputs)
        return y, *backward(dy)

    forward = jax.jit(deformable_convolve)
    serve(lambda: jax.block_until_ready(forward(*inputs)), lambda: jax.block_until_ready(both(inputs, dy)), probes)


def torchvision(scale: float) -> None:
    import torch
    from torchvision.ops import deform_conv2d

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    arrays, probes = data(scale)
    # Maps [B,C,h,w]; offsets [B,g·k·l·2,h,w]; kernels [O,C,k,l].
    to_theirs = ((0, 3, 1, 2), (0, 3, 4, 5, 6, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    x, offsets, kernel, dy = (
        torch.from_numpy(np.ascontiguousarray(a.transpose(axes))) for a, axes in zip(arrays, to_theirs, strict=True)
    )
    offsets = offsets.reshape(1, -1, SIZE, SIZE)
    inputs = [a.requires_grad_() for a in (x, offsets, kernel)]
    probes = [p.transpose(axes).reshape(-1) for p, axes in zip(probes, (to_theirs[3], *to_theirs[:3]), strict=True)]

    def forward():
        with torch.no_grad():
            deform_conv2d(*inputs, padding=1)

    def both():
        y = deform_conv2d(*inputs, padding=1)
        return [a.detach().numpy() for a in (y, *torch.autograd.grad(y, inputs, dy))]

    serve(forward, both, probes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="interpreter of an environment with PyTorch and torchvision")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--side", choices=("ours", "torchvision"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return {"ours": ours, "torchvision": torchvision}[arguments.side](arguments.scale)
    if not arguments.torch:
        parser.error("--torch=PYTHON is missing")
    command = [__file__, f"--scale={arguments.scale}", "--side"]
    sides = [
        alternating.Side([python, *command, side])
        for python, side in ((sys.executable, "ours"), (arguments.torch, "torchvision"))
    ]
    for check in CHECKS:
        values = [side.ask(check)["value"] for side in sides]
        print(f"{check:24} {values[0]:12.3f} {values[1]:12.3f}", flush=True)
        if not np.isclose(*values, rtol=1e-3):
            sys.exit(f"the {check} differs")
    for kind in KINDS:
        for side in sides:
            side.ask(kind)
        pairs = [[side.ask(kind) for side in sides] for _ in range(arguments.rounds)]
        (a, b), (p, q) = ([alternating.median(pairs, i, key) for i in (0, 1)] for key in ("seconds", "processor"))
        times = f"ctxseg {a:.3f} s ({p:.3f} s of processor time)  torchvision {b:.3f} s ({q:.3f} s)"
        print(f"{kind:8} {times}  ratio {alternating.ratio(pairs):.2f}", flush=True)
    for side in sides:
        side.close()


if __name__ == "__main__":
    main()
