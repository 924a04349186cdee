"""Resizing and pooling against NumPy loops, with their gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models import extent, resizing


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("size", [(13, 21), (3, 4), (14, 20), (1, 1)])
def test_bilinear_resize(size):
    x = normal(2, 7, 10, 3)
    expected = np.zeros((2, *size, 3))
    for i in range(size[0]):
        for j in range(size[1]):
            y, z = np.clip([(i + 0.5) * 7 / size[0] - 0.5, (j + 0.5) * 10 / size[1] - 0.5], 0, [6, 9])
            (a, b), (c, d) = (np.floor([y, z]).astype(int), np.ceil([y, z]).astype(int))
            top, bottom = (x[:, r, b] + (z - b) * (x[:, r, d] - x[:, r, b]) for r in (a, c))
            expected[:, i, j] = top + (y - a) * (bottom - top)
    np.testing.assert_allclose(resizing.resize(x, size), expected, rtol=0, atol=2e-6)
    assert resizing.resize(x.astype(jnp.bfloat16), size).dtype == jnp.bfloat16
    # Linear, so the gradient is the transpose: <resize(x), dy> = <x, dx>.
    dy = normal(2, *size, 3, seed=1)
    y, pull = jax.vjp(lambda x: resizing.resize(x, size), x)
    np.testing.assert_allclose(jnp.vdot(y, dy), jnp.vdot(x, pull(dy)[0]), rtol=1e-4)


@pytest.mark.parametrize(
    "size, expected",
    [
        (7, [1.2976499, -0.3912186, -2.1055038, 1.0468757, 4.0768957, 2.0615878, 0.1527424]),
        (3, [0.4652777, 1.0468750, 1.1064801]),
    ],
)
def test_bicubic_resize(size, expected):
    """The values are those of PyTorch 2.14's `interpolate`."""
    x = jnp.array([1, -2, 4, 0.5])
    y = resizing.resize(x[None, None, :, None], (1, size), "bicubic")
    np.testing.assert_allclose(y.ravel(), expected, rtol=1e-5)
    y = resizing.resize(x[None, :, None, None], (size, 1), "bicubic")
    np.testing.assert_allclose(y.ravel(), expected, rtol=1e-5)
    # In padded maps, only the image's part is read, and each image has its own size.
    padded = jnp.stack([jnp.pad(x, (0, 3), constant_values=9), jnp.arange(7.0)])[..., None, None]
    lengths = tuple(jnp.array(n) for n in ([4, 7], [1, 1])), tuple(jnp.array(n) for n in ([size, 7], [1, 1]))
    y = resizing.resize(padded, (8, 1), "bicubic", lengths=lengths)
    np.testing.assert_allclose(y[0, :size].ravel(), expected, rtol=1e-5)
    np.testing.assert_allclose(y[1, :7].ravel(), np.arange(7), atol=1e-5)


def test_nearest_resize():
    x = jnp.arange(6, dtype=jnp.uint8).reshape(1, 2, 3, 1)
    y = resizing.resize(x, (4, 6), "nearest")
    assert set(np.unique(resizing.resize(x, (5, 2), "nearest"))) <= set(range(6))
    np.testing.assert_array_equal(y[0, :, :, 0], np.arange(6).reshape(2, 3).repeat(2, 0).repeat(2, 1))
    assert y.dtype == jnp.uint8


def caffe_rows(n, size, stride, padding):
    """The rows of a pooled map, as in Caffe's PoolingLayer::Reshape: rounded up, without a last window that lies in the padding."""
    rows = math.ceil((n + 2 * padding - size) / stride) + 1
    return rows - 1 if (rows - 1) * stride >= n + padding else rows


@pytest.mark.parametrize(
    "height, width, size, stride, padding, caffe",
    [(8, 9, 3, 2, 1, False), (7, 6, 2, 2, 0, False), (8, 9, 3, 2, 1, True), (7, 2, 3, 2, 1, True)],
)
def test_max_pool(height, width, size, stride, padding, caffe):
    x = normal(2, height, width, 3)
    y, pull = jax.vjp(lambda x: resizing.max_pool(x, size, stride, "CAFFE" if caffe else padding), x)
    if caffe:
        assert y.shape[1:3] == tuple(caffe_rows(n, size, stride, padding) for n in (height, width))
    dy = normal(*y.shape, seed=1)
    around = (padding, padding + caffe)
    padded = np.pad(x, ((0, 0), around, around, (0, 0)), constant_values=-np.inf)
    gradient = np.zeros(padded.shape, np.float32)
    for b, i, j, c in np.ndindex(*y.shape):
        window = padded[b, i * stride : i * stride + size, j * stride : j * stride + size, c]
        assert y[b, i, j, c] == window.max()
        a, z = np.unravel_index(window.argmax(), window.shape)
        gradient[b, i * stride + a, j * stride + z, c] += dy[b, i, j, c]
    np.testing.assert_allclose(
        pull(dy)[0], gradient[:, padding : padding + height, padding : padding + width], rtol=1e-6
    )


