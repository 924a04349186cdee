"""The pixel format of a network: the mean, standard deviation and channel order that its weights were trained with."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Float32, Real

from ctxseg.bounds import Amount, Factor
from ctxseg.models.shapes import Array

# Of ImageNet's RGB values in 0 to 255. Most published weights expect them.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class PixelFormat:
    """(pixel − mean) / std of each channel.

    Attributes:
        mean: mean of each channel, of pixels in 0 to 255; default: that of the pretrained weights, or ImageNet's.
        std: standard deviation of each channel, of pixels in 0 to 255; default: that of the pretrained weights, or ImageNet's.
        order: order of the channels, rgb or bgr; default: that of the pretrained weights, or rgb.
    """

    mean: tuple[Amount, Amount, Amount] | None = None
    std: tuple[Factor, Factor, Factor] | None = None
    order: Literal["rgb", "bgr"] | None = None

    def filled(self) -> dict:
        """{"mean", "std", "order"}, with the defaults."""
        return {"mean": self.mean or IMAGENET_MEAN, "std": self.std or IMAGENET_STD, "order": self.order or "rgb"}

    def __call__(self, images: Real[Array, "b H W 3"]) -> Float32[Array, "b H W 3"]:
        """RGB images in 0 to 255 → what the backbone reads."""
        x = images.astype(jnp.float32)
        if self.order == "bgr":
            x = x[..., ::-1]
        return (x - jnp.array(self.mean or IMAGENET_MEAN)) / jnp.array(self.std or IMAGENET_STD)
