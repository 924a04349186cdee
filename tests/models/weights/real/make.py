"""Makes `zip.pth` and `stream.pth` with PyTorch 2.14, which the tests do not need: python tests/models/weights/real/make.py

The values of a tensor are 0, 1, 2 … in the order of its storage, except where `test_pytorch.py` says otherwise.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn


def numbers(*shape, dtype=torch.float32):
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)


network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
optimizer = torch.optim.Adam(network.parameters())
network(torch.ones(2, 2, 4, 4)).sum().backward()
optimizer.step()
scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
both = numbers(10)
dtypes = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "complex64",
    "uint16",
)
tagged = nn.Parameter(numbers(2))
tagged.tag = "x"
tensors = {name: numbers(2, 3, dtype=getattr(torch, name)) for name in dtypes}
tensors |= {
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(7),
    "none": torch.zeros(0, 3),
    "transposed": numbers(2, 3).t(),
    "steps": numbers(4, 6)[1:3, ::2],
    "expanded": numbers(3).expand(4, 3),
    "channels_last": numbers(2, 3, 2, 2).to(memory_format=torch.channels_last),
    "first": both[:4],
    "second": both[4:].view(2, 3),
    "parameter": nn.Parameter(numbers(2)),
    "tagged": tagged,
    "buffer": nn.Buffer(numbers(2)),
}
checkpoint = {
    "epoch": torch.tensor(3),
    "state_dict": OrderedDict(tensors),
    "optimizer": optimizer.state_dict(),
    "scheduler": scheduler.state_dict(),  # has a collections.Counter
    "args": {"lr": 1e-3, "device": torch.device("cpu"), "dtype": torch.float16, "size": torch.Size([3]), "n": 2**70},
    "other": [None, True, "ä", b"bytes", bytearray(b"x"), {1, 2}, 1 + 2j, (1, -1, 300, 70000, 0.5)],
}
folder = Path(__file__).parent
torch.save(checkpoint, folder / "zip.pth")
torch.save(checkpoint, folder / "stream.pth", _use_new_zipfile_serialization=False)
