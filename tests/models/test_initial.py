"""Initial values against those of flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models import initial

DRAWS = {
    "he_normal": (initial.he_normal(), nn.initializers.he_normal()),
    "he_normal of a group": (initial.he_normal(batch_axis=(0, 1)), nn.initializers.he_normal(batch_axis=(0, 1))),
    "lecun_normal": (initial.lecun_normal(), nn.initializers.lecun_normal()),
    "normal": (initial.normal(0.01), nn.initializers.normal(0.01)),
    "uniform": (initial.uniform(-0.2, 0.2), lambda key, *args: jax.random.uniform(key, *args, -0.2, 0.2)),
}


@pytest.mark.parametrize(
    "shape", [(3, 3, 7, 5), (1, 3, 64, 150)]
)  # fewer values than the fewest that are drawn, and more
@pytest.mark.parametrize("name", DRAWS)
def test_draws_equal_those_of_flax(name, shape):
    key = jax.random.PRNGKey(3)
    ours, theirs = (draw(key, shape, jnp.float32) for draw in DRAWS[name])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert ours.dtype == jnp.float32


def test_few_sizes_are_drawn():
    sizes = np.arange(1, 2**25, 997)
    drawn = np.array([initial._drawn(int(n)) for n in sizes])
    assert (drawn >= sizes).all() and len(set(drawn)) <= 20
    assert (drawn[sizes > 2**18] < 2 * sizes[sizes > 2**18]).all()
    assert initial._drawn(3 * 3 * 512 * 512) == 3 * 3 * 512 * 512


def test_variables_equal_those_of_init_and_no_forward_pass_is_computed():
    computed = []

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, scale=2.0):
            x = nn.Conv(4, (3, 3), kernel_init=initial.he_normal())(x * scale)
            jax.debug.callback(computed.append, x.sum())
            x = nn.BatchNorm(use_running_average=False)(x)
            center = self.variable("memory", "center", jax.random.normal, self.make_rng("params"), (5,))
            return nn.Dense(3)(x) + center.value.sum()

    arguments = jnp.ones((2, 8, 8, 3)), jnp.float32(3)
    expected = Network().init(jax.random.PRNGKey(1), *arguments)
    jax.effects_barrier()
    assert len(computed) == 1
    found = initial.variables(Network(), jax.random.PRNGKey(1), arguments)
    jax.effects_barrier()
    assert len(computed) == 1
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
