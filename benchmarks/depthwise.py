"""Depthwise convolutions on the CPU: ours against XLA's grouped convolution, forward and with both gradients.

python benchmarks/depthwise.py

The shapes are those of EfficientNet-Lite0 for 8 images of 176×240 at output stride 16. The two alternate within one process; the figures
are medians of the times, and the ratio is the median of the ratios of adjacent pairs.
"""

import argparse
import os
import statistics
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from ctxseg.models import convolution

SHAPES = (((8, 44, 60, 144), 3), ((8, 22, 30, 240), 5), ((8, 11, 15, 672), 5))


def xla(x, kernel):
    return convolution._plain(x, kernel, 1, 1, None, groups=x.shape[-1])


def forward(function, x, kernel, dy):
    return function(x, kernel)


def with_gradients(function, x, kernel, dy):
    return jax.vjp(function, x, kernel)[1](dy)


def seconds(function, arguments):
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def main(rounds: int) -> None:
    rng = np.random.default_rng(0)
    for shape, size in SHAPES:
        arguments = [rng.normal(size=s).astype(np.float32) for s in (shape, (size, size, 1, shape[-1]), shape)]
        for what in (forward, with_gradients):
            functions = [jax.jit(partial(what, f)) for f in (convolution.convolve_depthwise, xla)]
            for function in functions:
                seconds(function, arguments)
            pairs = [[seconds(function, arguments) for function in functions] for _ in range(rounds)]
            ours, theirs = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(b / a for a, b in pairs)
            print(
                f"{shape} {size}x{size} {what.__name__:14} ours {ours:6.1f} ms  XLA {theirs:6.1f} ms  XLA/ours {ratio:5.1f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    main(parser.parse_args().rounds)
