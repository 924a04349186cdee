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

    @staticmethod
    def effective(fields: dict) -> dict:
        """{"mean", "std", "order"} as they take effect, given the fields."""
        defaults = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "order": "rgb"}
        return {name: fields[name] or default for name, default in defaults.items()}

    def __call__(self, images: Real[Array, "b H W 3"]) -> Float32[Array, "b H W 3"]:
        """RGB images in 0 to 255 → what the backbone reads."""
        x = images.astype(jnp.float32)
        if self.order == "bgr":
            x = x[..., ::-1]
        used = self.effective(dataclasses.asdict(self))
        return (x - jnp.array(used["mean"])) / jnp.array(used["std"])
