"""Records PyTorch's cross entropy and torchvision's focal loss, for the tests of ours.

In an environment with the packages of `benchmarks/requirements-published.txt`:

python benchmarks/published_losses.py

writes tests/references/published_losses.npz. The scores and labels are in `tests/references/published_losses.py`. Losses and their
gradients are computed and stored in float64, under the names "CASE/loss" and "CASE/gradient".
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torchvision.ops import sigmoid_focal_loss

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.references import published_losses as cases


def tensors(pixels):
    scores, labels = pixels
    return torch.from_numpy(scores).requires_grad_(), torch.from_numpy(labels)


def record_cross_entropy(arguments):
    scores, labels = tensors(cases.pixels())
    if "weight" in arguments:
        arguments = {"weight": torch.tensor(arguments["weight"], dtype=torch.float64)}
    loss = cross_entropy(scores, labels, ignore_index=cases.IGNORE, **arguments)
    loss.backward()
    return {"loss": loss, "gradient": scores.grad}


def record_focal(gamma):
    """Without α, which is what a negative value means; torchvision has neither a softmax nor ignored pixels."""
    scores, labels = tensors(cases.two_classes())
    counted = labels != cases.IGNORE
    score = (scores[:, 1] - scores[:, 0])[counted]
    loss = sigmoid_focal_loss(score, labels[counted].double(), alpha=-1, gamma=gamma, reduction="mean")
    loss.backward()
    return {"loss": loss, "gradient": scores.grad}


def main():
    recorded = {name: record_cross_entropy(arguments) for name, arguments in cases.CROSS_ENTROPY.items()}
    recorded |= {name: record_focal(gamma) for name, gamma in cases.FOCAL.items()}
    arrays = {
        f"{case}/{key}": value.detach().numpy() for case, values in recorded.items() for key, value in values.items()
    }
    assert all(array.dtype == np.float64 and np.isfinite(array).all() for array in arrays.values())
    np.savez_compressed(cases.RECORDED, **arrays)
    print(f"{cases.RECORDED}: {cases.RECORDED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
