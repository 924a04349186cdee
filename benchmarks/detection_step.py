"""A training step of Mask R-CNN on ResNet-50 and FPN on the CPU: images per second and memory, compared with torchvision's.

python benchmarks/detection_step.py --torch=PYTHON [--rounds=5] [--parts]

PYTHON is the interpreter of an environment with the packages of `benchmarks/requirements-published.txt`. Both compute in float32: forward,
the five losses, backward, SGD with momentum; nothing is frozen, and batch normalisation uses the statistics of the batch. Both have
torchvision's choices, the same images and objects, and the same number of regions of interest. There are so many objects that both
compute the same number of masks: ours always computes a quarter of the regions, torchvision's as many as are positive.

Each side has a process of its own, with a thread per core. The two alternate; the figures are medians, and the ratio is the median of the
ratios of adjacent pairs. Processor times, which other programs disturb less, are printed too. Memory is the largest resident memory of
the process.
"""

import argparse
import os
import sys
from pathlib import Path

import alternating
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 80


def data(batch, size, objects):
    """Images uint8 `[B,H,W,3]`, boxes `[B,N,4]`, classes `[B,N]`, and masks uint8 `[B,N,H,W]`: ellipses."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    corners = rng.uniform(0, 0.6, (batch, objects, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.1, 0.4, corners.shape)], -1).astype(np.float32) * size
    centre, half = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 2
    y, x = np.mgrid[:size, :size] + 0.5
    distance = [((grid - centre[..., i, None, None]) / half[..., i, None, None]) ** 2 for i, grid in enumerate((x, y))]
    return images, boxes, rng.integers(0, CLASSES, (batch, objects)), (sum(distance) < 1).astype(np.uint8)


def drawn(shapes):
    """Random values of He's variance for kernels: faster than the program of the initial values, which has to be compiled."""
    import jax

    rng = np.random.default_rng(0)

    def draw(path, x):
        name, outputs = path[-1].key, x.shape[-1]
        if name != "kernel":
            return np.full(x.shape, name in ("scale", "var"), np.float32)
        small = path[-2].key in ("scores", "deltas")
        deviation = 0.01 if small else np.sqrt(2 * outputs / np.prod(x.shape))
        return (deviation * rng.standard_normal(x.shape, np.float32)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def ours(batch, size, rois, objects):
    """A function that runs a step and returns the loss, and functions of its parts."""
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp
    import optax

    from ctxseg.configs import defaults
    from ctxseg.models import create_model
    from ctxseg.training import detection_losses, optimizers
    from tests.references import published_detector

    config = defaults.get_config()
    config.model.backbone.update({"name": "resnet50", "output_stride": 32})
    config.model.context.name = "fpn"
    config.model.detector.update(published_detector.FIELDS | {"rois": rois})
    config.loss.box_beta = 1 / 9
    config.optimizer.update({"schedule": "constant", "learning_rate": 1e-3, "weight_decay": 0.0})
    model = create_model(config.model, CLASSES)
    optimizer = optimizers.create_optimizer(config.optimizer, 1000)
    images, boxes, classes, masks = data(batch, size, objects)
    packed = np.packbits(masks, axis=-1, bitorder="little")
    targets = {"boxes": boxes, "classes": classes.astype(np.int32), "masks": packed}
    targets = {  # padded, as in training
        name: np.pad(
            x, ((0, 0), (0, 100 - objects), *[(0, 0)] * (x.ndim - 2)), constant_values=-1 if name == "classes" else 0
        )
        for name, x in targets.items()
    }
    sizes = np.full((batch, 2), size, np.int32)
    variables = drawn(jax.eval_shape(model.init, jax.random.PRNGKey(0), images))

    def loss(params, batch_stats, key):
        output, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            sizes,
            targets,
            True,
            rngs={"sample": key},
            mutable=["batch_stats"],
        )
        return detection_losses.total(output, config.loss)[0], updated["batch_stats"]

    def update(state, key):
        params, batch_stats, opt_state = state
        (value, batch_stats), gradients = jax.value_and_grad(loss, has_aux=True)(params, batch_stats, key)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), value

    update, forward = jax.jit(update, donate_argnums=0), jax.jit(lambda *inputs: loss(*inputs)[0])
    state = [(variables["params"], variables["batch_stats"], optimizer.init(variables["params"]))]
    count = [0]

    def step():
        count[0] += 1
        state[0], value = update(state[0], jax.random.PRNGKey(count[0]))
        return float(value)

    def maps(params, batch_stats):
        x = model.bind({"params": params, "batch_stats": batch_stats}, mutable=["batch_stats"])
        return sum(
            jnp.square(y).mean()
            for y in x.neck.pyramid(x.backbone(x.pixels(images).astype(jnp.float32), True), None, True)
        )

    both = jax.jit(jax.grad(maps))
    parts = {
        "forward": lambda: float(forward(*state[0][:2], jax.random.PRNGKey(0))),
        "backbone and neck, forward and backward": lambda: jax.block_until_ready(both(*state[0][:2])),
    }
    return step, parts


