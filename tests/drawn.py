"""Initial states for tests, drawn by NumPy because initialisers are slow to compile."""

import jax
import numpy as np

from ctxseg.training.state import create_state


def drawn(shapes):
    """A state with these shapes: random kernels and memory, gains of 1, biases of 0; the memory has seen every class."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name.endswith("kernel") or name == "bank":
            return (rng.normal(size=x.shape) * np.sqrt(2 / max(np.prod(x.shape[:-1]), 1))).astype(x.dtype)
        return (np.ones if name.rstrip("12") in ("scale", "var", "seen") or "gamma" in name else np.zeros)(
            x.shape, x.dtype
        )

    state = jax.tree_util.tree_map_with_path(draw, shapes)
    return state.replace(opt_state=jax.tree.map(np.zeros_like, state.opt_state))


def drawn_state(model, optimizer, crop):
    """The result of `create_state`, with parameters from `drawn`."""
    return drawn(jax.eval_shape(lambda: create_state(model, optimizer, crop, 0)))
