"""Networks on the CPU, compared with the same networks in eager PyTorch: training steps, inference, and the recurrence of ReNet.

python benchmarks/cpu_steps.py --torch=PYTHON [fcn fcn_inference mcibi renet renet_forward lite] [--rounds=5]
python benchmarks/cpu_steps.py --heap [fcn lite …]
python benchmarks/cpu_steps.py --profile [fcn lite …]

PYTHON is the interpreter of an environment with the packages of `benchmarks/requirements-published.txt`. Both sides compute in float32 on
one thread per core, in processes of their own that take turns. A training step is the forward pass, the losses, the backward pass, and SGD
with momentum. PyTorch has channels last where that is faster. The figures are medians, and the ratio is the median of the ratios of
adjacent pairs: more than 1 if ctxseg is faster.

    fcn, fcn_inference      ResNet-50 FCN, output stride 8, 2 images of 256×256, 21 classes
    mcibi                   MCIBI on ResNet-50, output stride 8, 2 images of 256×256, 150 classes, with its update of the memory
    renet, renet_forward    a ReNet group of 120 units on [1,47,63,1024], with and without the gradients of weights and input
    lite                    EfficientNet-Lite0, 8 images of 176×240; the loss is the mean square of the last map

With --heap, both sides are ctxseg's, with and without `ctxseg/cpu.py`. --profile prints where the time of ctxseg's side goes.
"""

import argparse
import gzip
import json
import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path

import alternating
import numpy as np

ROOT = Path(__file__).resolve().parents[1]

NETWORKS = ("fcn", "fcn_inference", "mcibi", "renet", "renet_forward", "lite")
CLASSES = {"fcn": 21, "fcn_inference": 21, "mcibi": 150}
UNITS = 120


def data(network: str):
    """The input, and the labels, or for `renet` and `renet_forward` the gradient of the result."""
    rng = np.random.default_rng(0)
    if network.startswith("renet"):
        return [rng.normal(size=(1, 47, 63, n)).astype(np.float32) for n in (1024, 2 * UNITS)]
    shape = (8, 176, 240) if network == "lite" else (2, 256, 256)
    return rng.integers(0, 256, (*shape, 3), np.uint8), rng.integers(0, CLASSES.get(network, 2), shape, np.uint8)


def ours(network: str) -> dict:
    """{"run": a function that runs the network once}."""
    sys.path.insert(0, str(ROOT))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from ctxseg import cpu

    if os.environ.get("HEAP") != "left":
        cpu.keep_freed_memory()
    import jax
    import jax.numpy as jnp

    inputs, targets = map(jnp.asarray, data(network))
    if network.startswith("renet"):
        from ctxseg.models.context.renet import ReNet

        model = ReNet(units=(UNITS,))
        variables = model.init(jax.random.PRNGKey(0), {"map": inputs})
        forward = jax.jit(lambda variables, x: model.apply(variables, {"map": x})[0])
        both = jax.jit(lambda variables, x, dy: jax.vjp(forward, variables, x)[1](dy))
        functions = {
            "renet_forward": lambda: forward(variables, inputs),
            "renet": lambda: both(variables, inputs, targets),
        }
        return {"run": lambda: float(jax.tree.leaves(functions[network]())[0].ravel()[0])}

    from ctxseg import devices
    from ctxseg.configs import defaults, mcibi
    from ctxseg.models import create_model
    from ctxseg.training import optimizers
    from ctxseg.training.state import create_state
    from ctxseg.training.step import create_train_step

    config = mcibi.get_config("ade20k") if network == "mcibi" else defaults.get_config()
    if network == "lite":
        config.model.backbone.update({"name": "efficientnet_lite0", "output_stride": 32})
    elif network != "mcibi":
        config.model.backbone.update({"name": "resnet50", "output_stride": 8})
    config.optimizer.update({"learning_rate": 0.01, "schedule": "constant", "weight_decay": 0.0})

    def loss(model, variables, batch, rng, config, axis_name=None, whole=None):
        y, updated = model.apply(variables, batch["image"], mutable=["batch_stats"], method=last_map)
        return jnp.square(y).mean(), (updated, None)

    def last_map(model, images):
        return model.backbone(model.pixels(images).astype(jnp.float32), True)["res5"]

    model = create_model(config.model, CLASSES.get(network, 2), axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps)
    state = create_state(model, optimizer, inputs.shape[1:3], 0)
    if network == "fcn_inference":
        single, variables = create_model(config.model, CLASSES[network]), state.variables
        scores = jax.jit(lambda variables, x: single.apply(variables, x, train=False).logits)
        return {"run": lambda: float(scores(variables, inputs)[0, 0, 0, 0])}
    print(f"{sum(p.size for p in jax.tree.leaves(state.params)):,} parameters", file=sys.stderr)
    state, batch = [devices.replicate(state)], devices.shard({"image": inputs, "label": targets})
    update = create_train_step(model, optimizer, config, *([loss] if network == "lite" else []))

    def run():
        state[0], metrics = update(state[0], batch)
        return float(devices.unreplicate(metrics)["loss"])

    return {"run": run, "program": lambda: update.lower(state[0], batch).compile().as_text()}


