"""The test protocol: scales, mirror images, windows, shapes and the CRF (SPEC §8)."""

import dataclasses
from collections.abc import Sequence

from ctxseg.bounds import check
from ctxseg.data import superpixels
from ctxseg.data.sizes import base_size_of, bucket
from ctxseg.data.transforms import check_base_size, mirrored_classes
from ctxseg.errors import UserError
from ctxseg.settings import declared


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How probabilities of an image are computed.

    Attributes:
        scales: factors of height and width; probabilities are averaged over them.
        flip: whether to average over the image and its mirror image.
        mirrored_classes: for each class, its class in a mirror image, see `transforms.mirrored_classes`; (): the same class.
        size: base size, to which the image is resized before it is scaled: (shorter side,), (height, width), or () to keep its size.
        window: height and width of the sliding window over a scaled image; () for the whole image at once.
        stride: step of the window: up to 1, a fraction of its size; above 1, in pixels.
        crf: arguments of `crf.mean_field`, which refines probabilities at the image's size; None: no CRF.
        shapes: `buckets`: images are padded to one of a few shapes, each compiled once; `exact`: every size is compiled.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    mirrored_classes: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    window: tuple[int, ...] = ()
    stride: float = 2 / 3
    crf: dict | None = None
    shapes: str = "buckets"

    def __str__(self):
        parts = [f"scale{'s' * (len(self.scales) > 1)} {', '.join(f'{s:g}' for s in self.scales)}"]
        if self.flip:
            parts.append("flipped")
        if self.size:
            resized = "their shorter side" if len(self.size) == 1 else "images"
            parts.append(f"of {resized} resized to {'×'.join(map(str, self.size))}")
        window = "whole image"
        if self.window:
            step = f"{self.stride:.2f}" if self.stride <= 1 else f"a stride of {self.stride:g} pixels"
            window = f"windows of {self.window[0]}×{self.window[1]} at {step}"
        refined = [f"CRF of {self.crf['iterations']} iterations"] if self.crf else []
        return ", ".join([*parts, window, *refined])


def create_protocol(config, class_names: Sequence[str] = ()) -> Protocol:
    """The protocol that `config`, the section `eval`, describes for these classes. UserError: a value is invalid."""
    declared.check_section("eval", config)
    check_base_size(config.size, "eval.size")
    if len(config.window) not in (0, 2) or any(type(n) is not int or n < 1 for n in config.window):
        raise UserError(f"config.eval.window is {tuple(config.window)}; expected a height and a width, or ()")
    if config.stride > 1 and (config.stride % 1 or config.window and config.stride > min(config.window)):
        raise UserError(
            f"config.eval.stride is {config.stride:g}; expected a share of the window, up to 1, or whole pixels, at most those of "
            "config.eval.window"
        )
    check_crf(dict(config.crf), "config.eval.crf")
    refinement = dict(config.crf) if config.crf.iterations else None
    return Protocol(
        tuple(map(float, config.scales)),
        config.flip,
        mirrored_classes(class_names),
        tuple(config.size),
        tuple(config.window),
        config.stride,
        refinement,
        config.shapes,
    )


def shape_of(size: tuple[int, int], shapes: str) -> tuple[int, int]:
    """The padded shape for an image of `size` (height, width)."""
    height, width = map(bucket, size) if shapes == "buckets" else size
    return height, width


def canvas_of(size: tuple[int, int], protocol: Protocol) -> tuple[int, int] | None:
    """The padded shape for an image of `size` (height, width) at its base size; None if the shape of the input determines it."""
    if len(protocol.size) != 1 or protocol.shapes == "exact":
        return None
    return shape_of(base_size_of(size, protocol.size), protocol.shapes)


def check_crf(parameters: dict, field: str = "config.crf") -> None:
    """UserError unless `parameters` are parameters of `mean_field` with valid values. `field` is their section's name in messages."""
    kinds = declared.annotations("eval.crf")
    for name, value in parameters.items():
        if name not in kinds:
            raise UserError(f"{field}.{name} is unknown; expected one of {', '.join(kinds)}")
        number = int if name == "iterations" else int | float
        if not isinstance(value, number) or isinstance(value, bool):
            raise UserError(f"{field}.{name} is {value!r}; expected a {'whole ' * (number is int)}number")
        check(f"{field.removeprefix('config.')}.{name}", value, kinds[name])


def superpixel_views(config):
    """`superpixels.views` for `config.data.superpixels` and the scales of `config.eval`."""
    return superpixels.views(config.data.superpixels, config.eval.superpixels, config.eval.scales, config.eval.size)
