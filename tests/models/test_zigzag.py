"""ZigZagNet against the NumPy reference, which was written from SPEC §5 alone, and the effects of its switches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models.context.zigzag import RegionContextEncoding, ZigZag
from tests.references import zigzag_numpy

CHANNELS = 4
PLAIN = {"norm": "none", "context_norm": "none"}  # the equations as printed


def random_like(tree, seed=0, scale=0.5):
    """Random values for the shapes of a parameter tree, scaled so that layers have a gain near 1."""
    rng = np.random.default_rng(seed)

    def draw(x):
        fan_in = max(int(np.prod(x.shape[-4:-1] if len(x.shape) >= 4 else x.shape[-2:-1])), 1)
        return jnp.asarray(rng.normal(0, scale / np.sqrt(fan_in), x.shape), jnp.float32)

    return jax.tree.map(draw, tree)


def rce_parameters(params, subdivisions):
    """The parameters of a `RegionContextEncoding` in the format of the reference."""
    kernels = np.split(np.asarray(params["branches"]["conv"]["kernel"]), len(subdivisions), axis=-1)
    biases = np.split(np.asarray(params["branches"]["conv"]["bias"]), len(subdivisions))
    result = {}
    for k, kernel, bias in zip(subdivisions, kernels, biases, strict=True):
        encode, decode = params[f"encode{k}"], params[f"decode{k}"]
        result[k] = {
            "conv": {"kernel": kernel, "bias": bias},
            "encode": encode,  # kernel [K',K',C,C]
            "decode": {"kernel": np.moveaxis(np.asarray(decode["kernel"]), 0, 2)},  # [C,K',K',C] → [K',K',C,C]
        }
    return result


def overwrite_stage(reference, params, subdivisions):
    for direction in ("down", "up"):
        for i, entry in enumerate(reference.get(direction, []), 1):
            if f"fuse_{direction}{i}" in params:
                entry["fuse"] = params[f"fuse_{direction}{i}"]["conv"]
            for name, layer in params.items():
                if direction == "up" and name.startswith("bring") and name.split("to")[1].startswith(f"{i}_"):
                    source, step = int(name[len("bring") :].split("to")[0]), int(name.split("_")[1])
                    entry["bring"][source - 1][step - 1] = layer["conv"]
            if f"context_{direction}{i}" in params:
                entry["rce"] = rce_parameters(params[f"context_{direction}{i}"], subdivisions)


def zigzag_parameters(params, stages, levels, subdivisions, sizes=None):
    """The module's parameters in the format of the reference. Parameters that the module lacks, as level 1 never reads them, are random."""
    result = zigzag_numpy.random_params(
        np.random.default_rng(2), levels, CHANNELS, stages, subdivisions, gain=0.3, sizes=sizes
    )
    for t in result:
        overwrite_stage(result[t], params.get(f"stage{t}", {}), subdivisions)
    if f"stage{stages + 1}" in params:  # readout="up"
        result[stages + 1]["up"][0]["fuse"] = params["fuse_out"]["conv"]
    elif "fuse_out" in params:
        result[stages + 1]["down"][0]["fuse"] = params["fuse_out"]["conv"]
    return result


def inputs(sizes, seed=1):
    rng = np.random.default_rng(seed)
    return {f"res{i + 2}": rng.uniform(-0.4, 0.4, (2, *size, 3)).astype(np.float32) for i, size in enumerate(sizes)}


@pytest.mark.parametrize("pool", ["sum", "mean"])
@pytest.mark.parametrize("size", [(9, 8), (5, 13)])  # not divisible by the subdivisions; with 5 < 7, cells are empty
def test_region_context_encoding_matches_the_reference(pool, size):
    f = np.random.default_rng(0).normal(size=(2, *size, CHANNELS)).astype(np.float32)
    module = RegionContextEncoding(region_pool=pool, norm="none")
    params = random_like(jax.eval_shape(module.init, jax.random.PRNGKey(0), {"f": f}))["params"]
    expected = zigzag_numpy.rce(f.astype(np.float64), rce_parameters(params, (3, 5, 7)), (3, 5, 7), pool)
    actual, _ = module.apply({"params": params}, {"f": f})
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - f).max() > 0.1  # the regions change the map


