"""The fully connected CRF: 10 iterations, 21 classes, images of 375×500."""

import jax
import numpy as np

from ctxseg.inference import crf, lattice
from gpu_parts.measuring import compile_program, median_seconds, memory_cell, peak_memory

TITLE = "DenseCRF"
NOTE = (
    "10 iterations, 21 classes, images of 375×500; building the lattice is included. The time depends on the number of the lattice's "
    "vertices, and so on the image. `benchmarks/crf.py` measures photographs."
)
FRESH = True
COLUMNS = ("image", "ms", "vertices, thousands", "peak memory, GiB", "compilation, s")
CLASSES = 21
NOISE = {"smooth": 0.0, "grainy": 8.0, "noise": 255.0}  # standard deviation of the noise on a drawn image


def entries():
    return list(NOISE)


def picture(size: tuple[int, int], noise: float) -> np.ndarray:
    """An image, uint8 `[1,H,W,3]`: shaded rectangles and noise."""
    rng, (height, width) = np.random.default_rng(0), size
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    image = np.stack([255 * y, 255 * x, 128 * (y + x)], -1)
    for top, left, down, across in rng.uniform(0, 0.6, (30, 4)):
        inside = (y > top) & (y < top + down) & (x > left) & (x < left + across)
        image[inside] = 0.3 * image[inside] + rng.uniform(0, 180, 3)
    return (image + noise * rng.standard_normal(image.shape)).clip(0, 255).astype(np.uint8)[None]


def measure(entry: str, tiny: bool, images: int) -> dict:
    size = (24, 32) if tiny else (375, 500)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(CLASSES), size).astype(np.float32)[None]
    arguments = jax.device_put((probabilities, picture(size, NOISE[entry])))
    program, compilation = compile_program(crf.mean_field, *arguments)
    figures = {"seconds": median_seconds(lambda: program(*arguments).block_until_ready(), tiny)}
    figures |= {"compile_seconds": compilation} | peak_memory(program)
    build = jax.jit(lambda image: lattice.build(crf._features(image, 67.0, 4.0)).used)
    return figures | {"vertices": int(build(arguments[1][0])) - 1}  # last, so that it does not count as peak memory


def cells(entry: str, figures: dict, parts: dict) -> list:
    return [
        f"{1e3 * figures['seconds']:.1f}",
        f"{figures['vertices'] / 1e3:.0f}",
        memory_cell(figures),
        f"{figures['compile_seconds']:.0f}",
    ]
