"""A small problem, and the parameters and learning rates of PyTorch's optimisers over 20 steps of it.

`benchmarks/published_optimizers.py` records them in `published_optimizers.npz`, float64. The numbers of the problem are not in the file.
They are drawn by `published.uniform`, which gives the same values with every release of NumPy.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.references.published import uniform

RECORDED = Path(__file__).with_name("published_optimizers.npz")

STEPS = 20
SHAPES = {"kernel": (3, 4), "bias": (4,), "gain": (2,), "unused": (2,)}
# Factors of the gradients. That of `gain` is as small as the ε of Adam, and `unused` has no gradient.
FACTORS = {"kernel": 1.0, "bias": 1.0, "gain": 1e-8, "unused": 0.0}


@dataclass(frozen=True)
class Case:
    """An optimiser of `torch.optim` and a schedule of `torch.optim.lr_scheduler`. All that is not here has PyTorch's default.

    Attributes:
        optimizer: 'adamw', with β (0.9, 0.999) and ε 1e-8, or 'sgd'.
        rate: learning rate.
        momentum: of 'sgd'.
        nesterov: Nesterov's momentum, of 'sgd'.
        decay: weight decay. It is decoupled from the gradient for 'adamw', and part of it for 'sgd'.
        decayed: names of the parameters with weight decay.
        clip: largest norm of all gradients together; None: no limit.
        schedule: 'constant'; 'cosine': `CosineAnnealingLR` over the 20 steps; 'warmup_cosine': `LinearLR` from `warmup_factor` over
            `warmup_steps`, then `CosineAnnealingLR` over the rest; 'poly': `PolynomialLR` over the 20 steps, with `power`.
        warmup_factor: factor of the first rate, of 'warmup_cosine'.
        warmup_steps: number of steps below the full rate, of 'warmup_cosine'.
        power: of 'poly'.
    """

    optimizer: str
    rate: float
    momentum: float = 0.0
    nesterov: bool = False
    decay: float = 0.0
    decayed: tuple[str, ...] = tuple(SHAPES)
    clip: float | None = None
    schedule: str = "constant"
    warmup_factor: float = 0.1
    warmup_steps: int = 5
    power: float = 0.9


CASES = {
    "adamw": Case("adamw", 0.05, decay=0.1),
    "adamw_decays_kernel": Case("adamw", 0.05, decay=0.1, decayed=("kernel",)),
    "adamw_cosine": Case("adamw", 0.05, decay=0.1, schedule="cosine"),
    "sgd_momentum": Case("sgd", 0.05, momentum=0.9),
    "sgd_nesterov_decay": Case("sgd", 0.05, momentum=0.9, nesterov=True, decay=0.1),
    "sgd_warmup_cosine": Case("sgd", 0.05, momentum=0.9, schedule="warmup_cosine"),
    "sgd_poly": Case("sgd", 0.05, momentum=0.9, schedule="poly"),
    "sgd_clip": Case("sgd", 0.05, momentum=0.9, clip=6.5),
}


def draw(name, shape):
    """Values in [-1, 1), float64, a function of the name and the shape."""
    return uniform(f"{name} {list(shape)}", math.prod(shape)).reshape(shape).astype(np.float64)


def initial():
    """{parameter: values before the first step}, float64."""
    return {name: draw(name, shape) for name, shape in SHAPES.items()}


def gradients(parameters, step):
    """{parameter: gradient} at `step`, from 0: factor · (curvature · (parameter - target) + noise of the step), curvature in [1, 3).

    This is arithmetic on arrays of any library. The result is float64 if the parameters are.
    """
    result = {}
    for name, shape in SHAPES.items():
        curvature, target = 2 + draw(f"curvature {name}", shape), draw(f"target {name}", shape)
        noise = 2 * draw(f"noise {name} {step}", shape)
        result[name] = FACTORS[name] * (curvature * (parameters[name] - target) + noise)
    return result


def recorded_parameters(case):
    """{parameter: values after each step [20, *shape]}, float64."""
    with np.load(RECORDED) as file:
        rows = file[f"{case}/parameters"]
    result, start = {}, 0
    for name, shape in SHAPES.items():
        end = start + math.prod(shape)
        result[name] = rows[:, start:end].reshape(STEPS, *shape)
        start = end
    return result


def recorded_rates(case):
    """Learning rates of steps 0 to 19, and the rate that a step 20 would have: [21], float64."""
    with np.load(RECORDED) as file:
        return file[f"{case}/rates"]
