"""What grows with devices, pixels and super-pixels: the gradient's traffic between machines, and the memory of a training step.

python benchmarks/growth.py [traffic memory micro remat attention crf] [--bandwidth=25]

traffic: the bytes of the gradient of each system as its paper has it, and the seconds that a ring all-reduce takes between 2 to 64 devices,
    2·(n−1)/n · bytes / bandwidth, without latency. Calculated, not measured. --bandwidth is in 10⁹ bytes per second and device.
memory: the temporary memory that XLA plans for a training step of 2 images on a CPU, for the small networks of `scenes`. It is planned, not
    measured.
micro: the same for micro-batches.
remat: the same for each value of config.model.remat, for the network of each paper, with 2 of its crops.
attention: the same for an attention between all positions of a map and its gradient, next to the size of its matrix of weights.
crf: seconds and planned memory of DenseCRF, for a photograph at four sizes.
"""

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import skimage.data
from skimage.transform import resize

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ctxseg import cpu, devices
from ctxseg.configs import attention, fcn, hrenet, mcibi, msci, zigzag
from ctxseg.inference import crf
from ctxseg.models import create_model
from ctxseg.models.attention import attention as attend
from ctxseg.training import optimizers
from ctxseg.training.state import create_state
from ctxseg.training.step import train_step

PAPERS = {"H-ReNet": hrenet, "Attention to Scale": attention, "MSCI": msci, "ZigZagNet": zigzag, "MCIBI": mcibi}
CLASSES = 21
MEBIBYTE = 2**20


def shapes_of(config):
    """The model, its optimiser, and the shapes of its train state."""
    model = create_model(config.model, CLASSES)
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps)
    return model, optimizer, jax.eval_shape(partial(create_state, model, optimizer, config.data.crop, 0))


def traffic(bandwidth):
    counts = (2, 8, 16, 64)
    print(f"{'system':20} parameters, M   gradient, MB   " + "   ".join(f"{n:2} devices, ms" for n in counts))
    for name, system in PAPERS.items():
        config = system.get_config("voc2012")
        _, _, state = shapes_of(config)
        size = sum(4 * x.size for x in jax.tree.leaves(state.params))
        times = [2 * (n - 1) / n * size / (bandwidth * 1e9) * 1e3 for n in counts]
        print(f"{name:20} {size / 4e6:13.1f} {size / 1e6:14.1f}   " + "   ".join(f"{ms:14.1f}" for ms in times))


def planned(config, crop, images=2, options=None):
    """Mebibytes of temporary memory of a training step of `images` images, compiled with these options of XLA."""
    config.data.crop = crop
    model, optimizer, state = shapes_of(config)
    # The axis has one device, so that its sums change nothing.
    step = partial(train_step, model=model, optimizer=optimizer, config=config)
    batch = {
        "image": jax.ShapeDtypeStruct((1, images, *crop, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((1, images, *crop), jnp.uint8),
    }
    if config.data.superpixels:
        batch["regions"] = jax.ShapeDtypeStruct((1, images, *crop), jnp.int32)
    replicated = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), state)
    compiled = jax.jit(jax.vmap(step, axis_name=devices.AXIS)).lower(replicated, batch).compile(options)
    return compiled.memory_analysis().temp_size_in_bytes / MEBIBYTE


def memory():
    print("MiB of a training step of 2 images, by the side of the crop")
    sides = (64, 128, 256, 512)
    for name, system in PAPERS.items():
        values = [planned(system.get_config("scenes"), (side, side)) for side in sides]
        print(
            f"{name:20} " + "   ".join(f"{side}: {value:.0f}" for side, value in zip(sides, values, strict=True)),
            flush=True,
        )
    print("MiB of a training step of 2 crops of 128×128 of MSCI, by its number of super-pixels")
    for segments in (50, 100, 200, 400):
        config = msci.get_config("scenes")
        config.data.superpixels = segments
        print(f"{segments:4}: {planned(config, (128, 128)):.0f}", flush=True)


def micro():
    for name, system in {"FCN": fcn, "MCIBI": mcibi}.items():
        for count in (1, 4):
            config = system.get_config("scenes")
            config.train.micro_batches = count
            value = planned(config, (128, 128), images=16)
            print(f"{name}, 16 images of 128×128 in {count} micro-batches: {value:.0f} MiB", flush=True)


def remat():
    print("MiB of a training step of 2 crops, by config.model.remat")
    for name, system in PAPERS.items():
        for value in ("none", "blocks", "all"):
            config = system.get_config("voc2012")
            config.model.remat = value
            crop = tuple(config.data.crop)
            print(
                f"{name}, {crop[0]}×{crop[1]}, {value}: {planned(config, crop, options=cpu.RECOMPUTE):.0f}", flush=True
            )


def attention_memory():
    print("MiB of an attention of 64 channels and its gradient, by the side of the map; of its matrix of weights")
    for side in (32, 64, 128, 256):
        x = jax.ShapeDtypeStruct((1, side**2, 64), jnp.float32)
        gradient = jax.grad(lambda q, k, v: jnp.square(attend(q, k, v)).sum(), (0, 1, 2))
        plan = jax.jit(gradient).lower(x, x, x).compile().memory_analysis()
        print(f"{side}: {plan.temp_size_in_bytes / MEBIBYTE:.0f}; {4 * side**4 / MEBIBYTE:.0f}", flush=True)


def crf_growth():
    print("DenseCRF, 10 iterations, 21 classes: seconds, microseconds per pixel, MiB, by the size of the image")
    for height, width in ((94, 125), (188, 250), (375, 500), (750, 1000)):
        image = resize(skimage.data.coffee(), (height, width), anti_aliasing=True, preserve_range=True)
        image = image.round().astype(np.uint8)[None]
        probabilities = np.random.default_rng(0).dirichlet(np.ones(CLASSES), (1, height, width)).astype(np.float32)
        run = crf.mean_field.lower(probabilities, image).compile()
        run(probabilities, image).block_until_ready()
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run(probabilities, image).block_until_ready()
            times.append(time.perf_counter() - start)
        seconds, memory = statistics.median(times), run.memory_analysis().temp_size_in_bytes / MEBIBYTE
        print(f"{height}×{width}: {seconds:.2f} s, {1e6 * seconds / (height * width):.1f} µs, {memory:.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["traffic", "memory", "micro", "remat", "attention", "crf", []])
    parser.add_argument("--bandwidth", type=float, default=25.0)
    arguments = parser.parse_args()
    arguments.parts = arguments.parts or ["traffic", "memory", "micro"]
    if "traffic" in arguments.parts:
        traffic(arguments.bandwidth)
    if "memory" in arguments.parts:
        memory()
    if "micro" in arguments.parts:
        micro()
    if "remat" in arguments.parts:
        remat()
    if "attention" in arguments.parts:
        attention_memory()
    if "crf" in arguments.parts:
        crf_growth()


if __name__ == "__main__":
    main()
