"""The networks that the papers compare with: formulas of their parts in NumPy loops, their sizes, and their use in place of RCE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.configs import defaults
from ctxseg.models.context import ann, ccnet, danet, dnl, ocr
from ctxseg.models.context.gcn import GCN
from ctxseg.models.context.global_fc import GlobalFC
from ctxseg.models.context.zigzag import REGION_CONTEXTS, ZigZag
from ctxseg.studies import complexity


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_criss_cross_attention_reads_the_row_and_the_column():
    """A position attends to itself only once."""
    q, k, v = normal(1, 3, 4, 2), normal(1, 3, 4, 2, seed=1), normal(1, 3, 4, 5, seed=2)
    expected = np.zeros_like(v)
    for y, x in np.ndindex(3, 4):
        cross = [(y, j) for j in range(4)] + [(i, x) for i in range(3) if i != y]
        weights = softmax(np.array([q[0, y, x] @ k[0][c] for c in cross]))
        expected[0, y, x] = sum(w * v[0][c] for w, c in zip(weights, cross, strict=True))
    assert_close(ccnet.criss_cross(q, k, v), expected)


def test_channel_attention_follows_its_formula():
    x = normal(1, 2, 3, 4)
    flat = x.reshape(6, 4)
    energy = flat.T @ flat
    expected = (softmax(energy.max(1, keepdims=True) - energy) @ flat.T).T.reshape(x.shape)
    assert_close(danet.channel_attention(x), expected)


def test_disentangled_attention_follows_its_formula():
    q, k, v, m = normal(1, 5, 2), normal(1, 5, 2, seed=1), normal(1, 5, 3, seed=2), normal(1, 5, 1, seed=3)
    whitened = (q[0] - q[0].mean(0)) @ (k[0] - k[0].mean(0)).T / (np.sqrt(2) * 0.05)
    expected = softmax(whitened) @ v[0] + softmax(m[0, :, 0]) @ v[0]
    assert_close(dnl.disentangled(q, k, v, m, 0.05)[0], expected)


def test_soft_object_regions_are_weighted_means():
    x, scores = normal(1, 2, 3, 4), normal(1, 2, 3, 5, seed=1)
    expected = np.zeros((5, 4))
    for k in range(5):
        weights = softmax(scores[0, :, :, k].ravel())
        for i, position in enumerate(np.ndindex(2, 3)):
            expected[k] += weights[i] * x[0][position]
    assert_close(ocr.soft_object_regions(jnp.asarray(x), jnp.asarray(scores))[0, :, 0], expected)


def test_pyramid_has_the_mean_of_each_cell():
    x = normal(1, 6, 6, 2)
    means = [x[0].mean((0, 1))] + [x[0, i : i + 2, j : j + 2].mean((0, 1)) for i in (0, 2, 4) for j in (0, 2, 4)]
    assert_close(ann.pyramid(jnp.asarray(x), (1, 3))[0], means)


def test_large_kernel_is_a_sum_of_two_separable_kernels():
    """Each is the outer product of a column and a row; the map is padded with zeros."""
    x = normal(1, 7, 6, 1)
    module = GCN(channels=1, kernel=3, norm="none")
    params = jax.tree.map(
        lambda p: normal(*p.shape, seed=p.size), module.init(jax.random.PRNGKey(0), {"x": x})["params"]
    )
    for name in ("columns_first", "rows_first"):
        for i in (1, 2):
            params[f"{name}{i}"]["bias"] = np.zeros(1, np.float32)
    kernel = sum(
        np.multiply.outer(params[f"{name}{column}"]["kernel"].ravel(), params[f"{name}{3 - column}"]["kernel"].ravel())
        for name, column in (("columns_first", 1), ("rows_first", 2))
    )
    padded = np.pad(x[0, :, :, 0], 1)
    total = np.array([[(padded[i : i + 3, j : j + 3] * kernel).sum() for j in range(6)] for i in range(7)])
    out = params["out"]["conv"]
    expected = np.maximum(total * out["kernel"].item() + out["bias"].item(), 0)
    assert_close(module.apply({"params": params}, {"x": x})[0][0, :, :, 0], expected)


@pytest.mark.parametrize("kind", ["image", "subregion"])
def test_global_context_reaches_every_position(kind):
    """One vector is added to the whole image, or one to each subregion. Both depend on the opposite corner of the image."""
    x = normal(1, 6, 6, 2)
    module = GlobalFC(channels=3, kind=kind, grid=2, norm="none")
    params = module.init(jax.random.PRNGKey(0), {"x": x})["params"]
    projected = x @ params["project"]["conv"]["kernel"][0, 0] + params["project"]["conv"]["bias"]
    added = np.asarray(module.apply({"params": params}, {"x": x})[0] - projected)[0]
    cells = added.reshape(2, 3, 2, 3, 3).transpose(0, 2, 1, 3, 4).reshape(4, 9, 3)
    assert_close(cells, np.repeat(cells[:, :1], 9, 1))
    assert (np.abs(cells - cells[:1]).max() < 1e-5) == (kind == "image")
    gradient = jax.grad(lambda x: module.apply({"params": params}, {"x": x})[0][0, 0, 0].sum())(jnp.asarray(x))
    assert np.abs(gradient[0, 5, 5]).max() > 0


# {row of Table 3 in Jin et al. 2021: relative tolerance of its multiply-adds}. docs/speed.md explains why ANN differs by 0.7 %.
TOLERANCES = {
    "ppm": 0.002,
    "aspp": 0.002,
    "dca": 0.002,
    "ccnet": 0.002,
    "danet": 0.002,
    "dnl": 0.002,
    "apcnet": 0.002,
    "ann": 0.008,
}


@pytest.mark.parametrize("name", TOLERANCES)
def test_parameters_and_multiply_adds_are_those_of_the_paper(name):
    module, inputs = complexity.ROWS[name](defaults.get_config())
    row = complexity.measure(module, inputs, repeats=0)
    parameters, multiply_adds = complexity.PAPER[name]
    assert row["parameters"] / 1e6 == pytest.approx(parameters, abs=0.02)
    assert row["multiply_adds"] / 1e9 == pytest.approx(multiply_adds, rel=TOLERANCES[name])


@pytest.mark.parametrize("name", [name for name, module in REGION_CONTEXTS.items() if module])
def test_region_context_can_replace_rce(name):
    """Table 2: each gives every level its context, with the size and the channels of that level's map."""
    features = {"a": normal(1, 6, 8, 3), "b": normal(1, 3, 4, 5)}
    module = ZigZag(channels=4, stages=2, region_context=name)
    (out, aux), variables = jax.eval_shape(
        lambda r: module.init_with_output(r, features, None, True), jax.random.PRNGKey(0)
    )
    assert out.shape == (1, 6, 8, 4) and not aux
    contexts = {k for stage in ("stage1", "stage2") for k in variables["params"][stage] if k.startswith("context")}
    assert contexts == {"context_down2", "context_down2_norm"} | {"context_up1", "context_up1_norm"}
