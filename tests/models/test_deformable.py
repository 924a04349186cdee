"""Deformable convolution against NumPy, against plain convolution, and in the backbones that have it."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.errors import UserError
from ctxseg.models import create_model, deformable, extent
from ctxseg.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from ctxseg.models.backbones.tiny import Tiny
from ctxseg.models.convolution import convolve
from ctxseg.models.deformable import deformable_convolve
from ctxseg.models.layers import ConvNorm
from ctxseg.models.weights import fit
from ctxseg.models.weights.source import Source
from ctxseg.models.weights.tensor import Tensor
from ctxseg.settings.collect import get_config
from tests.models import gradients
from tests.references import deformable as numpy_reference
from tests.references import published_deformable as published


def by_hats(x, offsets, kernel, stride=1, dilation=1):
    """The convolution of one image `[h,w,C]` with offsets `[h',w',g,k,l,2]`. Each tap reads a weighted sum of the whole map, as in eqs. 2
    to 4 of the paper: bilinear weights are products of max(0, 1 − |distance|)."""
    height, width, groups, *size = offsets.shape[:5]
    taps = [dilation * (np.arange(n) - n // 2) for n in size]
    rows = stride * np.arange(height)[:, None, None, None, None] + taps[0][:, None]
    columns = stride * np.arange(width)[:, None, None, None] + taps[1]
    weights = (
        np.maximum(0, 1 - np.abs((grid + offsets[..., axis])[..., None] - np.arange(x.shape[axis])))
        for axis, grid in enumerate((rows, columns))
    )
    values = np.einsum("yxgklr,yxgkls,rsgc->yxklgc", *weights, x.reshape(*x.shape[:2], groups, -1))
    return np.einsum("yxklc,klco->yxo", values.reshape(height, width, *size, -1), kernel)


# Each is a function like `by_hats`.
# `loops` was written without looking at the code.
REFERENCES = {"hats": by_hats, "loops": numpy_reference.deformable_convolve}
CASES = {
    # height, width, channels, outputs, kernel, stride, dilation, groups
    "plain": (5, 6, 4, 3, (3, 3), 1, 1, 1),
    "groups, stride": (6, 5, 4, 3, (3, 3), 2, 1, 2),
    "groups, dilation": (5, 4, 6, 2, (3, 3), 1, 2, 3),
    "stride, dilation, another kernel": (7, 4, 4, 3, (5, 3), 2, 2, 4),
    "one tap": (3, 4, 2, 3, (1, 1), 1, 1, 2),
}


def inputs(case, scale=1.5, images=2, seed=0):
    """A map, offsets of which some leave it, and a kernel, float64."""
    h, w, c, o, kernel, stride, _, groups = CASES[case]
    rng = np.random.default_rng(seed)
    shapes = (images, h, w, c), (images, -(-h // stride), -(-w // stride), groups, *kernel, 2), (*kernel, c, o)
    x, offsets, kernel = (rng.normal(size=shape) for shape in shapes)
    return x, scale * offsets, kernel


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, reference):
    x, offsets, kernel = inputs(case)
    settings = CASES[case][5:7]

    def expected(kernel, maps):
        return np.stack([REFERENCES[reference](*pair, kernel, *settings) for pair in zip(*maps, strict=True)])

    gradients.check_against(
        lambda kernel, maps: deformable_convolve(*maps, kernel, *settings), expected, None, (x, offsets), kernel
    )


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_offsets_of_zero_are_the_plain_convolution(stride, dilation, groups):
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 7, 8, 4), (3, 3, 4, 5)))
    offsets = jnp.zeros((2, -(-7 // stride), 8 // stride, groups, 3, 3, 2))
    y, backward = jax.vjp(lambda x, k: deformable_convolve(x, offsets, k, stride, dilation), x, kernel)
    expected, plain_backward = jax.vjp(lambda x, k: convolve(x, k, stride, dilation), x, kernel)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    dy = jnp.asarray(rng.normal(size=y.shape), jnp.float32)
    for actual, gradient in zip(backward(dy), plain_backward(dy), strict=True):
        np.testing.assert_allclose(actual, gradient, atol=1e-5)


def test_gradients_of_offsets_at_whole_numbers():
    """Training starts there. The value has a corner; its gradient is that towards larger offsets, as in torchvision."""
    x, offsets, kernel = inputs("plain", images=1)
    offsets, step = np.rint(offsets), 1e-6

    def total(offsets):
        return by_hats(x[0], offsets[0], kernel).sum()

    with jax.enable_x64(True):
        actual = np.asarray(jax.grad(lambda o: deformable_convolve(x, o, kernel).sum())(offsets))
    assert np.abs(actual).max() > 0.1
    for index in np.random.default_rng(1).integers(0, offsets.size, 40):
        moved = offsets.copy()
        moved.flat[index] += step
        np.testing.assert_allclose(actual.flat[index], (total(moved) - total(offsets)) / step, atol=1e-4)


def test_every_offset_moves_its_own_tap_and_group():
    x = np.random.default_rng(0).normal(size=(1, 6, 7, 4)).astype(np.float32)
    kernel = np.zeros((3, 3, 4, 4), np.float32)
    kernel[0, 2] = np.eye(4)
    offsets = np.full((1, 6, 7, 2, 3, 3, 2), 50.0, np.float32)
    offsets[:, :, :, 0, 0, 2] = (2, -3)  # the tap is one row above and one column to the right
    offsets[:, :, :, 1, 0, 2] = (1, -1)
    y = deformable_convolve(x, offsets, kernel)
    np.testing.assert_allclose(y[:, :-1, 2:, :2], x[:, 1:, :-2, :2], atol=1e-6)
    np.testing.assert_allclose(y[..., 2:], x[..., 2:], atol=1e-6)
    assert not y[:, -1, :, :2].any() and not y[:, :, :2, :2].any()


@pytest.mark.parametrize("offset", [-1e9, 1e9, -np.inf, np.inf, 3e38, -4.0, 4.0])
def test_taps_beyond_the_map_read_zero_and_have_no_gradients(offset):
    """Also if they are as near as possible: the map has 3 rows and 4 columns."""
    x, _, kernel = (np.float32(a) for a in inputs("one tap"))
    offsets = np.full((2, 3, 4, 2, 1, 1, 2), offset, np.float32)
    y, backward = jax.vjp(deformable_convolve, x, offsets, kernel)
    assert not y.any() and not any(np.asarray(gradient).any() for gradient in backward(jnp.ones_like(y)))


def test_taps_less_than_one_cell_beyond_the_map_read_a_part_of_its_border():
    x = np.arange(1.0, 13, dtype=np.float32).reshape(1, 3, 4, 1)
    offsets = np.zeros((1, 3, 4, 1, 1, 1, 2), np.float32)
    offsets[0, 0, 0, ..., 0], offsets[0, 2, 1, ..., 0], offsets[0, 1, 3, ..., 1] = -0.25, 0.75, 0.5
    y = deformable_convolve(x, offsets, np.ones((1, 1, 1, 1), np.float32))[0, :, :, 0]
    np.testing.assert_allclose([y[0, 0], y[2, 1], y[1, 3]], [0.75 * 1, 0.25 * 10, 0.5 * 8])


def test_nan_stays_where_it_is():
    x, offsets, kernel = (np.float32(a) for a in inputs("plain"))
    offsets[1, 2, 3, 0, 1, 1] = np.nan
    y = np.asarray(deformable_convolve(x, offsets, kernel))
    assert np.isnan(y[1, 2, 3]).all() and np.isnan(y).sum() == y.shape[-1]


def test_all_platforms_have_the_same_gradients(monkeypatch):
    """CPUs add up the gradients in a loop."""
    x, offsets, _ = (jnp.float32(a) for a in inputs("groups, stride"))
    y = deformable._read(x, offsets, 2, 1)
    gradient = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)

    def backward():
        return deformable._read_backward.__wrapped__(2, 1, (x, offsets), gradient)

    def has_loop():
        return "scan[" in str(
            jax.make_jaxpr(lambda: backward())()
        )  # a new function, as JAX keeps the programs of old ones

    expected = backward()
    assert has_loop()
    monkeypatch.setattr(deformable.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    assert not has_loop()
    for actual, gradient in zip(backward(), expected, strict=True):
        np.testing.assert_allclose(actual, gradient, atol=1e-5)


def test_bfloat16():
    """Positions are float32, as are the sums; only results are rounded."""
    x, offsets, kernel = (jnp.asarray(a, jnp.bfloat16) for a in inputs("groups, dilation"))

    def run(x, offsets, kernel):
        y, backward = jax.vjp(lambda *args: deformable_convolve(*args, 1, 2), x, offsets, kernel)
        return y, *backward(jnp.ones_like(y))

    results = run(x, offsets, kernel)
    exact = run(*(a.astype(jnp.float32) for a in (x, offsets, kernel)))
    for actual, expected in zip(results, exact, strict=True):
        assert actual.dtype == jnp.bfloat16
        np.testing.assert_allclose(actual.astype(jnp.float32), expected, atol=2e-2 * np.abs(expected).max())


def random_variables(model, *arguments, seed=0):
    shapes = jax.eval_shape(lambda key: model.init(key, *arguments), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.uniform(0.1, 0.5, a.shape).astype(a.dtype), shapes)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_layer(dtype):
    """Its parameters are those of a plain layer, and offsets that start from zero."""
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
    layer = ConvNorm(6, 3, stride=2, norm="none", dtype=dtype, deformable=2)
    variables = layer.init(jax.random.key(0), x, False)
    shapes = {"/".join(name): a.shape for name, a in flax.traverse_util.flatten_dict(variables["params"]).items()}
    assert shapes == {
        "conv/kernel": (3, 3, 4, 6), "conv/bias": (6,), "offset/kernel": (3, 3, 4, 36), "offset/bias": (36,)
    }  # fmt: skip
    assert not any(np.any(a) for a in variables["params"]["offset"].values())
    y = layer.apply(variables, x, False)
    plain = layer.clone(deformable=0).apply({"params": {"conv": variables["params"]["conv"]}}, x, False)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.float32(y), np.float32(plain), atol=1e-5 if dtype == jnp.float32 else 5e-2)


def test_the_layer_reads_zeros_from_the_padding_of_an_image():
    layer = ConvNorm(3, 3, stride=2, norm="none", relu=False, deformable=2)
    rng = np.random.default_rng(0)
    batch, size = rng.normal(size=(2, 32, 64, 4)).astype(np.float32), (23, 40)
    variables = random_variables(layer, batch, False)
    with extent.padded(jnp.asarray([(32, 64), size]), (32, 64)):
        padded = layer.apply(variables, batch, False)[1]
    alone = layer.apply(variables, batch[1:, : size[0], : size[1]], False)[0]
    np.testing.assert_allclose(padded[: alone.shape[0], : alone.shape[1]], alone, atol=1e-5)
    whole = layer.apply(variables, batch, False)[1]
    assert np.abs(whole[: alone.shape[0], : alone.shape[1]] - alone).max() > 0.1


def offset_layers(variables):
    """The layers of a backbone that have offsets: {path: (kernel of the offsets, kernel of the convolution)}."""
    names = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    paths = [name.removesuffix("/offset/bias") for name in names if name.endswith("/offset/bias")]
    return {path: tuple(names[f"{path}/{part}/kernel"].shape for part in ("offset", "conv")) for path in paths}


@pytest.mark.parametrize(
    "backbone, expected",
    [
        (
            ResNet((1, 2, 2, 2), Bottleneck, deformable=(0, 1, 0, 2), offset_groups=2),
            {"res3_2/conv2": (36, 128), "res5_1/conv2": (36, 512), "res5_2/conv2": (36, 512)},
        ),
        (ResNet((1, 1, 1, 2), BasicBlock, deformable=(1, 0, 0, 1)), {"res2_1/conv2": (72, 64), "res5_2/conv2": (72, 512)}),
        (Tiny(4, deformable=(0, 0, 1, 1)), {"res4_1/conv1": (72, 16), "res5_1/conv1": (72, 24)}),
    ],
)  # fmt: skip
def test_which_convolutions_of_a_backbone_are_deformable(backbone, expected):
    shapes = jax.eval_shape(lambda key: backbone.init(key, jnp.zeros((1, 32, 32, 3))), jax.random.key(0))
    layers = offset_layers(shapes)
    assert {path: (offset[-1], conv[-1]) for path, (offset, conv) in layers.items()} == expected
    assert all(offset[:2] == (3, 3) and offset[2] == conv[2] for offset, conv in layers.values())


def test_a_backbone_starts_as_the_one_with_plain_convolutions():
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    backbone = Tiny(4, deformable=(0, 1, 0, 1))
    variables = backbone.init(jax.random.key(0), images)
    plain = backbone.clone(deformable=(0, 0, 0, 0))
    maps, expected = backbone.apply(variables, images), plain.apply(plain.init(jax.random.key(0), images), images)
    for name in expected:
        np.testing.assert_allclose(maps[name], expected[name], atol=1e-5)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": "resnet50", "deformable": (0, 0, 0, 4)}, r"backbone\.deformable is \(0, 0, 0, 4\).*\(3, 4, 6, 3\)"),
        ({"name": "tiny", "deformable": (0, 0, 0, 2)}, r"backbone\.deformable is .*\(1, 1, 1, 1\)"),
        ({"name": "resnet18", "deformable": (0, 0, 1, 0), "offset_groups": 3}, r"offset_groups is 3; .* 256"),
        ({"name": "tiny", "deformable": (0, 1, 0, 0), "offset_groups": 5}, r"offset_groups is 5; .* 24"),
        ({"name": "tiny", "deformable": (0, 1)}, r"deformable is \(0, 1\); expected 4 whole numbers"),
        ({"name": "tiny", "deformable": (0, 0, 0, -1)}, r"deformable is .* at least 0"),
    ],
)
def test_impossible_fields_are_named(fields, message):
    config = get_config()
    config.model.backbone.update(fields)
    with pytest.raises(UserError, match=message):
        model = create_model(config.model, 2)
        jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8))


# Pretrained weights.


def network(**fields):
    """A segmenter and its variables."""
    config = get_config()
    config.model.backbone.update({"name": "tiny", "width": 4} | fields)
    model = create_model(config.model, 2)
    return model, random_variables(model, np.zeros((1, 32, 32, 3), np.uint8), seed=len(fields))


def backbone_of(variables, left=()):
    """The weights of a backbone, in a file without the arrays `left`."""
    arrays = flax.traverse_util.flatten_dict(variables, sep="/")
    arrays = {name: a for name, a in arrays.items() if "/backbone/" in name and name not in left}
    return Source("file", "ctxseg", {n: Tensor(a.shape, a.dtype, lambda _, a=a: a) for n, a in arrays.items()})


def test_weights_of_plain_convolutions_fill_everything_but_the_offsets():
    model, variables = network(deformable=(0, 0, 1, 1))
    source = backbone_of(network()[1])
    filled, report = fit.fit(model, variables, source)
    assert set(report.taken) == set(source.tensors) and not report.left
    new = {name for name in report.new if "/backbone/" in name}
    assert new == {f"params/backbone/res{i}_1/conv1/offset/{n}" for i in (4, 5) for n in ("kernel", "bias")}
    before, after = (flax.traverse_util.flatten_dict(v, sep="/") for v in (variables, filled))
    for name, value in after.items():
        expected = before[name] if name in report.new else source.tensors[name].read(None)
        np.testing.assert_array_equal(value, expected)
    # A file that has offsets fills them.
    report = fit.fit(model, variables, backbone_of(variables))[1]
    assert not [name for name in report.new if "/backbone/" in name]


@pytest.mark.parametrize(
    "file, ours, left, message",
    [
        ({}, {"deformable": (0, 0, 1, 1)}, "res2_1/conv2/conv/kernel", "lacks .*res2_1/conv2/conv/kernel: it is incomplete"),
        ({"deformable": (0, 0, 0, 1)}, {"deformable": (0, 0, 0, 1)}, "res5_1/conv1/offset/bias", "lacks .*: it is incomplete"),
        ({"deformable": (0, 0, 1, 1)}, {}, "", r"set config\.model\.backbone\.deformable=0,0,1,1"),
        ({"deformable": (0, 0, 1, 1)}, {"deformable": (0, 1, 0, 1)}, "", r"set config\.model\.backbone\.deformable=0,0,1,1"),
        (
            {"deformable": (0, 0, 1, 1), "offset_groups": 2}, {"deformable": (0, 0, 1, 1)}, "",
            r"set config\.model\.backbone\.offset_groups=2",
        ),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_one_line(file, ours, left, message):
    source = backbone_of(network(**file)[1], [f"params/backbone/{left}"])
    with pytest.raises(UserError, match=message):
        fit.fit(*network(**ours), source)


@pytest.mark.parametrize("name", published.CONVOLUTIONS)
def test_torchvision(name):
    """Values and all gradients."""
    case, recorded = published.CONVOLUTIONS[name], published.recorded_convolution(name)
    *inputs, cotangent = published.convolution(name).values()

    @jax.jit
    def both(*inputs):
        output, pull = jax.vjp(lambda *a: deformable_convolve(*a, case.stride, case.dilation), *inputs)
        return output, *pull(cotangent)

    for key, value in zip(("output", "x", "offsets", "kernel"), both(*inputs), strict=True):
        np.testing.assert_allclose(value, recorded[key], rtol=1e-5, atol=1e-5, err_msg=key)