CASES = {
    "two levels, two stages": dict(stages=2, levels=("res2", "res3")),
    "four stages, three levels": dict(stages=4, levels=("res2", "res3", "res4")),
    "sum": dict(stages=2, levels=("res2", "res3", "res4"), combine="sum"),
    "not dense": dict(stages=2, levels=("res2", "res3", "res4"), dense=False),
    "no exchange": dict(stages=3, levels=("res2", "res3"), exchange=False),
    "no fusion": dict(stages=3, levels=("res2", "res3", "res4"), fusion=False),
    "region sums": dict(stages=2, levels=("res2", "res3"), region_pool="sum"),
    "encoder-decoder": dict(
        stages=3, levels=("res2", "res3", "res4"), exchange=False, fusion=False, dense=False, region_context="none"
    ),
    "average": dict(stages=2, levels=("res2", "res3", "res4"), bring="average", readout="up"),
    "strided": dict(stages=3, levels=("res2", "res3", "res4"), bring="strided", readout="up"),
    "strided, not dense": dict(stages=2, levels=("res2", "res3", "res4"), bring="strided", dense=False, readout="up"),
    "readout after another top-down pass": dict(stages=2, levels=("res2", "res3"), readout="up"),
}


def projections(params, features):
    """B of the reference: the results of the module's 1×1 convolutions."""
    layers = (params[f"project{i}"]["conv"] for i in range(1, len(features) + 1))
    return [
        zigzag_numpy.conv2d(
            f.astype(np.float64), np.asarray(p["kernel"], np.float64), np.asarray(p["bias"], np.float64)
        )
        for f, p in zip(features.values(), layers, strict=True)
    ]


@pytest.mark.parametrize("case", CASES)
def test_zigzag_matches_the_reference(case):
    fields = dict(dict(region_pool="mean", combine="product"), **CASES[case])
    levels, subdivisions = fields["levels"], (2, 3)
    module = ZigZag(channels=CHANNELS, subdivisions=subdivisions, **fields, **PLAIN)
    sizes = [(12, 10), (6, 5), (3, 3)][: len(levels)]
    features = inputs(sizes)
    params = random_like(jax.eval_shape(module.init, jax.random.PRNGKey(0), features))["params"]
    projected = projections(params, features)
    stages = fields["stages"] if fields.get("exchange", True) and fields.get("fusion", True) else 1
    reference = zigzag_parameters(params, stages, len(levels), subdivisions, sizes)
    switches = {k: fields.get(k, True) for k in ("exchange", "fusion", "dense")}
    switches |= {k: fields[k] for k in ("bring", "readout", "region_context") if k in fields}
    expected = zigzag_numpy.zigzag(
        projected, reference, fields["stages"], fields["combine"], **switches,
        subdivisions=subdivisions, pool=fields["region_pool"],
    )[0]  # fmt: skip
    actual, _ = jax.jit(module.apply)({"params": params}, features)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-3


