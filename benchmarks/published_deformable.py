"""Records what torchvision's deformable convolution and position-sensitive pooling compute, for the tests of ours.

In an environment with the packages of `benchmarks/requirements-published.txt`:

python benchmarks/published_deformable.py

writes tests/references/published_deformable.npz. The cases and their inputs are in `tests/references/published_deformable.py`. Values and
gradients are computed in float64 and stored in float32, in torchvision's layouts, under the names "CASE/ARRAY". The gradient of an input
has the name of the input.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torchvision.ops import deform_conv2d, ps_roi_pool

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.references import published_deformable as cases


def tensor(kind, array):
    return torch.from_numpy(np.array(cases.to_torchvision(kind, array), np.float64))


def record_convolution(name):
    case, inputs = cases.CONVOLUTIONS[name], cases.convolution(name)
    kinds = {"x": "map", "offsets": "offsets", "kernel": "kernel"}
    x, offsets, kernel = (tensor(kind, inputs[key]).requires_grad_() for key, kind in kinds.items())
    padding = tuple(case.dilation * (k // 2) for k in case.kernel)
    output = deform_conv2d(x, offsets, kernel, stride=case.stride, padding=padding, dilation=case.dilation)
    output.backward(tensor("map", inputs["cotangent"]))
    return {"output": output, "x": x.grad, "offsets": offsets.grad, "kernel": kernel.grad}


def record_pooling():
    inputs = cases.pooling()
    maps = tensor("grouped", inputs["maps"]).requires_grad_()
    boxes = torch.from_numpy(np.concatenate([inputs["images"][:, None], inputs["boxes"]], axis=1, dtype=np.float64))
    output = ps_roi_pool(maps, boxes, cases.BINS, cases.SCALE)
    output.backward(tensor("map", inputs["cotangent"]))
    larger = torch.nn.functional.pad(maps.detach(), (0, 1, 0, 1), value=1e6)  # these are never read
    return {
        "output": output,
        "output_of_larger_maps": ps_roi_pool(larger, boxes, cases.BINS, cases.SCALE),
        "maps": maps.grad,
    }


def main():
    recorded = {name: record_convolution(name) for name in cases.CONVOLUTIONS} | {"ps_roi_pool": record_pooling()}
    arrays = {
        f"{case}/{key}": value.detach().numpy().astype(np.float32)
        for case, values in recorded.items()
        for key, value in values.items()
    }
    assert all(np.isfinite(array).all() for array in arrays.values())
    np.savez_compressed(cases.RECORDED, **arrays)
    print(f"{cases.RECORDED}: {cases.RECORDED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