def torchvision(batch, size, rois, objects):
    """A function that runs a step and returns the loss, and functions of its parts."""
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + 1,
        min_size=size,
        max_size=size,
        box_batch_size_per_image=rois,
    ).train()
    images, boxes, classes, masks = data(batch, size, objects)
    images = [torch.from_numpy(x).permute(2, 0, 1).float().div(255).contiguous() for x in images]
    targets = [
        {"boxes": torch.from_numpy(b), "labels": torch.from_numpy(c) + 1, "masks": torch.from_numpy(m)}
        for b, c, m in zip(boxes, classes, masks, strict=True)
    ]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = sum(model(images, [dict(t) for t in targets]).values())
        loss.backward()
        optimizer.step()
        return loss.item()

    def both():
        optimizer.zero_grad(set_to_none=True)
        sum(y.square().mean() for y in model.backbone(torch.stack(images)).values()).backward()

    def forward():
        with torch.no_grad():
            model(images, [dict(t) for t in targets])

    return step, {"forward": forward, "backbone and neck, forward and backward": both}


SIDES = {"ours": ours, "torchvision": torchvision}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", help="interpreter of an environment with torchvision")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=256, help="height and width, pixels")
    parser.add_argument("--rois", type=int, default=128, help="regions of interest per image")
    parser.add_argument("--objects", type=int, default=32, help="objects per image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", action="store_true", help="also time parts of a step")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        step, parts = SIDES[arguments.side](arguments.batch, arguments.size, arguments.rois, arguments.objects)
        return alternating.serve({"step": step} | parts)
    options = [f"--{name}={getattr(arguments, name)}" for name in ("batch", "size", "rois", "objects")]
    sides = {
        side: alternating.Side([python, __file__, f"--side={side}", *options])
        for side, python in (("ours", sys.executable), ("torchvision", arguments.torch))
    }
    for side in sides.values():
        for _ in range(2):
            side.ask("step")  # compiles
    pairs = [tuple(side.ask("step") for side in sides.values()) for _ in range(arguments.rounds)]
    print(
        f"Mask R-CNN on ResNet-50 and FPN, batch {arguments.batch}, {arguments.size}×{arguments.size}, {arguments.rois} regions"
    )
    for i, name in enumerate(sides):
        seconds, processor = (alternating.median(pairs, i, key) for key in ("seconds", "processor"))
        figures = f"{arguments.batch / seconds:.3f} images/s  ({seconds:.2f} s per step; processor {processor:.2f} s)"
        print(f"{name:12}{figures}, {pairs[-1][i]['memory']:.2f} GiB, loss {pairs[-1][i]['value']:.2f}")
    for key, name in (("seconds", "images/s"), ("processor", "processor time")):
        ratio = alternating.ratio(pairs, key)
        print(f"ratio of {name}: {ratio:.2f}  (ours / torchvision's; median of {arguments.rounds} pairs)")
    if arguments.parts:
        for part in ("forward", "backbone and neck, forward and backward"):
            for name, side in sides.items():
                times = [side.ask(part) for _ in range(3)]
                seconds, processor = (min(t[key] for t in times) for key in ("seconds", "processor"))
                print(f"{name}'s {part}: {seconds:.2f} s, processor {processor:.2f} s")
    for side in sides.values():
        side.close()


if __name__ == "__main__":
    main()