def test_every_stage_shows_the_context_that_it_sends():
    """R = F here, which the reference computes for every stage and level."""
    module = ZigZag(channels=CHANNELS, stages=3, region_context="none", **PLAIN)
    features = inputs([(6, 4), (3, 2), (2, 1)])
    params = random_like(jax.eval_shape(module.init, jax.random.PRNGKey(0), features))["params"]
    reference = zigzag_parameters(params, 3, 3, ())
    trace = zigzag_numpy.zigzag_trace(projections(params, features), reference, 3, region_context="none")
    _, collections = jax.jit(lambda p: module.apply({"params": p}, features, mutable=["seen"]))(params)
    shown = {(stage, title): x[0] for stage, titles in collections["seen"].items() for title, x in titles.items()}
    # Of the last bottom-up pass, only level 1 is read, and it sends nothing.
    senders = {(f"stage{t}", "top down"): trace["F_d"][t][1:] for t in (1, 2, 3)}
    senders |= {(f"stage{t}", "bottom up"): trace["F_u"][t][:-1] for t in (1, 2)}
    assert shown.keys() == senders.keys()
    for (stage, title), expected in senders.items():
        first = 2 if title == "top down" else 1
        assert sorted(shown[stage, title]) == [f"level {first}", f"level {first + 1}"]
        for i, x in enumerate(expected, first):
            np.testing.assert_allclose(shown[stage, title][f"level {i}"], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("context_norm", ["gate", "batch"])
def test_normalisation_uses_the_running_statistics(context_norm):
    """Normalisation of R before it is multiplied, and batch normalisation after each convolution, with random running statistics."""
    module = ZigZag(channels=CHANNELS, subdivisions=(2,), stages=1, norm="batch", context_norm=context_norm)
    features = inputs([(6, 4), (3, 2)])
    shapes = jax.eval_shape(module.init, jax.random.PRNGKey(0), features)
    rng = np.random.default_rng(3)

    def draw(path, x):
        positive = path[-1].key in ("var", "scale")
        return (rng.uniform(0.5, 2, x.shape) if positive else rng.normal(0, 0.3, x.shape)).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    params, stats = variables["params"], variables["batch_stats"]

    def normalised(x, p, s):
        return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    def convolved(x, p, s, relu):
        y = normalised(zigzag_numpy.conv2d(x, p["conv"]["kernel"], np.zeros(CHANNELS)), p["norm"], s["norm"])
        return np.maximum(y, 0) if relu else y

    f1, f2 = (
        convolved(features[name].astype(np.float64), params[f"project{i}"], stats[f"project{i}"], False)
        for i, name in ((1, "res2"), (2, "res3"))
    )
    p, s = params["stage1"], stats["stage1"]
    # RCE of the reference, with the branch's normalisation folded into its kernel and bias.
    rce, branch = p["context_down2"], s["context_down2"]["branches"]["norm"]
    gain = rce["branches"]["norm"]["scale"] / np.sqrt(branch["var"] + 1e-5)
    folded = rce | {"branches": {"conv": {
        "kernel": rce["branches"]["conv"]["kernel"] * gain,
        "bias": rce["branches"]["norm"]["bias"] - branch["mean"] * gain,
    }}}  # fmt: skip
    r = normalised(
        zigzag_numpy.rce(f2, rce_parameters(folded, (2,)), (2,), "mean"), p["context_down2_norm"], s["context_down2_norm"]["norm"]
        if "norm" in s["context_down2_norm"] else s["context_down2_norm"],
    )  # fmt: skip
    if context_norm == "gate":
        r = 2 / (1 + np.exp(-r))
    down = f1 + zigzag_numpy.bilinear_resize(r, 6, 4)
    # F^d + F^u; with one stage, F^u equals F^d at level 1.
    expected = convolved(2 * down, params["fuse_out"], stats["fuse_out"], True)
    actual, _ = jax.jit(module.apply)(variables, features)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.05


@pytest.mark.parametrize("order", ["conv_norm_relu", "norm_conv_relu", "norm_relu_conv"])
def test_fusion_normalises_in_the_given_order(order):
    """With F^d = F^u, by the batch's statistics."""
    module = ZigZag(
        channels=CHANNELS, stages=1, region_context="none", context_norm="none", levels=("res2",), fuse_order=order
    )
    features = inputs([(6, 5)])
    variables = random_like(jax.eval_shape(module.init, jax.random.PRNGKey(0), features), scale=1.0)
    params = variables["params"]
    batch = lambda p: {"scale": p["scale"], "bias": p["bias"]}  # noqa: E731
    projected = zigzag_numpy.normalise(
        zigzag_numpy.conv2d(features["res2"].astype(np.float64), params["project1"]["conv"]["kernel"]),
        batch(params["project1"]["norm"]),
    )
    norm = params["fuse_out"]["norm"] if order == "conv_norm_relu" else params["fuse_out_norm"]
    weights = params["fuse_out"]["conv"] | {"norm": batch(norm)}
    expected = zigzag_numpy.fused(projected, projected, weights, order)
    (actual, _), _ = module.apply(variables, features, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    assert (expected.min() < -0.01) == (order == "norm_relu_conv")  # the only order without a ReLU after W


def test_reference_gives_results_worked_out_by_hand():
    zigzag_numpy.self_check()


def parameter_names(**fields):
    module = ZigZag(channels=CHANNELS, levels=("res2", "res3", "res4"), subdivisions=(2,), **fields, **PLAIN)
    variables = jax.eval_shape(module.init, jax.random.PRNGKey(0), inputs([(8, 8), (4, 4), (2, 2)]))
    leaves = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in leaves}


def test_switches_remove_the_parameters_of_what_they_turn_off():
    full = parameter_names(stages=3)
    assert {f"stage{t}" for t in (1, 2, 3)} < {name.split("/")[0] for name in full} and "fuse_out/conv/kernel" in full
    # How contexts are combined, and which levels send them, does not change the parameters.
    assert parameter_names(stages=3, combine="sum") == full
    assert parameter_names(stages=3, dense=False) == full
    # One pass: the weights of the first stage that level 1 reads, and those of the fusion.
    no_exchange = parameter_names(stages=3, exchange=False)
    assert no_exchange == parameter_names(stages=1)
    assert {name.split("/")[0] for name in no_exchange} == {
        "project1",
        "project2",
        "project3",
        "stage1",
        "fuse_out",
    }
    # No W anywhere.
    no_fusion = parameter_names(stages=3, fusion=False)
    assert no_fusion == {k: v for k, v in no_exchange.items() if not k.startswith("fuse_out")}
    assert not any("fuse" in name for name in no_fusion)


def test_strided_convolutions_reach_a_size_other_than_half():
    """34 columns become 18 by Caffe's pooling, and 17 by a strided convolution."""
    module = ZigZag(channels=CHANNELS, stages=1, bring="strided", readout="up", region_context="none")
    features = inputs([(6, 34), (4, 18)])
    (y, _), variables = jax.eval_shape(module.init_with_output, jax.random.PRNGKey(0), features)
    assert y.shape == (*features["res2"].shape[:3], CHANNELS)
    assert [name for name in variables["params"]["stage1"] if name.startswith("bring")] == ["bring1to2_1"]
