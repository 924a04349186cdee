"""Compares a module with a NumPy reference in float64: its values, and its gradients with finite differences of the reference."""

import jax
import jax.numpy as jnp
import numpy as np


def random_like(tree, seed=0, scale=0.4):
    """Normal float64 arrays of the shapes in `tree`."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: scale * rng.normal(size=x.shape), tree)


def check_against(function, reference, module, x, params=None, seed=0):
    """Asserts that function(params, x) and reference(params, x) agree, and so do their derivatives along random directions.

    The gradients of `function` with respect to every parameter and input are compared with central differences of `reference`.

    Args:
        function: in JAX, (params, x) → array.
        reference: the same in NumPy.
        module: the flax module that `function` applies. It determines the shapes of `params`.
        x: a pytree of arrays.
        params: parameters; default: random ones.
    """
    with jax.enable_x64(True):
        if params is None:
            shapes = jax.eval_shape(module.init, jax.random.PRNGKey(0), x)["params"]
            params = random_like(shapes, seed)
        inputs = (params, x)
        expected = reference(*inputs)
        weights = np.random.default_rng(seed + 1).normal(size=expected.shape)

        @jax.jit
        def value_and_gradients(inputs):
            def loss(inputs):
                y = function(*inputs)
                return (y * weights).sum(), y

            return jax.value_and_grad(loss, has_aux=True)(inputs)

        (_, actual), gradients = value_and_gradients(jax.tree.map(jnp.asarray, inputs))
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)
        assert expected.std() > 1e-3
        leaves, treedef = jax.tree.flatten(inputs)
        gradients = jax.tree.leaves(gradients)
        rng, step = np.random.default_rng(seed + 2), 1e-5
        for i, leaf in enumerate(leaves):
            direction = rng.normal(size=leaf.shape)

            def loss_at(t, i=i, direction=direction):
                moved = [x + t * direction if j == i else x for j, x in enumerate(leaves)]
                return (reference(*jax.tree.unflatten(treedef, moved)) * weights).sum()

            numeric = (loss_at(step) - loss_at(-step)) / (2 * step)
            analytic = (np.asarray(gradients[i]) * direction).sum()
            np.testing.assert_allclose(analytic, numeric, rtol=1e-5, atol=1e-6, err_msg=f"leaf {i}")