@pytest.mark.parametrize("height, width", [(6, 7), (1, 2)])
def test_window_mean_matches_caffe(height, width):
    """PoolingLayer's AVE: the sum over the window's pixels, divided by the window's area before it is clipped to the image."""
    x = normal(2, height, width, 3)
    y = resizing.window_mean(x, 3)
    assert y.shape == x.shape
    for i, j in np.ndindex(height, width):
        top, left = i - 1, j - 1
        bottom, right = min(top + 3, height + 1), min(left + 3, width + 1)
        area = (bottom - top) * (right - left)
        total = x[:, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)].sum((1, 2))
        np.testing.assert_allclose(y[:, i, j], total / area, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("height, width", [(6, 7), (1, 2)])
def test_pooling_of_a_stride(height, width):
    """`window_mean` takes every second window. `cell_mean` divides by the positions that a cell has, also in padded maps."""
    x = normal(2, height, width, 3)
    np.testing.assert_allclose(
        resizing.window_mean(x, 3, 2), resizing.window_mean(x, 3)[:, ::2, ::2], rtol=1e-5, atol=1e-6
    )
    y = resizing.cell_mean(x, 2)
    assert y.shape == (2, -(-height // 2), -(-width // 2), 3)
    for i, j in np.ndindex(*y.shape[1:3]):
        cell = np.asarray(x)[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_allclose(y[:, i, j], cell.mean((1, 2)), rtol=1e-5, atol=1e-6)
    with extent.padded(jnp.array([(height, width)] * 2), (32, 32)):
        padded = jnp.pad(x, ((0, 0), (0, 32 - height), (0, 32 - width), (0, 0)), constant_values=9.0)
        part = resizing.cell_mean(padded, 2)[:, : y.shape[1], : y.shape[2]]
    np.testing.assert_allclose(part, y, rtol=1e-6)


def test_repeat_crops_to_the_size():
    x = np.arange(6.0, dtype=np.float32).reshape(1, 2, 3, 1)
    y = resizing.repeat(x, 2, (3, 5))
    np.testing.assert_array_equal(y[0, :, :, 0], np.repeat(np.repeat(x, 2, 1), 2, 2)[0, :3, :5, 0])


def test_average_pool_takes_overlapping_bins():
    x = np.arange(5.0, dtype=np.float32).reshape(1, 5, 1, 1)
    np.testing.assert_allclose(np.ravel(resizing.average_pool(x, (1, 1))), [2])
    np.testing.assert_allclose(np.ravel(resizing.average_pool(x, (2, 1))), [1, 3])  # 0..2 and 2..4
    np.testing.assert_allclose(np.ravel(resizing.average_pool(x, (3, 1))), [0.5, 2, 3.5])
    np.testing.assert_allclose(np.ravel(resizing.average_pool(x, (7, 1)))[[0, 6]], [0, 4])  # more bins than samples


def test_upsample2_interleaves_a_transposed_convolution():
    """The four interleaved 3×3 convolutions are one transposed 6×6 convolution of stride 2."""
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 2)).astype(np.float32)
    module = resizing.Upsample2(2)
    params = module.init(jax.random.PRNGKey(0), x)["params"]
    kernel = np.asarray(params["conv"]["kernel"]).reshape(3, 3, 2, 2, 2, 2)  # tap y, tap x, in, sub-pixel i, j, out
    expected = np.zeros((1, 6, 8, 2))
    for y, xx, i, j, dy, dx in np.ndindex(3, 4, 2, 2, 3, 3):
        sy, sx = y + dy - 1, xx + dx - 1
        if 0 <= sy < 3 and 0 <= sx < 4:
            expected[0, 2 * y + i, 2 * xx + j] += x[0, sy, sx] @ kernel[dy, dx, :, i, j]
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5)
