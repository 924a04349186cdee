"""Layers and their gradients against XLA's convolution, NumPy loops and flax's batch normalisation."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ctxseg.models import layers
from ctxseg.models.backbones.efficientnet_lite import relu6
from ctxseg.models.convolution import convolve, convolve_depthwise, materialize, tensorflow_padding


def plain(x, kernel, stride, dilation, before=None, groups=1):
    total = dilation * (kernel.shape[0] - 1)
    before = total // 2 if before is None else before
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((before, total - before),) * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def assert_near(actual, expected, tolerance):
    """Every element within `tolerance` of the largest expected magnitude."""
    actual, expected = (np.asarray(a, np.float32) for a in (actual, expected))
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(np.abs(expected).max(), 1e-6))


# Those with 64 channels or more use Winograd's algorithm. The last map is smaller than its dilated kernel.
SHAPES = [
    # height, width, inputs, outputs, kernel, stride, dilation
    (7, 10, 4, 6, 1, 1, 1),
    (7, 10, 4, 6, 1, 2, 1),
    (8, 9, 3, 5, 3, 1, 1),
    (9, 8, 3, 5, 3, 2, 2),
    (8, 7, 3, 4, 7, 2, 1),
    (9, 12, 64, 96, 3, 1, 1),
    (10, 9, 96, 64, 3, 1, 2),
    (3, 5, 64, 64, 3, 1, 4),
]


@pytest.mark.parametrize(
    "height, width, inputs, outputs, kernel, stride, dilation, dtype, tolerance",
    [(*shape, jnp.float32, 5e-6) for shape in SHAPES] + [(*shape, jnp.bfloat16, 4e-3) for shape in SHAPES[1::2]],
)
def test_convolution_and_its_gradients_match_xla(
    height, width, inputs, outputs, kernel, stride, dilation, dtype, tolerance
):
    x = normal(2, height, width, inputs, dtype=dtype)
    w = normal(kernel, kernel, inputs, outputs, seed=1, dtype=dtype)
    y, gradients = jax.jit(lambda x, w: jax.vjp(lambda *a: convolve(*a, stride, dilation), x, w))(x, w)
    in_float32 = [a.astype(jnp.float32) for a in (x, w)]
    expected, expected_gradients = jax.vjp(lambda *a: plain(*a, stride, dilation), *in_float32)
    dy = normal(*expected.shape, seed=2, dtype=dtype)
    assert y.dtype == dtype
    assert_near(y, expected, tolerance)
    for actual, gradient in zip(gradients(dy), expected_gradients(dy.astype(jnp.float32)), strict=True):
        assert actual.dtype == dtype
        assert_near(actual, gradient, tolerance)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    "height, width, kernel, stride, dilation, before",
    [(8, 7, 3, 2, 1, 0), (7, 10, 5, 2, 1, 1), (6, 9, 5, 1, 2, 2), (9, 8, 3, 1, 1, None), (3, 5, 5, 1, 4, None)],
)
def test_other_paddings_and_depthwise_convolutions_match_xla(
    height, width, kernel, stride, dilation, before, depthwise
):
    x, w = normal(2, height, width, 6), normal(kernel, kernel, 1 if depthwise else 6, 6, seed=1)
    function = convolve_depthwise if depthwise else convolve
    y, gradients = jax.jit(lambda x, w: jax.vjp(lambda *a: function(*a, stride, dilation, before), x, w))(x, w)
    groups = 6 if depthwise else 1
    expected, expected_gradients = jax.vjp(lambda *a: plain(*a, stride, dilation, before, groups), x, w)
    dy = normal(*expected.shape, seed=2)
    assert_near(y, expected, 5e-6)
    for actual, gradient in zip(gradients(dy), expected_gradients(dy), strict=True):
        assert_near(actual, gradient, 5e-6)


@pytest.mark.parametrize("images", [1, 10, 11])
def test_the_gradient_of_a_depthwise_kernel_for_any_number_of_images(images):
    """The sum takes a few images at a time: here one, five and one."""
    x, w, dy = normal(images, 5, 4, 3), normal(3, 3, 1, 3, seed=1), normal(images, 5, 4, 3, seed=2)
    gradients = [jax.vjp(f, x, w)[1](dy)[1] for f in (convolve_depthwise, lambda *a: plain(*a, 1, 1, None, 3))]
    assert_near(*gradients, 5e-6)


def test_depthwise_convolution_and_its_gradients_in_bfloat16():
    """Only the results are rounded: the gradient of the kernel adds up 2·40 rows."""
    x, w, dy = (
        normal(*s, seed=i, dtype=jnp.bfloat16) for i, s in enumerate([(2, 40, 6, 3), (5, 5, 1, 3), (2, 40, 6, 3)])
    )
    y, gradients = jax.vjp(convolve_depthwise, x, w)
    in_float32 = [a.astype(jnp.float32) for a in (x, w)]
    expected, expected_gradients = jax.vjp(lambda *a: plain(*a, 1, 1, None, 3), *in_float32)
    pairs = zip(gradients(dy), expected_gradients(dy.astype(jnp.float32)), strict=True)
    for actual, exact in [(y, expected), *pairs]:
        assert actual.dtype == jnp.bfloat16
        np.testing.assert_allclose(actual.astype(jnp.float32), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (5, 1), (5, 2), (1, 1)])
def test_tensorflow_s_padding_of_maps_that_the_stride_divides(kernel, stride):
    """XLA's "SAME" is TensorFlow's."""
    x, w = normal(1, 8, 6, 2), normal(kernel, kernel, 2, 3, seed=1)
    y = convolve(x, w, stride, 1, tensorflow_padding(kernel, stride))
    same = lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    assert_near(y, same, 5e-6)


def test_relu6_and_its_gradient_which_is_0_at_both_bounds():
    y, gradient = jax.vjp(relu6, jnp.array([-1.0, 0, 3, 6, 7]))
    np.testing.assert_array_equal(y, [0, 0, 3, 6, 6])
    np.testing.assert_array_equal(*gradient(jnp.ones(5)), [0, 0, 1, 0, 0])


def test_padding_is_symmetric():
    """On an even map with stride 2, the first window starts one pixel outside the map. With "SAME", it would start inside."""
    y = convolve(jnp.arange(1.0, 17).reshape(1, 4, 4, 1), jnp.ones((3, 3, 1, 1)), 2)
    np.testing.assert_array_equal(y[0, :, :, 0], [[1 + 2 + 5 + 6, 30], [57, 99]])


@pytest.mark.parametrize("features", [4, 64])
def test_convolution_works_in_scan_checkpoint_and_vmap(features):
    x, kernels = normal(2, 6, 6, features), 0.1 * normal(3, 3, 3, features, features, seed=1)

    def loss(f, kernels):
        step = jax.checkpoint(lambda x, w: (jnp.tanh(f(x, w)), None))
        return lax.scan(step, x, kernels)[0].sum()

    actual = jax.jit(jax.grad(lambda w: loss(lambda x, w: convolve(x, w, 1, 2), w)))(kernels)
    assert_near(actual, jax.grad(lambda w: loss(lambda x, w: plain(x, w, 1, 2), w))(kernels), 1e-5)
    batched = jax.vmap(lambda w: convolve(x, w))(kernels)
    assert_near(batched, jnp.stack([plain(x, w, 1, 1) for w in kernels]), 5e-6)


def test_convolution_is_deterministic():
    x, w = normal(2, 16, 16, 64), normal(3, 3, 64, 64, seed=1)
    gradient = jax.jit(jax.grad(lambda w: (convolve(x, w) ** 2).sum()))
    np.testing.assert_array_equal(gradient(w), gradient(w))


def test_other_platforms_use_one_plain_convolution():
    x, w = jnp.zeros((1, 8, 8, 64)), jnp.zeros((3, 3, 64, 64))

    def gradients(x, w):
        return jax.grad(lambda *a: convolve(*a).sum(), (0, 1))(x, w)

    text = jax.jit(gradients).trace(x, w).lower(lowering_platforms=("cuda",)).as_text()
    assert (
        text.count("stablehlo.convolution") == 2
    )  # the gradients of x and w; the gradient of a sum needs no forward pass
    assert "dot_general" not in text and "inlineable" not in text


def test_materialize_prevents_recomputation():
    """Each ReLU is computed by one instruction, and not again by each of its readers."""

    def chain(x, w):
        for _ in range(3):
            x = layers.relu(x + x.reshape(-1, 8).dot(w).reshape(x.shape))
        return x, x.sum()

    if jax.default_backend() == "cpu":
        text = jax.jit(chain).lower(jnp.ones((2, 4, 4, 8)), jnp.ones((8, 8))).compile().as_text()
        assert text.count(" maximum(") == 3
    x = normal(3)
    np.testing.assert_array_equal(jax.grad(lambda x: (materialize(x) * x).sum())(x), 2 * x)


def test_conv_has_float32_parameters_and_computes_in_its_dtype():
    layer = layers.Conv(5, 3, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))
    assert jax.tree.map(lambda a: (a.shape, str(a.dtype)), variables["params"]) == {
        "kernel": ((3, 3, 2, 5), "float32"),
        "bias": ((5,), "float32"),
    }
    assert layer.apply(variables, jnp.ones((1, 4, 4, 2))).dtype == jnp.bfloat16


def test_groups_are_those_of_xla():
    x = normal(2, 5, 6, 4)
    module = layers.Conv(6, 3, use_bias=False, groups=2)
    variables = module.init(jax.random.PRNGKey(0), x)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (3, 3, 2, 6)
    assert_near(module.apply(variables, x), plain(x, kernel, 1, 1, groups=2), 1e-6)


def test_gradient_of_a_bias_is_exact_in_bfloat16():
    """It is the sum of 4,900 ones, of which bfloat16 could add 256."""
    layer = layers.Conv(1, dtype=jnp.bfloat16)
    params = {"kernel": jnp.zeros((1, 1, 1, 1)), "bias": jnp.zeros(1)}
    x = jnp.zeros((1, 70, 70, 1))
    gradient = jax.jit(jax.grad(lambda p: layer.apply({"params": p}, x).astype(jnp.float32).sum()))(params)
    assert gradient["bias"] == 4900


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)])
@pytest.mark.parametrize("train", [True, False])
def test_batch_normalisation_matches_flax(dtype, tolerance, train):
    x, dy = (3 + 2 * normal(2, 5, 6, 8, dtype=dtype)), normal(2, 5, 6, 8, seed=1, dtype=dtype)
    ours = layers.Norm(dtype=dtype)
    flax = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype)
    variables = {
        "params": {"scale": 1 + normal(8, seed=2), "bias": normal(8, seed=3)},
        "batch_stats": {"mean": normal(8, seed=4), "var": 2 + jnp.abs(normal(8, seed=5))},
    }
    assert jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x, True)) == jax.tree.map(jnp.shape, variables)

    def run(apply):
        def forward(params, x):
            y, updated = apply({**variables, "params": params}, x)
            return y, updated["batch_stats"]

        y, pull, stats = jax.vjp(forward, variables["params"], x, has_aux=True)
        return y, pull(dy), stats

    actual = run(lambda v, x: ours.apply(v, x, train, mutable=["batch_stats"]))
    expected = run(lambda v, x: flax.apply(v, x, mutable=["batch_stats"]))
    assert actual[0].dtype == dtype
    jax.tree.map(lambda a, b: assert_near(a, b, tolerance), actual, expected)


def test_batch_normalisation_is_accurate_for_a_mean_far_from_zero():
    """With mean 300 and standard deviation 1, E[x²] − mean² would have only two correct digits in float32."""
    x = 300 + normal(2, 32, 32, 8)
    exact = np.asarray(x, np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    halves = jax.vmap(lambda x: layers.batch_norm(x, jnp.ones(8), jnp.zeros(8), "devices"), axis_name="devices")(
        x[:, None]
    )
    y, actual_mean, actual_var = (np.asarray(a) for a in halves)
    np.testing.assert_allclose(actual_mean, np.stack([mean, mean]), rtol=1e-6)
    np.testing.assert_allclose(actual_var, np.stack([var, var]), rtol=1e-5)
    # float32 represents 300 only to 1.5e-5.
    np.testing.assert_allclose(y[:, 0], (exact - mean) / np.sqrt(var + layers.EPSILON), atol=1e-4)


DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from ctxseg.models.layers import ConvNorm
x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 6, 6, 3)), jnp.float32)
variables = ConvNorm(64, 3).init(jax.random.key(0), x, True)
def step(model, x):
    def loss(params, x):
        y, updated = model.apply({**variables, "params": params}, x, True, mutable=["batch_stats"])
        return (y**3).sum(), updated
    (_, updated), (params, dx) = jax.value_and_grad(loss, (0, 1), has_aux=True)(variables["params"], x)
    return params, dx, updated
params, dx, updated = step(ConvNorm(64, 3), x)
split = jax.pmap(lambda x: step(ConvNorm(64, 3, axis_name="d"), x), axis_name="d")(x.reshape(2, 2, 6, 6, 3))
near = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())
jax.tree.map(lambda a, b: near(a.sum(0), b), split[0], params)
near(split[1].reshape(dx.shape), dx)
for i in range(2):
    jax.tree.map(lambda a, b: near(a[i], b), split[2], updated)
print("same")
"""


