"""Which part of every map is image, and which is padding that was added to share a shape, and thus a compilation.

    with padded(sizes, images.shape[1:3]):
        output = model.apply(variables, images)

gives each image of the batch the scores that it has alone: what the network computes from the padding never reaches the image. Inside
the block, the layers that look further than one position (convolution, pooling, resizing, attention, sweeps) ask this file. Outside of
it they cost nothing: no map has padding. The scope is that of tracing, like an axis's name in `jax.vmap`. With padding, shapes may be
symbolic (`jax.export`), in multiples of `STRIDE`.

An image of height v, padded to H, has ⌈v/s⌉ rows of its own in a map of H/s rows, whatever the strides that make up s; H is a multiple of
`STRIDE`. Caffe's poolings (`resizing.max_pool`), which make ⌊n/2⌋ + 1 rows of n, leave a map of H/s + 1 rows, ⌈(v − 1)/s⌉ + 1 of them the
image's.
"""

import contextlib
import contextvars
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int, Shaped

from ctxseg.models.shapes import Array

STRIDE = 32  # of the coarsest map of any backbone
LONGEST = 1 << 14  # pixels along a side of an image in a symbolic shape

Size = tuple[Any, ...]  # height and width; in an export, symbolic dimensions
Lengths = tuple[Int[Array, " b"], Int[Array, " b"]]  # of each image, rows and columns

_scope: contextvars.ContextVar[tuple[Any, Size] | None] = contextvars.ContextVar("extent", default=None)


@contextlib.contextmanager
def padded(sizes: Int[Array, "b 2"] | None, shape: Size):
    """Inside, batches are of images of `sizes` (height, width), padded below and to the right to `shape`.

    `sizes` None: nothing is padded.
    """
    token = _scope.set(None if sizes is None else (sizes, tuple(shape)))
    try:
        yield
    finally:
        _scope.reset(token)


def scaled(shape: Size, factor: float) -> tuple[Size, Int[Array, "b 2"] | None, tuple[Lengths, Lengths] | None]:
    """The image sizes that `factor` makes of those in scope, which are padded to `shape`.

    Returns:
        The new shape, a multiple of `STRIDE` where there is padding; the images' new sizes (height, width), or None; and for
        `resizing.resize`, the rows and columns before and after, or None.
    """
    before = own = lengths(shape)
    if before is None or own is None:
        return tuple(max(round(n * factor), 1) for n in shape), None, None
    if factor != 1:
        # Looked up, not multiplied: float32 would round some of them otherwise than Python does.
        longest = max(LONGEST if jax.export.is_symbolic_dim(n) else n for n in shape)
        table = jnp.asarray(np.array([max(round(m * factor), 1) for m in range(longest + 1)], np.int32))
        own = table[before[0]], table[before[1]]
    return whole_strides([_times(n, factor) for n in shape]), jnp.stack(own, axis=1), (before, own)


def _times(n, factor):
    """`n` times `factor`, a whole number above 0; of a symbolic `n`, rounded up."""
    if not jax.export.is_symbolic_dim(n):
        return max(round(n * factor), 1)
    exact = Fraction(factor).limit_denominator(1000)  # of 0.6, 3/5
    if float(exact) != factor:
        exact = Fraction(math.ceil(factor * 1024), 1024)
    return -(-n * exact.numerator // exact.denominator)


def whole_strides(shape: Sequence[Any]) -> Size:
    """`shape`, rounded up to multiples of `STRIDE`."""
    height, width = (-(-n // STRIDE) * STRIDE for n in shape)
    return height, width


def lengths(shape: Size) -> Lengths | None:
    """How many rows and columns of a map of `shape` are the image's; None without padding."""
    scope = _scope.get()
    if scope is None:
        return None
    sizes, image = scope
    return tuple(_rows(sizes[:, axis], n, m) for axis, (n, m) in enumerate(zip(image, shape, strict=True)))


def _rows(own, image, rows):
    """Of a map of `rows`, those of an image that has `own` of `image` rows."""
    if image % rows != 0 and image % (rows - 1) == 0:
        stride = image // (rows - 1)
        return -(-(own - 1) // stride) + 1
    stride = (2 * image + rows) // (2 * rows)  # in whole numbers, which symbols are, too
    return -(-own // (stride or 1))


def inside(shape: Size) -> Bool[Array, "b h w"] | None:
    """Which positions of a map of `shape` are the image's; None without padding."""
    own = lengths(shape)
    if own is None:
        return None
    rows, columns = (jnp.arange(n) < count[:, None] for n, count in zip(shape, own, strict=True))
    return rows[:, :, None] & columns[:, None]


def clear(x: Shaped[Array, "b h w c"], value: float = 0) -> Shaped[Array, "b h w c"]:
    """`x` with `value` in the padding."""
    mask = inside(x.shape[1:3])
    return x if mask is None else jnp.where(mask[..., None], x, jnp.asarray(value, x.dtype))


def positions(shape: Size) -> Bool[Array, "b n"] | None:
    """`inside` of a map whose positions are in one row; None without padding."""
    mask = inside(shape)
    return mask if mask is None else mask.reshape(mask.shape[0], -1)
