"""The ResNet-50 FCN of output stride 8 in PyTorch, and its training step: what the benchmarks compare ctxseg's with."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


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


def fcn(classes):
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for i, (blocks, stride, first, rest) in enumerate(
        zip((3, 4, 6, 3), (1, 2, 1, 1), (1, 1, 1, 2), (1, 1, 2, 4), strict=True)
    ):
        for j in range(blocks):
            layers.append(Bottleneck(inputs, 64 * 2**i, stride if j == 0 else 1, first if j == 0 else rest))
            inputs = 256 * 2**i
    return nn.Sequential(*layers, nn.Conv2d(inputs, classes, 1))


def train_step(images, labels, classes, channels_last, device="cpu", dtype=torch.float32):
    """A function that runs one step, forward, backward and SGD with momentum, and returns the loss; and the number of parameters.

    Args:
        images: float32 `[B,H,W,3]`.
        labels: ids, `[B,H,W]`.
        classes: their number.
        channels_last: whether maps are stored with channels last.
        device: device of PyTorch.
        dtype: bfloat16: what autocast computes in it; parameters are float32.
    """
    model = fcn(classes).to(device).train()
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
    if channels_last:
        model, x = (t.to(memory_format=torch.channels_last) for t in (model, x))
    y = torch.from_numpy(labels.astype(np.int64)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            logits = F.interpolate(model(x), size=y.shape[1:], mode="bilinear", align_corners=False)
            loss = F.cross_entropy(logits.float(), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, sum(p.numel() for p in model.parameters())
