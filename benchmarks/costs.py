"""The cost of a part, as a ratio to the same network without it or to an alternative, timed alternately in one run.

python benchmarks/costs.py [hrenet] [dca] [attention] [--rounds=5]

- `hrenet`: H-ReNet, on three levels, against its baseline FCN, on one image of 375×500 (paper, Table 6: 0.24 s against 0.21 s, 1.14).
- `dca`: MCIBI's dataset-level context aggregation, without H1, against ASPP, forward, on a map [1,128,128,2048] (paper, Table 3:
  0.47 of the time).
- `attention`: a training step of DeepLab-LargeFOV with attention over scales {1, 0.5} and extra supervision against one without, on one
  321×321 crop.

The ratio is the median of the ratios of adjacent pairs.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from ctxseg import devices
from ctxseg.configs import attention as attention_config
from ctxseg.configs import defaults, hrenet, largefov
from ctxseg.inference.probabilities import predict_probabilities
from ctxseg.inference.protocol import Protocol
from ctxseg.models import create_model
from ctxseg.studies import complexity
from ctxseg.training import optimizers
from ctxseg.training.state import create_state
from ctxseg.training.step import create_train_step

CLASSES = 21


def hrenet_pair():
    """(name, function) of H-ReNet and of its baseline; the functions label one image."""
    image = np.random.default_rng(0).integers(0, 256, (1, 375, 500, 3), np.uint8)

    def tester(context):
        config = hrenet.get_config("voc2012")
        config.model.context.name = context
        model = create_model(config.model, CLASSES)
        variables = jax.jit(model.init)(jax.random.PRNGKey(0), image)
        protocol = Protocol()
        predict = jax.jit(lambda v, x: predict_probabilities(model, v, x, None, None, protocol).argmax(-1))
        return lambda: jax.block_until_ready(predict(variables, image))

    return ("H-ReNet", tester("renet")), ("baseline FCN", tester("none"))


def dca_pair():
    """(name, function) of DCA and of ASPP; the functions run a forward pass on the input of the paper's Table 3."""

    def runner(row):
        module, inputs = complexity.ROWS[row](defaults.get_config())
        arrays = complexity.random_inputs(inputs)
        variables = jax.jit(module.init)(jax.random.PRNGKey(0), *arrays)
        apply = jax.jit(module.apply)
        return lambda: jax.block_until_ready(apply(variables, *arrays))

    return ("DCA", runner("dca")), ("ASPP", runner("aspp"))


def attention_pair():
    """(name, function) of a network with attention over two scales and of one without; the functions run a training step."""
    rng, size = np.random.default_rng(0), (1, 321, 321)
    count = jax.local_device_count()
    batch = {"image": rng.integers(0, 256, (count, *size[1:], 3), np.uint8)}
    batch["label"] = rng.integers(0, CLASSES, (count, *size[1:]), np.uint8)
    batch = devices.shard(batch)

    def trainer(config):
        model = create_model(config.model, CLASSES, axis_name=devices.AXIS)
        optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps)
        state = [devices.replicate(create_state(model, optimizer, size[1:], 0))]
        step = create_train_step(model, optimizer, config)

        def run():
            state[0], metrics = step(state[0], batch)
            return float(devices.unreplicate(metrics)["loss"])

        return run

    attention, largefov_config = (c.get_config("pascal_person_part") for c in (attention_config, largefov))
    attention.model.scales.scales = (1.0, 0.5)
    return ("attention {1, 0.5}", trainer(attention)), ("LargeFOV", trainer(largefov_config))


# {name: (function that returns the pair, highest ratio aimed for)}.
PAIRS = {"hrenet": (hrenet_pair, 1.15), "dca": (dca_pair, 0.5), "attention": (attention_pair, 2.0)}


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="*", default=list(PAIRS), help=", ".join(PAIRS))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if unknown := set(args.pairs) - set(PAIRS):
        parser.error(f"{', '.join(sorted(unknown))}: expected any of {', '.join(PAIRS)}")
    print(f"{jax.devices()[0].device_kind}, {jax.local_device_count()} device(s), JAX {jax.__version__}")
    for pair in args.pairs:
        create_pair, limit = PAIRS[pair]
        functions = create_pair()
        times = {name: [] for name, _ in functions}
        for _, function in functions:
            function()  # compiles
        for i in range(args.rounds):
            for name, function in functions[:: 1 if i % 2 else -1]:
                times[name].append(seconds(function))
        (name, first), (other, second) = times.items()
        ratio = statistics.median(a / b for a, b in zip(first, second, strict=True))
        print(
            f"{name} {statistics.median(first):.3f} s, {other} {statistics.median(second):.3f} s: "
            f"ratio {ratio:.2f} (aim: at most {limit})",
            flush=True,
        )


if __name__ == "__main__":
    main()
