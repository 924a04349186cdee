"""Networks in PyTorch, and their training steps: what the benchmarks compare ctxseg's with."""

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


def resnet50(stem):
    """[stem and res2, res3, res4, res5] of output stride 8."""
    inputs, parts = 64, [nn.Sequential(*stem), *(nn.Sequential() for _ in range(3))]
    for i, (blocks, stride, first, rest) in enumerate(
        zip((3, 4, 6, 3), (1, 2, 1, 1), (1, 1, 1, 2), (1, 1, 2, 4), strict=True)
    ):
        for j in range(blocks):
            parts[i].append(Bottleneck(inputs, 64 * 2**i, stride if j == 0 else 1, first if j == 0 else rest))
            inputs = 256 * 2**i
    return parts


def layer(inputs, outputs, size=1, stride=1):
    """Convolution, normalisation, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def fcn(classes):
    """The ResNet-50 FCN of output stride 8."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*resnet50(stem), nn.Conv2d(2048, classes, 1))


class MCIBI(nn.Module):
    """The equivalent of `ctxseg/configs/mcibi.py:ade20k`: ResNet-50, output stride 8, the memory, and a head on res4.

    The memory is that of a network that has seen all classes.
    """

    def __init__(self, classes, channels=512):
        super().__init__()
        stem = [layer(3, 32, 3, stride=2), layer(32, 32, 3), layer(32, 64, 3), nn.MaxPool2d(3, 2, 1)]
        self.parts = nn.ModuleList(resnet50(stem))
        self.bottleneck = layer(2048, channels, 3)
        self.distribution, self.classifier = self._scores(channels, classes), self._scores(channels, classes)
        inner = channels // 2
        self.query = nn.Sequential(layer(channels, inner), layer(inner, inner))
        self.key = nn.Sequential(layer(channels, inner), layer(inner, inner))
        self.value, self.out = layer(channels, inner), layer(inner, channels)
        self.fuse = layer(2 * channels, channels, 3)
        self.head = nn.Sequential(layer(1024, channels, 3), nn.Dropout(0.1), nn.Conv2d(channels, classes, 1))
        self.register_buffer("bank", torch.randn(classes, channels))

    def _scores(self, channels, classes):
        return nn.Sequential(layer(channels, channels), nn.Dropout(0.1), nn.Conv2d(channels, classes, 1))

    def forward(self, x):
        """Logits, those of the distribution and of the head on res4, and the representations of pixels."""
        res4 = self.parts[2](self.parts[1](self.parts[0](x)))
        r = self.bottleneck(self.parts[3](res4))
        distribution = self.distribution(r)
        c = torch.einsum("bkhw,kc->bchw", distribution.softmax(1), self.bank)
        q, k, v = (part(y).flatten(2).transpose(1, 2) for part, y in ((self.query, r), (self.key, c), (self.value, c)))
        beyond = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(r), -1, *r.shape[2:])
        augmented = self.fuse(torch.cat([r, self.out(beyond)], 1))
        return self.classifier(augmented), distribution, self.head(res4), r

    def consistency(self):
        """The loss of the classifier on the memory's entries, normalised by its running statistics, without dropout."""
        self.classifier.eval()
        scores = self.classifier(self.bank.T[None, :, :, None])[0, :, :, 0].T
        self.classifier.train()
        return F.cross_entropy(scores, torch.arange(len(self.bank)))

    @torch.no_grad()
    def update(self, r, labels, rate=0.5):
        """The memory after a step: each entry moves to the mean of its pixels, weighted by 1 − their cosine similarity with it."""
        pixels = resized(r, labels).permute(0, 2, 3, 1).flatten(0, 2)
        flat = labels.flatten()
        weights = 1 - F.cosine_similarity(pixels, self.bank[flat], dim=1)
        sums = torch.zeros_like(self.bank).index_add_(0, flat, pixels * weights[:, None])
        total = torch.zeros(len(self.bank)).index_add_(0, flat, weights)[:, None]
        self.bank.copy_(
            torch.where(total > 0, (1 - rate) * self.bank + rate * sums / total.clamp(min=1e-12), self.bank)
        )


class ReNetGroup(nn.Module):
    """A vertical and a horizontal bidirectional LSTM over all columns and rows."""

    def __init__(self, inputs, units):
        super().__init__()
        self.vertical = nn.LSTM(inputs, units, bidirectional=True)
        self.horizontal = nn.LSTM(2 * units, units, bidirectional=True)

    def forward(self, x):
        """`[B,h,w,C]` → `[B,h,w,2·units]`."""
        b, h, w, _ = x.shape
        x = self.vertical(x.transpose(0, 1).reshape(h, b * w, -1))[0].reshape(h, b, w, -1)
        return self.horizontal(x.permute(2, 1, 0, 3).reshape(w, b * h, -1))[0].reshape(w, b, h, -1).permute(1, 2, 0, 3)


class EfficientNetLite0(nn.Module):
    """The blocks of the package `efficientnet_lite_pytorch`, without dropping any, and without the layers after the last block."""

    def __init__(self):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.net = EfficientNet.from_name("efficientnet-lite0")
        del self.net._conv_head, self.net._bn1, self.net._fc

    def forward(self, x):
        x = self.net._swish(self.net._bn0(self.net._conv_stem(x)))
        for block in self.net._blocks:
            x = block(x)
        return x


def resized(x, labels):
    """`x` `[B,C,h,w]`, interpolated to the size of `labels`."""
    return F.interpolate(x, size=labels.shape[1:], mode="bilinear", align_corners=False)


def optimised(model, loss):
    """A function that runs a step of SGD with momentum and returns the loss."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step():
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    return step


def prepared(model, images, channels_last, device="cpu"):
    """The model in training mode, and images `[B,3,H,W]`, from `[B,H,W,3]`, in the memory format."""
    model, x = model.to(device).train(), torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
    return (t.to(memory_format=torch.channels_last) for t in (model, x)) if channels_last else (model, x)


def train_step(images, labels, classes, channels_last, device="cpu", dtype=torch.float32):
    """A function that runs one step of the FCN and returns the loss, and the number of parameters.

    Args:
        images: float32 `[B,H,W,3]`.
        labels: ids, `[B,H,W]`.
        classes: their number.
        channels_last: whether maps are stored with channels last.
        device: device of PyTorch.
        dtype: bfloat16: what autocast computes in it; parameters are float32.
    """
    model, x = prepared(fcn(classes), images, channels_last, device)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)

    def loss():
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32):
            return F.cross_entropy(resized(model(x), y).float(), y)

    return optimised(model, loss), sum(p.numel() for p in model.parameters())


def mcibi_step(images, labels, classes, channels_last):
    """As `train_step`, for MCIBI: its four losses and the update of the memory."""
    model, x = prepared(MCIBI(classes), images, channels_last)
    y = torch.from_numpy(labels.astype(np.int64))
    pixels = []

    def loss():
        *logits, r = model(x)
        pixels[:] = [r.detach()]
        losses = [F.cross_entropy(resized(z, y), y) for z in logits]
        return losses[0] + 0.4 * (losses[1] + losses[2]) + model.consistency()

    step = optimised(model, loss)

    def whole():
        value = step()
        model.update(*pixels, y)
        return value

    return whole, sum(p.numel() for p in model.parameters())
