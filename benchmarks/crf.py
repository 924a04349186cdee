"""Seconds of the fully connected CRF: 10 iterations, 21 classes, photographs of 375×500.

python benchmarks/crf.py [--pydensecrf=PYTHON] [--rounds=5]

The time includes building the lattice, after compilation. It depends on the image, which determines the number of lattice vertices for
σ_αxy = 67 and σ_β = 4. The probabilities are noise, smoothed by a Gaussian of 8 pixels so that the labels are regions.

PYTHON is the interpreter of an environment with pydensecrf2, the authors' C++ code, NumPy and scikit-image. Each side has a process of its
own, and they take turns; the figures are medians, and the ratio is the median of the ratios of adjacent pairs. pydensecrf2 uses one
thread. Without it, ours runs alone, on the first device.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import alternating
import numpy as np
import skimage.data
from skimage.filters import gaussian
from skimage.transform import resize

ROOT = Path(__file__).resolve().parents[1]
SIZE, CLASSES, ITERATIONS = (375, 500), 21, 10
IMAGES = ("coffee", "astronaut", "chelsea")


def data(name):
    """Probabilities float32 `[H,W,K]` and an image uint8 `[H,W,3]`."""
    noise = np.random.default_rng(0).normal(size=(*SIZE, CLASSES))
    scores = np.exp(30 * gaussian(noise, (8, 8, 0)))
    image = resize(getattr(skimage.data, name)(), SIZE, anti_aliasing=True, preserve_range=True)
    return (scores / scores.sum(-1, keepdims=True)).astype(np.float32), image.round().astype(np.uint8)


def ours(name):
    """A function that returns the probabilities after the iterations."""
    sys.path.insert(0, str(ROOT))
    from ctxseg import cpu

    cpu.keep_freed_memory()
    import jax

    from ctxseg.inference import crf

    probabilities, image = (jax.device_put(x[None]) for x in data(name))
    return lambda: np.asarray(crf.mean_field(probabilities, image, iterations=ITERATIONS))[0]


def authors(name):
    """The same by pydensecrf2."""
    from pydensecrf import densecrf

    probabilities, image = data(name)
    energies = -np.log(np.maximum(probabilities, 1e-8)).transpose(2, 0, 1).reshape(CLASSES, -1)

    def run():
        field = densecrf.DenseCRF2D(SIZE[1], SIZE[0], CLASSES)
        field.setUnaryEnergy(np.ascontiguousarray(energies))
        field.addPairwiseGaussian(sxy=3, compat=3)
        field.addPairwiseBilateral(sxy=67, srgb=4, rgbim=np.ascontiguousarray(image), compat=4)
        return np.array(field.inference(ITERATIONS)).reshape(CLASSES, *SIZE).transpose(1, 2, 0)

    return run


SIDES = {"ctxseg": ours, "pydensecrf2": authors}


def serve(side, folder):
    """Functions that run each image once, and one for each that writes its labels to `folder`."""
    functions = {}
    for name in IMAGES:
        run = SIDES[side](name)
        functions[name] = lambda run=run: run() is None
        functions[f"labels of {name}"] = lambda run=run, name=name: np.save(
            Path(folder, f"{side}-{name}.npy"), run().argmax(-1).astype(np.uint8)
        )
    alternating.serve(functions)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pydensecrf", help="interpreter of an environment with pydensecrf2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return serve(arguments.side, arguments.folder)
    pythons = {"ctxseg": sys.executable} | ({"pydensecrf2": arguments.pydensecrf} if arguments.pydensecrf else {})
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            side: alternating.Side([python, __file__, f"--side={side}", f"--folder={folder}"])
            for side, python in pythons.items()
        }
        for name in IMAGES:
            for side in sides.values():
                side.ask(f"labels of {name}")  # compiles
            rounds = [tuple(side.ask(name) for side in sides.values()) for _ in range(arguments.rounds)]
            line = ", ".join(f"{side} {alternating.median(rounds, i):.2f} s" for i, side in enumerate(sides))
            if len(sides) == 2:
                labels = [np.load(Path(folder, f"{side}-{name}.npy")) for side in sides]
                line += f", ratio {alternating.ratio(rounds):.2f}, equal labels {100 * np.mean(labels[0] == labels[1]):.1f} %"
            print(f"{name}: {line}", flush=True)
        for side in sides.values():
            side.close()


if __name__ == "__main__":
    main()