def test_two_devices_normalise_like_one():
    """With `pmap` over two devices, the summed gradients and the statistics are those of one device with the whole batch."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", DEVICES], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "same", done.stderr


def test_dropout_does_not_depend_on_the_number_of_devices():
    x = jnp.ones((4, 3, 3, 8))
    key = {"dropout": jax.random.PRNGKey(0)}
    whole = layers.Dropout(0.25).apply({}, x, True, rngs=key)
    split = jax.vmap(lambda x: layers.Dropout(0.25, "d").apply({}, x, True, rngs=key), axis_name="d")(
        x.reshape(2, 2, 3, 3, 8)
    )
    np.testing.assert_array_equal(whole, split.reshape(x.shape))
    assert set(np.unique(whole)) == {0, np.float32(1 / 0.75)} and 0.1 < (np.asarray(whole) == 0).mean() < 0.4
    assert (np.asarray(whole[0]) != np.asarray(whole[1])).any()
    np.testing.assert_array_equal(layers.Dropout(0.25).apply({}, x, False), x)


def test_frozen_norm_uses_running_statistics():
    x = np.random.default_rng(0).normal(3, 2, (2, 4, 4, 5)).astype(np.float32)
    conv = layers.ConvNorm(3, 1, frozen=("norm",))
    variables = conv.init(jax.random.PRNGKey(0), x, True)
    frozen, updated = conv.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_array_equal(frozen, conv.apply(variables, x, False))
    assert jax.tree.all(jax.tree.map(np.array_equal, updated["batch_stats"], variables["batch_stats"]))
