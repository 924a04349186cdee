"""Masks of objects: targets of the mask head, and its masks in the image."""

import jax.numpy as jnp
from jaxtyping import Float, Float32, Int, UInt8

from ctxseg.models.detectors.roi_align import corners, positions
from ctxseg.models.shapes import Array


def crop(
    packed: UInt8[Array, "n h _"],
    boxes: Float[Array, "r 4"],
    objects: Int[Array, " r"],
    size: int,
    shape: tuple[int, int] | None = None,
) -> Float32[Array, "r {size} {size}"]:
    """The objects' masks within boxes: RoIAlign of 2×2 samples a bin, `aligned`, so that `paste` restores the masks (detectron2).

    torchvision's targets are not `aligned`. Pasted as here, they would be half a pixel too far up and left.

    Args:
        packed: masks, 8 pixels a byte along the width: `np.packbits(mask, axis=-1, bitorder="little")`.
        boxes: boxes, in pixels.
        objects: index in `packed` of the object of each box.
        size: rows and columns of the result.
        shape: height and width of the image, at whose border samples are read as in `roi_align`; None: those of `packed`, 8 pixels a byte.

    Returns:
        Values from 0 to 1: shares of the object.
    """
    height, width = (packed.shape[1], 8 * packed.shape[2]) if shape is None else shape
    (y, weight_y), (x, weight_x) = (
        corners(positions(boxes[:, i], boxes[:, i + 2], size, 2, aligned=True), length, size)
        for i, length in ((1, height), (0, width))
    )
    r = len(boxes)
    y, x = y.reshape(r, -1, 1), x.reshape(r, 1, -1)
    byte = jnp.asarray(packed).at[objects[:, None, None], y, x // 8].get(mode="clip")
    values = ((byte >> (x % 8).astype(jnp.uint8)) & 1).astype(jnp.float32).reshape(r, size, 4, size, 4)
    return jnp.einsum("ryi,ryixj,rxj->ryx", weight_y, values, weight_x, precision="highest")


def paste(
    masks: Float[Array, "r m m"], boxes: Float[Array, "r 4"], shape: tuple[int, int]
) -> Float32[Array, "r {shape[0]} {shape[1]}"]:
    """Masks of boxes as masks of the image: each pixel's centre reads its place in the box, bilinearly.

    Outside a box a mask is continued by 0, with which the cells at its border are interpolated: up to half a cell outside the box, values
    fall from at most ½ to 0, as in detectron2. A box of no width or no height has an empty mask.

    Args:
        masks: masks over the boxes.
        boxes: boxes, in pixels of the image.
        shape: height and width of the image.
    """
    m = masks.shape[-1]
    weights = []
    for i, n in zip((1, 0), shape, strict=True):
        start, size = boxes[:, i, None], (boxes[:, i + 2] - boxes[:, i])[:, None]
        exists = size > 0
        position = (jnp.arange(n) + 0.5 - start) / jnp.where(exists, size, 1) * m - 0.5
        weights.append(jnp.maximum(0, 1 - jnp.abs(position[..., None] - jnp.arange(m))) * exists[..., None])
    return jnp.einsum("rym,rmn,rxn->ryx", weights[0], masks.astype(jnp.float32), weights[1], precision="highest")
