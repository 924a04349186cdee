"""PyTorch's side of the training step of a ResNet-50 FCN."""

import importlib.util

import numpy as np

from gpu_parts.measuring import median_seconds


def missing(tiny: bool) -> str | None:
    """Why PyTorch cannot run here, or None."""
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    return None if tiny or torch.cuda.is_available() else "PyTorch finds no CUDA device"


def measure(images, labels, classes: int, dtype: str, tiny: bool) -> tuple[float, dict]:
    """Seconds of a step, the better of both memory formats, and the peak memory."""
    import torch
    from torch_networks import train_step

    torch.set_float32_matmul_precision("high")  # TF32, as JAX's default
    torch.backends.cudnn.benchmark = True  # tries several kernels, as XLA does
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = images.astype(np.float32) / 128 - 1
    formats = (True,) if tiny else (False, True)
    times = []
    for channels_last in formats:
        step, _ = train_step(images, labels, classes, channels_last, device, getattr(torch, dtype))
        times.append(median_seconds(step, tiny))
    memory = {"memory_bytes": torch.cuda.max_memory_allocated(), "memory_from": "device"} if device == "cuda" else {}
    return min(times), memory