def pytorch(network: str) -> dict:
    """{"run": a function that runs the network once, "other": the same in the other memory format}."""
    import torch
    import torch_networks as networks

    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    torch.manual_seed(0)
    inputs, targets = data(network)
    if network.startswith("renet"):
        model = networks.ReNetGroup(inputs.shape[-1], UNITS)
        x, dy = torch.from_numpy(inputs).requires_grad_(network == "renet"), torch.from_numpy(targets)

        def run():
            if network == "renet":
                x.grad = None
                model.zero_grad()
                model(x).backward(dy)
            else:
                with torch.no_grad():
                    model(x)

        return {"run": run}
    images = inputs.astype(np.float32) / 128 - 1
    return {
        name: functions(networks, network, images, targets, last) for name, last in (("run", False), ("other", True))
    }


def functions(networks, network, images, labels, channels_last):
    """A function that runs the network once in PyTorch."""
    import torch

    if network == "lite":
        model, x = networks.prepared(networks.EfficientNetLite0(), images, channels_last)
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters", file=sys.stderr)
        return networks.optimised(model, lambda: model(x).square().mean())
    if network == "fcn_inference":
        model, x = networks.prepared(networks.fcn(CLASSES[network]), images, channels_last)
        model.eval()

        def run():
            with torch.no_grad():
                model(x)

        return run
    step = networks.mcibi_step if network == "mcibi" else networks.train_step
    run, parameters = step(images, labels, CLASSES[network], channels_last)
    print(f"{parameters:,} parameters", file=sys.stderr)
    return run


def profile(network: str) -> None:
    """Prints the milliseconds of a step of a training network by kind of operation, and the share of its matrix products."""
    import jax

    functions, steps = ours(network), 4
    functions["run"]()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            for _ in range(steps):
                functions["run"]()
        (path,) = Path(folder).rglob("perfetto_trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))
    sources = dict(re.findall(r"%?([\w.-]+) = .*op_name=\"([^\"]*)\"", functions["program"]()))
    times: Counter = Counter()
    for event in events["traceEvents"] if isinstance(events, dict) else events:
        name = event.get("args", {}).get("hlo_op")
        if name and event.get("ph") == "X":
            product = name.startswith("dot") or sources.get(name, "").endswith(("dot_general", "conv_general_dilated"))
            times["products" if product else re.sub(r"[.\d]+$", "", name)] += event["dur"] / 1e3 / steps
    for kind, milliseconds in times.most_common(12):
        print(f"{network:14} {kind:32} {milliseconds:7.1f} ms  {100 * milliseconds / times.total():4.1f} %", flush=True)


def compare(network: str, python: str | None, rounds: int) -> dict:
    """Medians of both sides, seconds and GiB, and the ratio."""
    command = [__file__, network, "--side"]
    if python is None:
        ours = alternating.Side([sys.executable, *command, "ours"])
        os.environ["HEAP"] = "left"
        theirs = alternating.Side([sys.executable, *command, "ours"])
        del os.environ["HEAP"]
    else:
        ours, theirs = (alternating.Side([p, *command, s]) for p, s in ((sys.executable, "ours"), (python, "pytorch")))
    for _ in range(2):
        ours.ask("run")  # compiles
        theirs.ask("run")
    run = "run"
    if python is not None and not network.startswith("renet"):
        theirs.ask("other")
        if min(theirs.ask("other")["seconds"] for _ in range(2)) < min(theirs.ask("run")["seconds"] for _ in range(2)):
            run = "other"
    pairs = [(ours.ask("run"), theirs.ask(run)) for _ in range(rounds)]
    for side in (ours, theirs):
        side.close()
    figures: dict = {"network": network, "ratio": alternating.ratio(pairs)}
    figures["format"] = "channels last" if run == "other" else "channels first"
    for i, side in enumerate(("ours", "theirs")):
        figures[side] = {key: alternating.median(pairs, i, key) for key in ("seconds", "processor", "memory")}
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="all by default")
    parser.add_argument("--torch", help="interpreter of an environment with PyTorch")
    parser.add_argument("--heap", action="store_true", help="compare with and without ctxseg/cpu.py")
    parser.add_argument("--profile", action="store_true", help="where the time of a training step goes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=("ours", "pytorch"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        return alternating.serve({"ours": ours, "pytorch": pytorch}[arguments.side](*arguments.networks))
    if arguments.profile:
        trained = ("fcn", "mcibi", "lite")
        if not set(arguments.networks) <= set(trained):
            parser.error(f"--profile is for {', '.join(trained)}")
        for network in arguments.networks or trained:
            profile(network)
        return
    if not arguments.heap and not arguments.torch:
        parser.error("--torch=PYTHON, --heap or --profile is missing")
    for network in arguments.networks or NETWORKS:
        figures = compare(network, None if arguments.heap else arguments.torch, arguments.rounds)
        print(json.dumps(figures))
        other = "without" if arguments.heap else f"PyTorch ({figures['format']})"
        for name, side in (("ctxseg", "ours"), (other, "theirs")):
            print(
                f"{network:14} {name:26} {figures[side]['seconds']:.3f} s  {figures[side]['memory']:.2f} GiB",
                flush=True,
            )
        print(f"{network:14} ratio {figures['ratio']:.2f}, median of {arguments.rounds} pairs", flush=True)


if __name__ == "__main__":
    main()
