"""Three training steps of a small MCIBI network in PyTorch, in float64, written from SPEC §1 and §6; `mcibi_torch.npz` holds their result.

    pip install -r benchmarks/requirements.txt
    python tests/references/mcibi_torch.py          records the file again, in seconds

The tests read the file and the functions above `record`, which need no PyTorch. Nothing is imported from the package: parameters have its
names and shapes (kernels `[k,k,in,out]`), and their initial values are a function of these.

The network: the backbone `tiny` at output stride 8, no context within the image, the memory with concatenation, a classifier with a hidden
layer; no dropout. Batch norm's running variance is the biased one here, as in the package; PyTorch's own layer has the unbiased one.
The memory starts empty and takes the mean of a class's pixels at first sight, so that nothing is random.

What it is sensitive to: as long as all pixels have about the same class distribution W, what the memory gives them, W·M, is nearly
constant over the image, with a mean that is many times its deviation, and batch norm subtracts the one and divides by the other. The last
layers' kernels start small here for that reason (mmsegmentation gives them a deviation of 0.01).
"""

import zlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
STEPS, CLASSES, WIDTH, CHANNELS = 3, 5, 8, 8
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def initial(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The parameter `name` before the first step, float32: kernels as He's, but for those of scores; scales around 1, biases around 0."""
    drawn = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    if name.endswith("scores/kernel"):
        return (0.1 * drawn).astype(np.float32)
    if name.endswith("kernel"):
        return (drawn * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
    return (name.endswith("scale") + 0.1 * drawn).astype(np.float32)


def batches():
    """Images uint8 `[2,40,56,3]` and labels uint8 `[2,40,56]` of each step: blocks of a class's colour with noise; 255 is ignored."""
    rng = np.random.default_rng(0)
    colours = rng.integers(30, 226, (CLASSES, 3))
    for _ in range(STEPS):
        labels = rng.integers(0, CLASSES, (2, 5, 7)).repeat(8, 1).repeat(8, 2)
        images = (colours[labels] + rng.normal(0, 20, (*labels.shape, 3))).clip(0, 255)
        labels[:, :3] = 255
        yield images.astype(np.uint8), labels.astype(np.uint8)


def record():
    """Runs the steps and writes the parameters after them, float32."""
    import torch
    import torch.nn.functional as F

    params, running = {}, {}

    def parameter(name, shape):
        if name not in params:
            params[name] = torch.tensor(initial(name, shape), dtype=torch.float64, requires_grad=True)
        return params[name]

    def conv(x, name, features, size=1, stride=1, dilation=1, bias=False):
        kernel = parameter(f"{name}/kernel", (size, size, x.shape[1], features)).permute(3, 2, 0, 1)
        bias = parameter(f"{name}/bias", (features,)) if bias else None
        return F.conv2d(x, kernel, bias, stride, dilation * (size // 2), dilation)

    def norm(x, name, train=True):
        scale, bias = (parameter(f"{name}/{kind}", (x.shape[1],)) for kind in ("scale", "bias"))
        mean, var = running.setdefault(name, (torch.zeros(x.shape[1]).double(), torch.ones(x.shape[1]).double()))
        if train:
            batch_mean, batch_var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            running[name] = (0.9 * mean + 0.1 * batch_mean.detach(), 0.9 * var + 0.1 * batch_var.detach())
            mean, var = batch_mean, batch_var
        mean, var, scale, bias = (v[:, None, None] for v in (mean, var, scale, bias))
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + bias

    def layer(x, name, features, size=1, stride=1, dilation=1, relu=True, train=True):
        x = norm(conv(x, f"{name}/conv", features, size, stride, dilation), f"{name}/norm", train)
        return F.relu(x) if relu else x

    def classifier(x, name, train=True):
        return conv(layer(x, f"{name}/hidden", CHANNELS, train=train), f"{name}/scores", CLASSES, bias=True)

    def backbone(x):
        x = layer(x, "backbone/stem", WIDTH, 3, stride=2)
        for i, (factor, stride, dilation) in enumerate(((1, 2, 1), (2, 2, 1), (4, 1, 1), (6, 1, 2)), 2):
            name, features = f"backbone/res{i}_1", factor * WIDTH
            y = layer(x, f"{name}/conv1", features, 3, stride, dilation)
            y = layer(y, f"{name}/conv2", features, relu=False)
            if stride != 1 or x.shape[1] != features:
                x = layer(x, f"{name}/shortcut", features, stride=stride, relu=False)
            x = F.relu(x + y)
        return x

    def attend(r, c):
        inner, name = CHANNELS // 2, "memory/beyond"
        q = layer(layer(r, f"{name}/query1", inner), f"{name}/query2", inner)
        k = layer(layer(c, f"{name}/key1", inner), f"{name}/key2", inner)
        q, k, v = (x.flatten(2) for x in (q, k, layer(c, f"{name}/value", inner)))
        weights = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) / inner**0.5, dim=-1)
        return layer(
            torch.einsum("bnm,bcm->bcn", weights, v).reshape(len(r), inner, *r.shape[2:]), f"{name}/out", CHANNELS
        )

    def upsample(x, labels):
        return F.interpolate(x, size=labels.shape[1:], mode="bilinear", align_corners=False)

    def cross_entropy(logits, labels):
        return F.cross_entropy(upsample(logits, labels), labels, ignore_index=255)

    def updated(bank, seen, r, labels, step):
        """The memory after a step."""
        m = (1 - step / STEPS) ** 0.9 * (0.9 - 0.9 / 100) + 0.9 / 100
        bank, seen, pixels = bank.clone(), seen.clone(), upsample(r, labels).permute(0, 2, 3, 1)
        for c in range(CLASSES):
            of_class = pixels[labels == c]
            if not len(of_class):
                continue
            if seen[c]:
                weights = 1 - F.cosine_similarity(of_class, bank[c][None], dim=1)
                bank[c] = (1 - m) * bank[c] + m * (weights[:, None] * of_class).sum(0) / weights.sum()
            else:
                bank[c], seen[c] = of_class.mean(0), True
        return bank, seen

    bank, seen = torch.zeros(CLASSES, CHANNELS).double(), torch.zeros(CLASSES, dtype=bool)
    velocity = {}
    for step, (images, labels) in enumerate(batches()):
        x = torch.tensor((images - np.array(RGB_MEAN)) / np.array(RGB_STD)).permute(0, 3, 1, 2)
        labels = torch.tensor(labels.astype(np.int64))
        r = layer(backbone(x), "memory/bottleneck", CHANNELS, 3)
        distribution = classifier(r, "memory/distribution")
        c = torch.einsum("bkhw,kc->bchw", torch.softmax(distribution, dim=1), bank)
        augmented = layer(torch.cat([r, attend(r, c)], dim=1), "memory/fuse_beyond", CHANNELS, 3)
        # The K entries are classified first, by the running statistics, which are those before this step.
        entries = classifier(bank.T[None, :, None], "classifier", train=False)[0, :, 0].T
        loss = cross_entropy(classifier(augmented, "classifier"), labels) + 0.4 * cross_entropy(distribution, labels)
        if seen.any():
            loss = loss + F.cross_entropy(entries, torch.arange(CLASSES), reduction="none")[seen].mean()
        names = list(params)
        gradients = torch.autograd.grad(loss, [params[name] for name in names])
        rate = LEARNING_RATE * (1 - step / STEPS) ** 0.9
        with torch.no_grad():
            bank, seen = updated(bank, seen, r, labels, step)
            for name, gradient in zip(names, gradients, strict=True):
                decay = WEIGHT_DECAY * params[name] if name.endswith("kernel") else 0
                velocity[name] = MOMENTUM * velocity.get(name, 0) + gradient + decay
                params[name] -= rate * velocity[name]
    np.savez_compressed(FILE, **{name: p.detach().numpy().astype(np.float32) for name, p in params.items()})
    print(
        f"{FILE}: {sum(p.numel() for p in params.values()):,} parameters, {FILE.stat().st_size:,} bytes, loss {loss:.4f}"
    )


if __name__ == "__main__":
    record()
