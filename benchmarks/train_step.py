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
import torch.nn.functional as F
from torch import nn

from ctxseg import devices
from ctxseg.configs import defaults
from ctxseg.models import create_model
from ctxseg.training import losses, optimizers
from ctxseg.training.state import create_state
from ctxseg.training.step import create_train_step

CLASSES = 21


class Bottleneck(nn.Module):
    """The PyTorch equivalent of `ctxseg.models.backbones.resnet.Bottleneck`."""

    def __init__(self, inputs, features, stride, dilation):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, features, 1, bias=False), nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.conv3, self.bn3 = nn.Conv2d(features, 4 * features, 1, bias=False), nn.BatchNorm2d(4 * features)
        self.shortcut = None
        if stride != 1 or inputs != 4 * features:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, 4 * features, 1, stride, bias=False), nn.BatchNorm2d(4 * features)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


def torch_fcn():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for i, (blocks, stride, first, rest) in enumerate(
        zip((3, 4, 6, 3), (1, 2, 1, 1), (1, 1, 1, 2), (1, 1, 2, 4), strict=True)
    ):
        for j in range(blocks):
            layers.append(Bottleneck(inputs, 64 * 2**i, stride if j == 0 else 1, first if j == 0 else rest))
            inputs = 256 * 2**i
    return nn.Sequential(*layers, nn.Conv2d(inputs, CLASSES, 1))


def torch_step(images, labels, channels_last):
    """A function that runs one PyTorch step and returns the loss, and the number of parameters."""
    model = torch_fcn().train()
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    if channels_last:
        model, x = (t.to(memory_format=torch.channels_last) for t in (model, x))
    y = torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step():
        optimizer.zero_grad(set_to_none=True)
        logits = F.interpolate(model(x), size=y.shape[1:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, sum(p.numel() for p in model.parameters())


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

    candidates = [torch_step(images, labels, last) for last in (False, True)]
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
