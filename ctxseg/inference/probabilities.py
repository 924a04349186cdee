"""From images to class probabilities, by the papers' test protocols: several scales, mirror images, whole images or windows (SPEC §8).

Logits are resized to the image, and their softmax is averaged over scales and mirror images. `predict_probabilities` is a pure function of
arrays. Their shapes may be symbolic if the images are padded (see `models.extent`). `protocol.shape_of` gives the shape that is compiled
for an image: one of a few padded shapes, or the image's own.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, Real, Shaped

from ctxseg.data.sizes import base_size_of, rounded_ratio
from ctxseg.data.transforms import crop
from ctxseg.inference import crf
from ctxseg.inference.protocol import Protocol, canvas_of, create_protocol, shape_of
from ctxseg.models import extent
from ctxseg.models.resizing import resize
from ctxseg.models.shapes import Array


def predict_probabilities(
    model,
    variables,
    images: Real[Array, "b H W 3"],
    regions: Int[Array, "b H W"] | Int[Array, "b H W s"] | None,
    sizes: Int[Array, "b 2"] | None,
    protocol: Protocol,
    canvas: extent.Size | None = None,
) -> Float32[Array, "b H W {model.num_classes}"]:
    """Class probabilities of every pixel.

    Args:
        model: a segmenter.
        variables: its variables.
        images: RGB in 0..255.
        regions: ids of super-pixels (-1: none), for all scales or for each scale; None for a network that does not use them.
        sizes: height and width of each image without padding (H and W are then multiples of 32); None: nothing is padded.
        protocol: scales, mirror images, windows and the CRF.
        canvas: padded shape of images at their base size, see `protocol.canvas_of`.

    Returns:
        The probabilities. Those of the padding have no meaning.
    """
    shape, original, mask = images.shape[1:3], images, None
    if sizes is not None:
        with extent.padded(sizes, shape):
            mask = extent.inside(shape)
    if regions is not None and regions.ndim == 3:
        regions = regions[..., None]
    if protocol.flip:
        images = jnp.concatenate([images, flip(images, sizes)])
        regions = None if regions is None else jnp.concatenate([regions, flip(regions, sizes)])
        sizes = None if sizes is None else jnp.concatenate([sizes, sizes])
    total: Any = 0.0  # an array after the first scale
    for i, scale in enumerate(protocol.scales):
        x, x_sizes = _scaled(images, sizes, scale, protocol.size, canvas)
        ids = None
        if regions is not None:
            view = regions[..., i % regions.shape[-1], None]
            ids = _scaled(view, sizes, scale, protocol.size, canvas, "nearest")[0][..., 0]
        if protocol.window:
            y = _windows(model, variables, x, ids, x_sizes, protocol.window, protocol.stride)
            total += resize(y, shape, lengths=None if sizes is None else (x_sizes.T, sizes.T))
        else:
            total += _probabilities(model, variables, x, ids, x_sizes, shape, sizes)
    total = total / len(protocol.scales)
    if protocol.flip:
        plain, mirrored = total[: original.shape[0]], total[original.shape[0] :]
        mirrored = flip(mirrored, None if sizes is None else sizes[: original.shape[0]])
        if protocol.mirrored_classes != tuple(range(len(protocol.mirrored_classes))):
            # A left arm looks like a right arm in the mirror image.
            mirrored = mirrored[..., np.array(protocol.mirrored_classes)]
        total = (plain + mirrored) / 2
    if protocol.crf:
        total = crf.mean_field(total, original, mask=mask, **protocol.crf)
    return total


def _probabilities(model, variables, x, regions, x_sizes, shape, sizes):
    """Softmax of the logits of `x`, resized to `shape`; the images have `x_sizes` in `x` and `sizes` in the result (None: no padding)."""
    with extent.padded(x_sizes, x.shape[1:3]):
        output = model.apply(variables, x, regions, train=False)
    lengths = None if x_sizes is None else (output.lengths, sizes.T)
    return jax.nn.softmax(resize(output.logits, shape, lengths=lengths))


def flip(x: Shaped[Array, "b H W c"], sizes: Int[Array, "b 2"] | None = None) -> Shaped[Array, "b H W c"]:
    """Mirrors each image in `x` left to right. `sizes`: heights and widths without padding, which is left in place; None: no padding."""
    if sizes is None:
        return x[:, :, ::-1]
    column, width = jnp.arange(x.shape[2]), sizes[:, 1:]
    index = jnp.where(column < width, width - 1 - column, column)
    return jnp.take_along_axis(x, index[:, None, :, None], axis=2)


def _scaled(x, sizes, scale, base, canvas, method="bilinear"):
    """`x` `[B,H,W,C]` at its base size (see `base_size_of`) times `scale`, and the images' sizes in the result, int32 `[B,2]` or None."""
    if not base and scale == 1:
        return x, sizes
    new_sizes = lengths = None
    if sizes is None or canvas is None:
        canvas = base_size_of(x.shape[1:3], base)
    if sizes is not None:
        # A batch may have entries without an image: their size is the batch's shape, which may exceed the canvas.
        new_sizes = _within(_base_sizes(sizes, base), canvas)
    with extent.padded(new_sizes, canvas):
        shape, new_sizes, _ = extent.scaled(canvas, scale)
    if sizes is not None:
        lengths = (sizes.T, new_sizes.T)
    x = resize(x if method == "nearest" else x.astype(jnp.float32), shape, method, lengths=lengths)
    if method == "nearest":
        with extent.padded(new_sizes, shape):
            x = extent.clear(x, -1)
    return x, new_sizes


