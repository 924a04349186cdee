"""The operations of a traced function, for tests of their dtypes."""

from collections.abc import Iterator
from math import prod

import jax
import jax.numpy as jnp


def operations(jaxpr) -> Iterator:
    """The equations of a jaxpr and of all functions that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from operations(inner)


def dtypes(jaxpr, *names: str) -> set[str]:
    """The dtypes of the operands of the operations with these names."""
    return {str(v.aval.dtype) for e in operations(jaxpr) if e.primitive.name in names for v in e.invars}


def bfloat16_sums(jaxpr, most: int) -> list[str]:
    """The operations that add more than `most` values in bfloat16, or that may: scattered ones."""
    found = []
    for e in operations(jaxpr):
        if e.primitive.name in ("reduce_sum", "cumsum", "reduce_window_sum", "scatter-add", "scatter_add"):
            x = e.invars[0].aval
            count = prod(x.shape[axis] for axis in e.params["axes"]) if "axes" in e.params else most + 1
            if x.dtype == jnp.bfloat16 and count > most:
                found.append(str(e))
    return found
