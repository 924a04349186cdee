"""Records the steps of PyTorch's optimisers, schedules and gradient clipping on a small problem, for the tests of ours.

In an environment with the packages of `benchmarks/requirements-published.txt`:

python benchmarks/published_optimizers.py

writes tests/references/published_optimizers.npz. The problem and the cases are in `tests/references/published_optimizers.py`. All is
computed and stored in float64: "CASE/parameters" [20,n], the values of all parameters after each step, and "CASE/rates" [21].
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, PolynomialLR, SequentialLR

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.references import published_optimizers as cases


def create_optimizer(case, parameters):
    groups = [
        {"params": [parameter], "weight_decay": case.decay if name in case.decayed else 0.0}
        for name, parameter in parameters.items()
    ]
    if case.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=case.rate)
    assert case.optimizer == "sgd", case
    return torch.optim.SGD(groups, lr=case.rate, momentum=case.momentum, nesterov=case.nesterov)


def create_schedule(case, optimizer):
    if case.schedule == "constant":
        return ConstantLR(optimizer, factor=1)
    if case.schedule == "cosine":
        return CosineAnnealingLR(optimizer, cases.STEPS)
    if case.schedule == "poly":
        return PolynomialLR(optimizer, cases.STEPS, case.power)
    assert case.schedule == "warmup_cosine", case
    warmup = LinearLR(optimizer, start_factor=case.warmup_factor, total_iters=case.warmup_steps)
    cosine = CosineAnnealingLR(optimizer, cases.STEPS - case.warmup_steps)
    return SequentialLR(optimizer, [warmup, cosine], milestones=[case.warmup_steps])


def record(case):
    parameters = {name: torch.from_numpy(value).requires_grad_() for name, value in cases.initial().items()}
    optimizer = create_optimizer(case, parameters)
    schedule = create_schedule(case, optimizer)
    rows, rates = [], [optimizer.param_groups[0]["lr"]]
    for step in range(cases.STEPS):
        gradients = cases.gradients({name: value.detach().numpy() for name, value in parameters.items()}, step)
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(gradients[name])
        if case.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), case.clip)
        optimizer.step()
        schedule.step()
        rows.append(np.concatenate([value.detach().numpy().ravel() for value in parameters.values()]))
        rates.append(optimizer.param_groups[0]["lr"])
    return {"parameters": np.stack(rows), "rates": np.array(rates)}


def main():
    arrays = {f"{name}/{key}": value for name, case in cases.CASES.items() for key, value in record(case).items()}
    assert all(array.dtype == np.float64 and np.isfinite(array).all() for array in arrays.values())
    np.savez_compressed(cases.RECORDED, **arrays)
    print(f"{cases.RECORDED}: {cases.RECORDED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
