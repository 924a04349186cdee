"""MSCI against `tests/references/msci_numpy.py`, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.configs import defaults
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.models.context.msci import MSCI, adjacency, cell_regions, region_sums, spread
from ctxseg.models.layers import ConvNorm
from tests.models.gradients import check_against, random_like
from tests.references import msci_numpy, zigzag_numpy

COUNT = 6  # region 4 has no pixel, and region 5 contains no cell's centre


def region_map():
    """`[2,8,12]`: blocks, a region of one pixel between the cells' centres, pixels without a region, and regions without a neighbour."""
    r = np.zeros((8, 12), int)
    r[:, 4:8] = 1
    r[4:, 8:] = 2
    r[0:3, 8:] = 3
    r[3, 8:] = -1  # so region 3 touches only region 1
    r[1, 1] = 5
    second = np.full((8, 12), -1)
    second[:3, :3] = 0
    second[5:, 5:] = 1  # pixels without a region separate it from region 0
    return np.stack([r, second])


def direction(params):
    split = {"conv": params["conv"]["kernel"], "bias": params["conv"]["bias"], "sum": params["sum"]["kernel"]}
    return split | ({"around": params["around"]["kernel"]} if "around" in params else {})


def pair(params):
    deconv = params["deconv"].get("conv", params["deconv"])
    return {name: direction(params[name]) for name in ("up", "down") if name in params} | {"deconv": deconv}


CASES = {
    "two levels, T = 2": {"sizes": [(8, 12), (4, 6)]},
    "region means": {"sizes": [(8, 12), (4, 6)], "region_pool": "mean"},
    "no cell states": {"sizes": [(8, 12), (4, 6)], "cell_states": False},
    "no super-pixels": {"sizes": [(8, 12), (4, 6)], "superpixels": False},
    "three levels, two of the same size": {"sizes": [(4, 6), (2, 3), (2, 3)]},
    "upwards": {"sizes": [(4, 6), (2, 3)], "directions": "up"},
    "downwards": {"sizes": [(4, 6), (2, 3)], "directions": "down"},
    "one phase": {"sizes": [(8, 12), (4, 6), (2, 3)], "phases": "one"},
    "states reset in each phase": {"sizes": [(4, 6), (2, 3), (2, 3)], "reset_states": True},
    "grid": {"sizes": [(8, 12), (4, 6)], "region_shape": "grid"},
}


@pytest.mark.parametrize("case", CASES)
def test_msci_matches_the_reference(case):
    fields = dict(CASES[case])
    rng = np.random.default_rng(1)
    features = {f"l{i}": rng.normal(size=(2, h, w, 2)) for i, (h, w) in enumerate(fields.pop("sizes"))}
    conv = partial(ConvNorm, dtype=jnp.float64)
    module = MSCI(channels=2, stages=2, regions=COUNT, norm="none", conv=conv, dtype=jnp.float64, **fields)
    regions = region_map()
    with jax.enable_x64(True):
        shapes = jax.eval_shape(module.init, jax.random.PRNGKey(0), features, jnp.asarray(regions))["params"]
    params = random_like(shapes)
    switches = {k: fields[k] for k in ("directions", "phases", "reset_states") if k in fields}

    def reference(params, features):
        maps = []
        for i, f in enumerate(features.values(), 1):
            p = params[f"project{i}"]["conv"]
            maps.append(f @ p["kernel"][0, 0] + p["bias"])
        pairs = [pair(params[f"pair{i + 1}"]) for i in range(len(maps) - 1)]
        grid = np.stack([msci_numpy.grid_regions(8, 12, COUNT)] * 2)
        return msci_numpy.msci(
            maps, pairs, grid if fields.get("region_shape") == "grid" else regions, 2, fields.get("region_pool", "sum"),
            fields.get("cell_states", True), fields.get("superpixels", True), n=COUNT, **switches,
        )  # fmt: skip

    check_against(
        lambda p, x: module.apply({"params": p}, x, jnp.asarray(regions))[0], reference, module, features, params
    )


def test_reference_gives_results_worked_out_by_hand():
    msci_numpy.self_check()


