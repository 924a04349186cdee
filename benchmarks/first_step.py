"""Time to the first training step, of a network that was never run here (cold) and of one that was (warm), see `ctxseg/compiled.py`.

python benchmarks/first_step.py [zigzag msci mcibi hrenet …] [--rounds=1] [--backbone=vit_large_16]

Each system is that of its paper, or has the backbone that is given, with batches of 2 images of 256×256 and initial values. Each
measurement has a process of its own, and each round a new folder of compiled programs. The columns are seconds: the initial state; tracing
the step and lowering it to StableHLO; compiling it; the first step. Imports, data and evaluation are left out. The table has the medians
of the rounds.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DATASETS = {"zigzag": "voc2012", "msci": "voc2012", "mcibi": "ade20k", "hrenet": "voc2012", "fcn": "voc2012"}
CLASSES, SIZE, IMAGES = 21, 256, 2
PARTS = ("initial state", "tracing", "compiling", "first step")


def measure(system, backbone):
    """Seconds of each of `PARTS`, in this process."""
    import jax
    import numpy as np

    from ctxseg import devices
    from ctxseg.models import create_model
    from ctxseg.training import optimizers
    from ctxseg.training.state import create_state
    from ctxseg.training.step import create_train_step

    config = importlib.import_module(f"ctxseg.configs.{system}").get_config(DATASETS[system])
    config.model.backbone.name = backbone or config.model.backbone.name
    rng, shape = np.random.default_rng(0), (IMAGES, SIZE, SIZE)
    blocks = np.arange(SIZE) // 16
    batch = {
        "image": rng.integers(0, 256, (*shape, 3), np.uint8),
        "label": rng.integers(0, CLASSES, shape, np.uint8),
        "regions": np.broadcast_to(blocks[:, None] * (SIZE // 16) + blocks, shape).astype(np.int32),
    }
    jax.block_until_ready(jax.numpy.zeros(()))  # the start of the device
    times = [time.perf_counter()]

    def lap():
        times.append(time.perf_counter())

    model = create_model(config.model, CLASSES, axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps)
    state = devices.replicate(create_state(model, optimizer, (SIZE, SIZE), 0, config.model.kernel_std))
    jax.block_until_ready(state)
    lap()
    lowered = create_train_step(model, optimizer, config).lower(state, devices.shard(batch))
    lap()
    step = lowered.compile()
    lap()
    jax.block_until_ready(step(state, devices.shard(batch)))
    lap()
    return [after - before for before, after in zip(times, times[1:], strict=False)]


def child(system, folder, backbone):
    """`measure` in a new process, whose compiled programs are in `folder`."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder}
    command = [sys.executable, __file__, system, "--child", f"--backbone={backbone}"]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", choices=[*DATASETS, []], default=[])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--backbone", default="", help="in place of the system's own, such as vit_large_16")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        print(json.dumps(measure(flags.systems[0], flags.backbone)))
        return
    print(f"{'system':8} {'':5}" + "".join(f"{part:>15}" for part in (*PARTS, "total")))
    for system in flags.systems or DATASETS:
        measured = {"cold": [], "warm": []}
        for _ in range(flags.rounds):
            with tempfile.TemporaryDirectory() as folder:
                for kind in measured:
                    measured[kind].append(child(system, folder, flags.backbone))
        for kind, rows in measured.items():
            medians = [statistics.median(column) for column in zip(*rows, strict=True)]
            total = statistics.median(map(sum, rows))
            print(f"{system:8} {kind:5}" + "".join(f"{seconds:15.1f}" for seconds in (*medians, total)), flush=True)


if __name__ == "__main__":
    main()
