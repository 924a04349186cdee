"""Seconds of the fully connected CRF: 10 iterations, 21 classes, photographs of 375×500, on the first device.

python benchmarks/crf.py

The median of 5 runs after compilation; the time includes building the lattice. The probabilities are noise, as the time does not depend
on them. It depends on the image, which determines the number of lattice vertices for σ_αxy = 67 and σ_β = 4.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
import skimage.data
from skimage.transform import resize

from ctxseg.inference import crf

SIZE, CLASSES = (375, 500), 21


def main():
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), {CLASSES} classes, {SIZE[0]}×{SIZE[1]}, 10 iterations")
    probabilities = np.random.default_rng(0).dirichlet(np.ones(CLASSES), SIZE).astype(np.float32)[None]
    for name in ("coffee", "astronaut", "chelsea"):
        image = resize(getattr(skimage.data, name)(), SIZE, anti_aliasing=True, preserve_range=True)
        image = jax.device_put(image.round().astype(np.uint8)[None])
        wall, busy = [], []
        for _ in range(6):
            start, start_busy = time.perf_counter(), time.process_time()
            crf.mean_field(probabilities, image).block_until_ready()
            wall.append(time.perf_counter() - start)
            busy.append(time.process_time() - start_busy)
        (_, *wall), (_, *busy) = wall, busy  # the first compiles
        median, cores = statistics.median(wall), statistics.median(busy)
        print(f"{name}: {median:.2f} s ({min(wall):.2f} … {max(wall):.2f}), {cores:.2f} s of CPU time")


if __name__ == "__main__":
    main()
