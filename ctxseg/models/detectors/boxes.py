"""Boxes: their overlap, and how a network codes one box relative to another."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float

from ctxseg.models.shapes import Array

LARGEST = math.log(1000 / 16)  # limit of a decoded log-ratio of sizes, so that exp does not overflow (Detectron)

Weights = tuple[float, float, float, float]


def area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """The areas of boxes, in square pixels."""
    left, top, right, bottom = jnp.moveaxis(boxes, -1, 0)
    return (right - left) * (bottom - top)


def iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Area of the intersection over the area of the union, of every box of `a` with every box of `b`; 0 where the union has no area."""
    return overlap(jnp.moveaxis(a, -1, 0)[..., None], jnp.moveaxis(b, -1, 0)[:, None])


def overlap(a, b):
    """`iou` of boxes given as four arrays (left, top, right, bottom); the arrays of `a` and `b` broadcast."""
    (a_left, a_top, a_right, a_bottom), (b_left, b_top, b_right, b_bottom) = a, b
    width = jnp.minimum(a_right, b_right) - jnp.maximum(a_left, b_left)
    height = jnp.minimum(a_bottom, b_bottom) - jnp.maximum(a_top, b_top)
    both = jnp.maximum(width, 0) * jnp.maximum(height, 0)
    union = (a_right - a_left) * (a_bottom - a_top) + (b_right - b_left) * (b_bottom - b_top) - both
    return both / jnp.where(union > 0, union, 1)


def encode(boxes: Float[Array, "*n 4"], anchors: Float[Array, "*n 4"], weights: Weights) -> Float[Array, "*n 4"]:
    """The deltas (dx, dy, dw, dh) that `decode` turns into `boxes`: Faster R-CNN, eq. 2, each times its weight.

    dx and dy are distances of centres in widths and heights of the anchor; dw and dh are logarithms of the ratios of the sizes. If the box
    or its anchor has no width, dx and dw are 0; if it has no height, dy and dh are 0.
    """
    centre, size = _centre_and_size(boxes)
    anchor_centre, anchor_size = _centre_and_size(anchors)
    exists = (size > 0) & (anchor_size > 0)
    size, anchor_size = (jnp.where(exists, s, 1) for s in (size, anchor_size))
    shift = jnp.where(exists, (centre - anchor_centre) / anchor_size, 0)
    return jnp.concatenate([shift, jnp.log(size / anchor_size)], -1) * jnp.asarray(weights, shift.dtype)


def decode(deltas: Float[Array, "*n 4"], anchors: Float[Array, "*n 4"], weights: Weights) -> Float[Array, "*n 4"]:
    """The boxes that `deltas` describe relative to `anchors`, see `encode`. A size is at most 1000/16 times the anchor's."""
    shift, ratio = jnp.split(deltas / jnp.asarray(weights, deltas.dtype), 2, -1)
    centre, size = _centre_and_size(anchors)
    centre = centre + shift * size
    half = jnp.exp(jnp.minimum(ratio, LARGEST)) * size / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def clip(boxes: Float[Array, "*n 4"], size: Any) -> Float[Array, "*n 4"]:
    """`boxes`, cut at the border of an image of `size` (height, width). A box outside the image keeps no area."""
    height, width = size
    return jnp.clip(boxes, 0, jnp.stack([jnp.asarray(n, boxes.dtype) for n in (width, height, width, height)]))


def _centre_and_size(boxes):
    """Centres (x, y) and sizes (width, height) of boxes, each `[…,2]`."""
    start, end = jnp.split(boxes, 2, -1)
    return (start + end) / 2, end - start
