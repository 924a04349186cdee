"""Images per second of a training step on the CPU, compared with PyTorch: ResNet-50 FCN, output stride 8.

pip install -r requirements.txt -r benchmarks/requirements.txt
python benchmarks/train_step.py

Both compute in float32: forward, cross entropy on logits upsampled to the image, backward, SGD with momentum. PyTorch runs
eagerly, with channels last if that is faster, and one thread per core. The two alternate within one process; the figures are
medians, and the ratio is the median of the ratios of adjacent pairs.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import torch
from torch_fcn import train_step

from ctxseg import devices
from ctxseg.configs import defaults
from ctxseg.models import create_model
from ctxseg.training import losses, optimizers
from ctxseg.training.state import create_state
from ctxseg.training.step import create_train_step

CLASSES = 21


def ctxseg_step(images, labels):
    """A function that runs one `ctxseg.training.step` and returns the loss, the number of parameters, and functions of its parts."""
    config = defaults.get_config()
    config.model.backbone.name, config.model.backbone.output_stride = "resnet50", 8
    config.optimizer.update({"learning_rate": 0.01, "schedule": "constant", "weight_decay": 0.0})
    model = create_model(config.model, CLASSES, axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps)
    state = create_state(model, optimizer, images.shape[1:3], 0)
    variables, parameters = state.variables, sum(p.size for p in jax.tree.leaves(state.params))
    state, batch = [devices.replicate(state)], devices.shard({"image": images, "label": labels})
    update = create_train_step(model, optimizer, config)

    def step():
        state[0], metrics = update(state[0], batch)
        return float(devices.unreplicate(metrics)["loss"])

    single = create_model(config.model, CLASSES)

    def loss(variables, x, y):
        output, _ = single.apply(variables, x, train=True, mutable=["batch_stats"])
        return losses.cross_entropy(output.logits, y)

    forward = jax.jit(loss)
    return step, parameters, {"forward": lambda: float(forward(variables, images, labels))}


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="height and width, pixels")
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    rng = np.random.default_rng(0)
    images = rng.normal(size=(args.batch, args.size, args.size, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, (args.batch, args.size, args.size)).astype(np.uint8)

    candidates = [train_step(images, labels, CLASSES, last) for last in (False, True)]
    for step, _ in candidates:
        step()
    times = [min(seconds(step) for _ in range(2)) for step, _ in candidates]
    best = int(np.argmin(times))
    run_torch, torch_parameters = candidates[best]
    run_ctxseg, parameters, parts = ctxseg_step(images, labels)
    assert parameters == torch_parameters, (parameters, torch_parameters)
    run_ctxseg()  # compiles
    for part in parts.values():
        part()
    pairs = [(seconds(run_ctxseg), seconds(run_torch)) for _ in range(args.rounds)]
    ctxseg_seconds, torch_seconds = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"ResNet-50 FCN, output stride 8, batch {args.batch}, {args.size}×{args.size}, {parameters:,} parameters")
    print(f"ctxseg   {args.batch / ctxseg_seconds:.3f} images/s  ({ctxseg_seconds:.3f} s per step)")
    memory_format = ("channels first", "channels last")[best]
    print(f"PyTorch  {args.batch / torch_seconds:.3f} images/s  ({torch_seconds:.3f} s per step, {memory_format})")
    print(f"ratio    {ratio:.2f}  (ctxseg / PyTorch; median of {args.rounds} pairs)")
    for name, part in parts.items():
        print(f"ctxseg's {name} pass alone takes {statistics.median(seconds(part) for _ in range(3)):.3f} s")


if __name__ == "__main__":
    main()
