"""The layers against XLA's own convolution and its gradients, and against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ctxseg.models.layers import ConvNorm, conv, max_pool, resize
from tests.references import zigzag_numpy


def plain(x, kernel, stride, dilation):
    pad = dilation * (kernel.shape[0] // 2)
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad)] * 2, rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(
    "size, stride, dilation", [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 2, 2), (7, 2, 1)]
)
@pytest.mark.parametrize("height, width", [(8, 8), (9, 6)])
def test_convolution_and_gradients(size, stride, dilation, height, width):
    x, kernel = draw(2, height, width, 3), draw(size, size, 3, 4, seed=1)
    expected, expected_vjp = jax.vjp(lambda x, k: plain(x, k, stride, dilation), x, kernel)
    actual, vjp = jax.vjp(lambda x, k: conv(x, k, stride, dilation), x, kernel)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    dy = draw(*expected.shape, seed=2)
    for got, want in zip(vjp(dy), expected_vjp(dy), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_convolution_in_bfloat16_and_in_a_scan():
    kernel = draw(3, 3, 3, 3) / 5

    def loss(kernel, dtype):
        step = lambda x, _: (conv(x, kernel.astype(dtype)), None)  # noqa: E731
        x, _ = lax.scan(step, draw(1, 6, 6, 3, seed=3).astype(dtype), length=2)
        return (x.astype(jnp.float32) ** 2).mean()

    exact, rough = (jax.grad(loss)(kernel, dtype) for dtype in (jnp.float32, jnp.bfloat16))
    assert rough.dtype == jnp.float32
    assert jnp.linalg.norm(rough - exact) < 0.05 * jnp.linalg.norm(exact)


@pytest.mark.parametrize("size", [(7, 5), (16, 9), (2, 3), (1, 1)])
def test_bilinear_resize(size):
    x = draw(2, 5, 4, 3)
    expected = zigzag_numpy.bilinear_resize(np.asarray(x, np.float64), *size)
    np.testing.assert_allclose(resize(x, size), expected, rtol=1e-5, atol=1e-5)


def test_nearest_resize_makes_no_new_ids():
    labels = jnp.asarray(np.random.default_rng(0).integers(0, 250, (1, 5, 4, 1)), jnp.uint8)
    doubled = resize(labels, (10, 8), "nearest")
    np.testing.assert_array_equal(doubled, np.repeat(np.repeat(labels, 2, 1), 2, 2))
    assert set(np.unique(resize(labels, (7, 3), "nearest"))) <= set(np.unique(labels))


def test_max_pool():
    x = draw(1, 7, 6, 2)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    expected = [[padded[:, i : i + 3, j : j + 3].max((1, 2)) for j in range(0, 6, 2)] for i in range(0, 7, 2)]
    np.testing.assert_array_equal(max_pool(x, 3, 2, 1), np.moveaxis(np.array(expected), 2, 0))


def test_batch_norm_normalises_and_remembers():
    layer, x = ConvNorm(4, 1, relu=False), 3 + draw(4, 5, 5, 2)
    variables = layer.init(jax.random.PRNGKey(0), x, True)
    y, updated = layer.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-3)
    linear = jnp.einsum("bhwi,io->bhwo", x, variables["params"]["conv"]["kernel"][0, 0])
    mean = jax.tree.leaves(updated["batch_stats"]["norm"]["bn"]["mean"])[0]
    np.testing.assert_allclose(mean, 0.1 * linear.mean((0, 1, 2)), rtol=1e-4)  # momentum 0.9, from 0
    assert set(ConvNorm(4, 1, norm="none").init(jax.random.PRNGKey(0), x, True)) == {"params"}
