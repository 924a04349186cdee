"""Necks: contexts that return the maps of all levels, for detectors (SPEC §9)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models import CONTEXTS, extent
from ctxseg.models.context.encoder_decoder import EncoderDecoder
from ctxseg.models.context.fpn import FPN, repeat
from ctxseg.models.context.zigzag import ZigZag
from tests.models.test_zigzag import PLAIN, inputs, overwrite_stage, projections, random_like
from tests.references import zigzag_numpy

CHANNELS = 4
SIZES = [(12, 10), (6, 5), (3, 3)]
NECKS = [name for name, module in CONTEXTS.items() if hasattr(module, "pyramid")]


def conv(x, layer):
    return zigzag_numpy.conv2d(x, *(np.asarray(layer["conv"][name], np.float64) for name in ("kernel", "bias")))


def test_fpn_follows_its_formula():
    features = inputs(SIZES)
    module = FPN(channels=CHANNELS, levels=tuple(features))
    params = random_like(jax.eval_shape(lambda k: module.init(k, features, method="pyramid"), jax.random.PRNGKey(0)))[
        "params"
    ]
    merged = None
    expected = []
    for i in (3, 2, 1):
        lateral = conv(features[f"res{i + 1}"].astype(np.float64), params[f"project{i}"])
        if merged is not None:
            h, w = lateral.shape[1:3]
            lateral = lateral + merged[:, np.arange(h) // 2][:, :, np.arange(w) // 2]
        merged = lateral
        expected.insert(0, conv(merged, params[f"smooth{i}"]))
    maps = module.apply({"params": params}, features, method="pyramid")
    for actual, wanted in zip(maps, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)
    finest, _ = module.apply({"params": params}, features)  # as the context of a segmenter
    np.testing.assert_array_equal(finest, maps[0])


@pytest.mark.parametrize(
    ("size", "source", "factor"), [(8, 4, 2), (7, 4, 2), (5, 2, 4), (9, 3, 4), (6, 6, 1), (1, 1, 1)]
)
def test_repeat_reads_the_position_of_the_same_stride(size, source, factor):
    x = np.arange(source, dtype=np.float32).reshape(1, source, 1, 1) + 10 * np.arange(3.0, dtype=np.float32)[:, None]
    expected = x[:, np.arange(size) // factor]
    np.testing.assert_array_equal(repeat(x, (size, 3)), expected)


CASES = {
    "three stages": dict(stages=3, levels=("res2", "res3", "res4")),
    "sum, not dense": dict(stages=2, levels=("res2", "res3", "res4"), combine="sum", dense=False),
    "no exchange": dict(stages=3, levels=("res2", "res3", "res4"), exchange=False),
    "no fusion": dict(stages=3, levels=("res2", "res3", "res4"), fusion=False),
    "strided": dict(stages=2, levels=("res2", "res3", "res4"), bring="strided"),
    "up": dict(stages=2, levels=("res2", "res3"), bring="average", readout="up"),
}


@pytest.mark.parametrize("case", CASES)
def test_all_maps_of_zigzag_match_the_reference(case):
    fields, subdivisions = CASES[case], (2, 3)
    module = ZigZag(channels=CHANNELS, subdivisions=subdivisions, **fields, **PLAIN)
    sizes = SIZES[: len(fields["levels"])]
    features = inputs(sizes)
    params = random_like(jax.eval_shape(lambda k: module.init(k, features, method="pyramid"), jax.random.PRNGKey(0)))[
        "params"
    ]
    stages = fields["stages"] if fields.get("exchange", True) and fields.get("fusion", True) else 1
    reference = zigzag_numpy.random_params(
        np.random.default_rng(2), len(sizes), CHANNELS, stages, subdivisions, gain=0.3, sizes=sizes
    )
    for t in reference:
        overwrite_stage(reference[t], params.get(f"stage{t}", {}), subdivisions)
    direction = "up" if fields.get("readout") == "up" else "down"
    for i, entry in enumerate(reference[stages + 1][direction], 1):
        if fields.get("fusion", True):
            entry["fuse"] = params[f"fuse_out{'' if i == 1 else i}"]["conv"]
    switches = {k: v for k, v in fields.items() if k not in ("stages", "levels")}
    expected = zigzag_numpy.zigzag(
        projections(params, features), reference, fields["stages"],
        subdivisions=subdivisions, pool="mean", **switches,
    )  # fmt: skip
    maps = jax.jit(lambda p: module.apply({"params": p}, features, method="pyramid"))(params)
    assert len(maps) == len(sizes)
    for actual, wanted in zip(maps, expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)
        assert wanted.std() > 1e-3


def test_the_finest_map_is_that_of_a_segmenter():
    """The pyramid has all parameters of the context, by the same names, and the same map of level 1."""
    features = inputs(SIZES)
    for cls in (ZigZag, EncoderDecoder, FPN):
        module = cls(channels=CHANNELS, levels=tuple(features), norm="none")
        single = jax.eval_shape(module.init, jax.random.PRNGKey(0), features)["params"]
        whole = jax.eval_shape(lambda k, m=module: m.init(k, features, method="pyramid"), jax.random.PRNGKey(0))
        params = random_like(whole)["params"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(single):
            found = params
            for key in path:
                found = found[key.key]
            assert found.shape == leaf.shape
        variables = {"params": params}
        if "batch_stats" in whole:
            variables["batch_stats"] = jax.tree.map(lambda x: jnp.ones(x.shape), whole["batch_stats"])
        maps = module.apply(variables, features, method="pyramid")
        assert [x.shape[1:3] for x in maps] == SIZES
        np.testing.assert_allclose(module.apply(variables, features)[0], maps[0], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("plain_convolutions")
@pytest.mark.parametrize("name", NECKS)
def test_padding_changes_nothing(name):
    """An image of 40×72 in a canvas of 64×96 has the maps that it has alone."""
    rng = np.random.default_rng(0)
    strides, sizes = (4, 8, 16), np.array([[40, 72]])
    alone = {f"res{i}": rng.normal(size=(1, 40 // s, -(-72 // s), 3)) for i, s in enumerate(strides, 2)}
    alone["res4"] = rng.normal(size=(1, 3, 5, 3))
    alone = {k: v.astype(np.float32) for k, v in alone.items()}
    canvas = {
        k: rng.normal(size=(1, 64 // s, 96 // s, 3)).astype(np.float32) for k, s in zip(alone, strides, strict=True)
    }
    for k, x in alone.items():
        canvas[k][:, : x.shape[1], : x.shape[2]] = x
    module = CONTEXTS[name](channels=CHANNELS, levels=tuple(alone), norm="none")
    shapes = jax.eval_shape(lambda k: module.init(k, alone, method="pyramid"), jax.random.PRNGKey(0))
    variables = {"batch_stats": jax.tree.map(lambda x: jnp.ones(x.shape), shapes.get("batch_stats", {}))}
    variables["params"] = random_like(shapes["params"])

    def padded(variables):
        with extent.padded(jnp.asarray(sizes), (64, 96)):
            return module.apply(variables, canvas, method="pyramid")

    expected = jax.jit(lambda v: module.apply(v, alone, method="pyramid"))(variables)
    for x, y in zip(jax.jit(padded)(variables), expected, strict=True):
        np.testing.assert_allclose(x[:, : y.shape[1], : y.shape[2]], y, rtol=1e-4, atol=1e-5)
