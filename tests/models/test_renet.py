"""ReNet layers against `tests/references/renet_numpy.py`, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models.context import renet
from tests.models.gradients import check_against
from tests.references import renet_numpy

UNITS = 3


def directions(params):
    """The parameters of a `ReNetLayer` in the format of the reference: [forward, backward]."""
    names = {"input_kernel": "input", "recurrent_kernel": "recurrent", "bias": "bias"}
    return [{to: np.asarray(params[name][i]) for name, to in names.items()} for i in (0, 1)]


@pytest.mark.parametrize("vertical", [True, False])
@pytest.mark.parametrize("cell", renet.CELLS)
def test_layer_matches_the_reference(cell, vertical):
    x = np.random.default_rng(0).normal(size=(2, 5, 4, 3))
    layer = renet.ReNetLayer(UNITS, vertical, cell, jnp.float64)

    def reference(params, x):
        return renet_numpy.renet_layer(
            x, *directions(params), direction="vertical" if vertical else "horizontal", cell=cell
        )

    check_against(lambda params, x: layer.apply({"params": params}, x), reference, layer, x)


def test_the_state_of_an_lstm_is_a_sum_over_a_line_in_bfloat16_too():
    """512 equal terms, each of which is less than half of the sum's last digit in bfloat16 after the first 256."""
    layer = renet.ReNetLayer(1, True, "lstm", jnp.bfloat16)
    params = {"input_kernel": jnp.zeros((2, 1, 4)), "recurrent_kernel": jnp.zeros((2, 1, 4))}
    params["bias"] = jnp.tile(jnp.array([20, 20, 20, 1 / 512]), (2, 1))  # all gates are open
    y = layer.apply({"params": params}, jnp.zeros((1, 512, 1, 1)))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y[0, [-1, 0], 0, [0, 1]].astype(jnp.float32), np.tanh(1), rtol=0.01)


@pytest.mark.parametrize("cell", renet.CELLS)
def test_every_cell_computes_in_bfloat16(cell):
    y, variables = renet.ReNetLayer(2, True, cell, jnp.bfloat16).init_with_output(
        jax.random.key(0), jnp.ones((1, 3, 2, 2), jnp.bfloat16)
    )
    assert y.dtype == jnp.bfloat16 and {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_groups_patches_and_levels_match_the_reference():
    """Two L2-normalised and concatenated maps; patches that do not divide the map's size; two groups."""
    rng = np.random.default_rng(0)
    features = {"a": rng.normal(size=(1, 5, 7, 2)), "b": rng.normal(size=(1, 5, 7, 3))}
    module = renet.ReNet(("a", "b"), (3, 2), (2, 3), entering="l2", l2_scale=10.0, dtype=jnp.float64)

    def reference(params, features):
        x = np.concatenate([renet_numpy.l2_normalise(features[k], 10.0) for k in ("a", "b")], -1)
        for i, patch in ((1, (2, 3)), (2, (1, 1))):
            vertical, horizontal = (directions(params[f"{name}{i}"]) for name in ("vertical", "horizontal"))
            x = renet_numpy.renet_group(x, vertical, horizontal, patch=patch)
        return x

    check_against(lambda params, x: module.apply({"params": params}, x)[0], reference, module, features)


def test_initial_weights_are_those_of_the_paper():
    """Uniform in [-0.2, 0.2]; the recurrent weights of an IRNN are the identity, and its biases 0."""
    variables = renet.ReNetLayer(4, True, "irnn").init(jax.random.PRNGKey(0), jnp.zeros((1, 2, 2, 3)))["params"]
    np.testing.assert_array_equal(variables["recurrent_kernel"], [np.eye(4)] * 2)
    assert not variables["bias"].any() and 0.15 < np.abs(variables["input_kernel"]).max() <= 0.2
    for parameter in (
        renet.ReNetLayer(8, True, "lstm").init(jax.random.PRNGKey(0), jnp.zeros((1, 2, 2, 3)))["params"].values()
    ):
        # The standard deviation of this uniform distribution is 0.2/√3.
        assert 0.15 < np.abs(parameter).max() <= 0.2 and np.std(parameter) == pytest.approx(0.2 / 3**0.5, rel=0.2)