def _within(sizes, shape):
    """`sizes`, int32 `[B,2]`, limited to the height and width of `shape`."""
    return jnp.stack([jnp.minimum(size, n) for size, n in zip(sizes.T, shape, strict=True)], axis=1)


def at_base_size(
    images: Real[Array, "b H W 3"], regions: Int[Array, "b H W"] | None, base: tuple[int, ...]
) -> tuple[Real[Array, "b h w 3"], Int[Array, "b h w"] | None]:
    """`images` and `regions` at their base size (see `sizes.base_size_of`), the network's input at scale 1."""
    images, _ = _scaled(images, None, 1, base, None)
    if regions is not None:
        regions = _scaled(regions[..., None], None, 1, base, None, "nearest")[0][..., 0]
    return images, regions


def _base_sizes(sizes, base):
    """`base_size_of` for `sizes`, int32 `[B,2]`."""
    if len(base) == 1:
        return rounded_ratio(sizes * base[0], sizes.min(1, keepdims=True))
    return jnp.broadcast_to(jnp.array(base, jnp.int32), sizes.shape) if base else sizes


def _windows(model, variables, x, regions, sizes, window, stride):
    """Probabilities of `x` `[B,H,W,3]` from windows that cover each image, averaged where they overlap: float32 `[B,H,W,K]`.

    Windows start at multiples of the stride; the last one ends at the edge of the image. No window is larger than its image without
    padding.
    """
    b, *shape, _ = x.shape
    padded = sizes is not None
    window = tuple(m if jax.export.is_symbolic_dim(n) else min(m, n) for m, n in zip(window, shape, strict=True))
    if not padded:
        sizes = jnp.broadcast_to(jnp.array(shape), (b, 2))
    canvas = extent.whole_strides(window) if padded else window
    steps = [max(round(n * stride), 1) if stride <= 1 else int(stride) for n in window]
    # The size of the image's part of a window.
    inner = _within(sizes, window)
    # Rows and columns of windows in the largest image.
    grid = (-(-(sizes - inner) // jnp.array(steps)) + 1).max(0)

    def cut(array, start):
        return jax.vmap(lambda a, s: jax.lax.dynamic_slice(a, (*s, *[0] * (a.ndim - 2)), (*canvas, *a.shape[2:])))(
            array, start
        )

    def put(array, values, start):
        return jax.vmap(lambda a, v, s: jax.lax.dynamic_update_slice(a, v, (*s, 0)))(array, values, start)

    # Windows may start anywhere in the image, also in its last row and column.
    x = jnp.pad(x, ((0, 0), *((0, n) for n in canvas), (0, 0)))
    if regions is not None:
        regions = jnp.pad(regions, ((0, 0), *((0, n) for n in canvas)), constant_values=-1)

    def step(i, carry):
        total, count = carry
        index = jnp.stack(jnp.divmod(i, grid[1]))
        offset = index * jnp.array(steps)
        start = jnp.minimum(offset, sizes - inner)
        needed = ((index == 0) | (offset - jnp.array(steps) + jnp.array(window) < sizes)).all(1)
        ids = None
        if regions is not None:
            with extent.padded(inner if padded else None, canvas):  # the canvas may be larger than the window
                ids = extent.clear(cut(regions, start)[..., None], -1)[..., 0]
        y = _probabilities(model, variables, cut(x, start), ids, inner if padded else None, canvas, inner)
        rows, columns = (jnp.arange(n) < inner[:, i : i + 1] for i, n in enumerate(canvas))
        weight = (rows[:, :, None] & columns[:, None] & needed[:, None, None])[..., None].astype(y.dtype)
        total = put(total, cut(total, start) + weight * y, start)
        return total, put(count, cut(count, start) + weight, start)

    zeros = [jnp.zeros((*x.shape[:3], n), jnp.float32) for n in (model.num_classes, 1)]
    total, count = jax.lax.fori_loop(0, grid.prod(), step, tuple(zeros))
    return (total / jnp.maximum(count, 1))[:, : shape[0], : shape[1]]


def create_predictor(model, config, class_names: Sequence[str] = ()):
    """A function for one device: (variables, images uint8 `[B,H,W,3]`, regions) → probabilities float32 `[B,H,W,K]`, all in NumPy.

    Its `regions` are those of `predict_probabilities`; default None.

    Args:
        model: a segmenter.
        config: `config.eval`.
        class_names: by class id; mirror images swap the left and right ones.

    Raises:
        UserError: see `create_protocol`.
    """
    protocol = create_protocol(config, class_names)

    @partial(jax.jit, static_argnums=4)
    def run(variables, images, regions, sizes, canvas):
        return predict_probabilities(model, variables, images, regions, sizes, protocol, canvas)

    def predict(variables, images, regions=None):
        size = images.shape[1:3]
        sizes, canvas, shape = None, None, shape_of(size, protocol.shapes)
        if shape != size:
            canvas = canvas_of(size, protocol)
            sizes = np.tile(np.array(size, np.int32), (len(images), 1))
            samples = [{"image": image} for image in images]
            if regions is not None:
                samples = [s | {"regions": ids} for s, ids in zip(samples, regions, strict=True)]
            samples = [crop(sample, 0, 0, shape) for sample in samples]  # pads each to `shape`
            images = np.stack([sample["image"] for sample in samples])
            regions = None if regions is None else np.stack([sample["regions"] for sample in samples])
        return np.asarray(run(variables, images, regions, sizes, canvas)[:, : size[0], : size[1]])

    return predict