def test_centre_of_a_cell_is_pixel_i_times_stride():
    """Also where the last cell has fewer pixels."""
    rows = jnp.arange(65)[None, :, None] * jnp.ones((1, 1, 65), int)
    for stride in (4, 8, 16):
        n = -(-65 // stride)
        np.testing.assert_array_equal(cell_regions(rows, (n, n))[0, :, 0], np.arange(n) * stride)


def test_sums_over_many_cells_are_exact_in_bfloat16():
    f = jnp.ones((1, 40, 40, 1), jnp.bfloat16)
    cells = jnp.zeros((1, 40, 40), int)
    assert region_sums(f, cells, 1).item() == 1600
    gradient = jax.grad(lambda r: spread(r, cells).sum())(jnp.zeros((1, 1, 1), jnp.bfloat16))
    assert gradient.item() == 1600


def test_adjacency_matches_the_reference():
    touch = np.asarray(adjacency(jnp.asarray(region_map()), COUNT))
    np.testing.assert_array_equal(touch > 0, msci_numpy.adjacency(region_map(), COUNT) | np.eye(COUNT, dtype=bool))
    assert touch[1].sum() == COUNT  # nothing touches in the second image


def test_superpixels_are_required():
    with pytest.raises(UserError, match="config.data.superpixels"):
        MSCI().init(jax.random.PRNGKey(0), {"a": jnp.zeros((1, 4, 4, 2))})


def test_one_phase_gives_a_map_for_each_pair_of_levels():
    """Named after the finer level. Another context on top of the connections reads these maps."""
    rng = np.random.default_rng(2)
    features = {f"res{i + 2}": jnp.asarray(rng.normal(size=(2, *s, 3))) for i, s in enumerate([(4, 6), (2, 3), (1, 2)])}
    module = MSCI(channels=2, stages=1, regions=COUNT, phases="one")
    regions = jnp.asarray(region_map())
    variables = module.init(jax.random.PRNGKey(0), features, regions)
    maps = module.apply(variables, features, regions, phases=1, method="intertwine")
    assert {name: q.shape for name, q in maps.items()} == {"res2": (2, 4, 6, 2), "res3": (2, 2, 3, 2)}
    total, _ = module.apply(variables, features, regions)
    expected = maps["res2"] + zigzag_numpy.bilinear_resize(np.asarray(maps["res3"], np.float64), 4, 6)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)


def test_connections_come_before_another_context():
    config = defaults.get_config().model
    config.backbone.width = 4
    config.connections.update({"name": "msci", "channels": 2, "stages": 1, "regions": COUNT})
    config.context.update({"name": "encoder_decoder", "channels": 3})
    model = create_model(config, 3)
    images, regions = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 32, 32), int)
    output, variables = jax.eval_shape(lambda r: model.init_with_output(r, images, regions), jax.random.PRNGKey(0))
    assert output.logits.shape == (1, 8, 8, 3)
    # Four levels give three maps, which the context reads, with the channels of the connections.
    context = variables["params"]["context"]
    assert [context[f"project{i}"]["conv"]["kernel"].shape[2] for i in (1, 2, 3)] == [2, 2, 2]
    assert "project4" not in context and len(variables["params"]["connections"]) == 7


# Fields of the connections, fields of a context, the image's sides (None: 32, without regions), and what the message names.
FAULTS = [
    ({"levels": ("res2", "res9")}, {}, 32, r"connections\.levels .*'res9'.*pixels, res2, res3, res4, res5"),
    ({"levels": ("res2", "res5")}, {}, 32, r"connections\.levels.*msci.*2"),
    ({}, {"levels": ("res4", "res5")}, 32, r"context\.levels .*'res5'.*res2, res3, res4(?!,)"),
    ({}, {}, None, r"connections\.superpixels .*config\.data\.superpixels"),
    ({}, {}, 8, r"connections\.norm .*none(?!,)"),  # batch normalisation of a single position
]  # fmt: skip


@pytest.mark.parametrize("connections, context, side, message", FAULTS)
def test_message_names_the_faulty_stage(connections, context, side, message):
    """The connections, or the context that reads their maps."""
    config = defaults.get_config().model
    config.backbone.update({"width": 4, "output_stride": 32})
    config.frozen = ("backbone",)  # otherwise its batch normalisation would refuse a single position first
    config.connections.update({"name": "msci", "channels": 2, "stages": 1, "regions": COUNT} | connections)
    config.context.update({"name": "encoder_decoder", "channels": 3} | context)
    model = create_model(config, 3)
    size = (1, side or 32, side or 32)
    regions = None if side is None else jnp.zeros(size, int)

    def step(rng):
        variables = model.init(rng, jnp.zeros((*size, 3)), regions)
        return model.apply(variables, jnp.zeros((*size, 3)), regions, train=True, mutable=["batch_stats"])

    with pytest.raises(UserError, match=rf"^(config\.train\.batch_size .* is 1.*)?config\.model\.{message}"):
        jax.eval_shape(step, jax.random.PRNGKey(0))


def test_no_array_is_as_large_as_cells_times_regions():
    """In the forward pass."""
    regions, size = 500, 64
    module = MSCI(channels=2, stages=1, regions=regions)
    features = {"a": jnp.zeros((1, size, size, 2)), "b": jnp.zeros((1, size // 2, size // 2, 2))}
    ids = jnp.zeros((1, 2 * size, 2 * size), jnp.int32)
    variables = jax.eval_shape(module.init, jax.random.PRNGKey(0), features, ids)
    jaxpr = jax.make_jaxpr(lambda v, f, i: module.apply(v, f, i)[0])(variables, features, ids)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (v.aval.size for v in equation.outvars)
            for inner in jax.core.jaxprs_in_params(equation.params):
                yield from sizes(inner)

    assert max(sizes(jaxpr.jaxpr)) < size * size * regions / 4
