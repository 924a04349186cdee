"""Which part of every map is image, and which is padding. Images of several sizes are padded to one shape, which is compiled once.

    with padded(sizes, images.shape[1:3]):
        output = model.apply(variables, images)

gives each image the same scores as without padding: nothing that is computed from the padding reaches the image. Inside the block, the
layers that read more than one position (convolution, pooling, resizing, attention, recurrences) ask this module where the image ends.
Outside the block no map has padding, and the layers compute nothing extra. The block applies to what JAX traces in it, like the name of
an axis in `jax.vmap`. With padding, shapes may be symbolic (`jax.export`), in multiples of `STRIDE`.

An image of height v is padded to H, a multiple of `STRIDE`. In a map of H/s rows, the image has ⌈v/s⌉ rows, whichever strides multiply to
s. Caffe's poolings (`resizing.max_pool`) make ⌊n/2⌋ + 1 rows of n. Then the map has H/s + 1 rows, and the image ⌈(v − 1)/s⌉ + 1 of them.
A map whose stride s does not divide H, such as 14, has ⌈H/s⌉ rows. Its backbone calls `record`, as s does not follow from them.
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

STRIDE = 32  # stride of the coarsest map of any backbone
LONGEST = 1 << 14  # maximum height and width of an image, in pixels, in a symbolic shape

Size = tuple[Any, ...]  # height and width; in an export, symbolic dimensions
Lengths = tuple[Int[Array, " b"], Int[Array, " b"]]  # rows and columns of each image

# The sizes of the images, their padded shape, and the strides of the maps that `record` was called with, by the maps' shapes.
_scope: contextvars.ContextVar[tuple[Any, Size, dict[Size, int]] | None] = contextvars.ContextVar(
    "extent", default=None
)


@contextlib.contextmanager
def padded(sizes: Int[Array, "b 2"] | None, shape: Size):
    """A block in which the images of a batch have the `sizes` (height, width), and are padded below and to the right to `shape`.

    If `sizes` is None, nothing is padded.
    """
    with resumed(None if sizes is None else (sizes, tuple(shape), {})):
        yield


def current() -> Any:
    """The current block of `padded`, for `resumed`."""
    return _scope.get()


@contextlib.contextmanager
def resumed(block: Any):
    """A block of `padded` again, which `current` returned within it. Strides that were recorded in it hold again."""
    token = _scope.set(block)
    try:
        yield
    finally:
        _scope.reset(token)


def scaled(shape: Size, factor: float) -> tuple[Size, Int[Array, "b 2"] | None, tuple[Lengths, Lengths] | None]:
    """The shape and the sizes that images padded to `shape` have after scaling by `factor`.

    Returns:
        The new shape, a multiple of `STRIDE` if there is padding; the new sizes (height, width) of the images, or None; and the
        images' rows and columns before and after, or None, as `lengths` for `resizing.resize`.
    """
    before = after = lengths(shape)
    if before is None or after is None:
        return tuple(max(round(n * factor), 1) for n in shape), None, None
    if factor != 1:
        # A lookup in a table: a product in float32 would sometimes be rounded differently from Python's.
        longest = max(LONGEST if jax.export.is_symbolic_dim(n) else n for n in shape)
        table = jnp.asarray(np.array([max(round(m * factor), 1) for m in range(longest + 1)], np.int32))
        after = table[before[0]], table[before[1]]
    return whole_strides([_times(n, factor) for n in shape]), jnp.stack(after, axis=1), (before, after)


def _times(n, factor):
    """`n` times `factor`, rounded to a whole number above 0; rounded up if `n` is symbolic."""
    if not jax.export.is_symbolic_dim(n):
        return max(round(n * factor), 1)
    exact = Fraction(factor).limit_denominator(1000)  # 3/5 for 0.6
    if float(exact) != factor:
        exact = Fraction(math.ceil(factor * 1024), 1024)
    return -(-n * exact.numerator // exact.denominator)


def whole_strides(shape: Sequence[Any]) -> Size:
    """`shape`, rounded up to multiples of `STRIDE`."""
    height, width = (-(-n // STRIDE) * STRIDE for n in shape)
    return height, width


def record(shape: Size, stride: int) -> None:
    """Declares that maps of `shape` have this stride, until the end of the current block of `padded`. Needed where it is no power of 2.

    The shape must differ from those of all maps of other strides. It does for strides 14 and 28, except that the maps of 32×32 pixels at
    strides 16 and 28 are both 2×2.
    """
    if (scope := _scope.get()) is not None:
        scope[2][tuple(shape)] = stride


def record_strided(before: Size, after: Size, stride: int) -> None:
    """`record` for a map of shape `after` that has `stride` times the stride of a map of shape `before`, if that is recorded."""
    scope = _scope.get()
    if scope is not None and stride > 1 and (recorded := scope[2].get(tuple(before))) is not None:
        record(after, stride * recorded)


def lengths(shape: Size) -> Lengths | None:
    """How many rows and columns of a map of `shape` belong to the image; None without padding."""
    scope = _scope.get()
    if scope is None:
        return None
    sizes, image, strides = scope
    if (stride := strides.get(tuple(shape))) is not None:
        return -(-sizes[:, 0] // stride), -(-sizes[:, 1] // stride)
    return tuple(_rows(sizes[:, axis], n, m) for axis, (n, m) in enumerate(zip(image, shape, strict=True)))


def _rows(valid, height, rows):
    """How many of the `rows` of a map belong to an image of `valid` rows that is padded to `height`."""
    if height % rows != 0 and height % (rows - 1) == 0:
        stride = height // (rows - 1)
        return -(-(valid - 1) // stride) + 1
    stride = (2 * height + rows) // (2 * rows)  # height/rows, rounded, in integers only, as dimensions may be symbolic
    return -(-valid // (stride or 1))


def inside(shape: Size) -> Bool[Array, "b h w"] | None:
    """Which positions of a map of `shape` belong to the image; None without padding."""
    counts = lengths(shape)
    if counts is None:
        return None
    rows, columns = (jnp.arange(n) < count[:, None] for n, count in zip(shape, counts, strict=True))
    return rows[:, :, None] & columns[:, None]


def clear(x: Shaped[Array, "b h w c"], value: float = 0) -> Shaped[Array, "b h w c"]:
    """`x` with `value` in the padding."""
    mask = inside(x.shape[1:3])
    return x if mask is None else jnp.where(mask[..., None], x, jnp.asarray(value, x.dtype))


def positions(shape: Size) -> Bool[Array, "b n"] | None:
    """`inside`, with all positions of the map along one axis; None without padding."""
    mask = inside(shape)
    return mask if mask is None else mask.reshape(mask.shape[0], -1)
