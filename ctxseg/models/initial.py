"""Initial variables: those of flax, from few compiled programs."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

# The standard deviation of a standard normal distribution that is cut at ±2.
CUT_STD = 0.87962566103423978


def variables(model, key, arguments: tuple) -> dict:
    """`model.init(key, *arguments)`, of which only what the variables depend on is compiled: not the forward pass."""
    traced, shapes = jax.make_jaxpr(model.init, return_shape=True)(key, *arguments)
    needed, equations = set(_variables(traced.jaxpr.outvars)), []
    for equation in reversed(traced.jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            equations.append(equation)
            needed.update(_variables(equation.invars))
    compute = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr.replace(eqns=equations[::-1]), traced.consts))
    return jax.tree.unflatten(jax.tree.structure(shapes), compute(*jax.tree.leaves((key, arguments))))


def _variables(atoms):
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def he_normal(out_axis: int = -1, batch_axis: tuple[int, ...] = ()) -> Callable:
    """As `nn.initializers.he_normal`, with the same values (He et al., ICCV 2015): variance 2 / inputs of each output."""
    return _fan_in(2.0, out_axis, batch_axis)


def lecun_normal() -> Callable:
    """As `nn.initializers.lecun_normal`, with the same values: variance 1 / inputs of each output."""
    return _fan_in(1.0, -1, ())


def normal(std: float) -> Callable:
    """As `nn.initializers.normal`: a normal distribution with mean 0."""

    def init(key, shape: tuple[int, ...], dtype=jnp.float32):
        return _scaled(_draw_normal(key, _drawn(math.prod(shape))), np.float32(std), tuple(shape)).astype(dtype)

    return init


def truncated_normal(std: float) -> Callable:
    """A normal distribution with mean 0 that is cut at about twice `std`, its standard deviation."""

    def init(key, shape: tuple[int, ...], dtype=jnp.float32):
        scale = np.float32(std / CUT_STD)
        return _scaled(_draw_cut(key, _drawn(math.prod(shape))), scale, tuple(shape)).astype(dtype)

    return init


def uniform(low: float, high: float) -> Callable:
    """A uniform distribution from `low` to `high`."""

    def init(key, shape: tuple[int, ...], dtype=jnp.float32):
        values = _draw_uniform(key, _drawn(math.prod(shape)), low, high)
        return _scaled(values, np.float32(1), tuple(shape)).astype(dtype)

    return init


def _fan_in(scale, out_axis, batch_axis):
    def init(key, shape: tuple[int, ...], dtype=jnp.float32):
        fan_in = math.prod(shape) / math.prod(shape[i] for i in (out_axis, *batch_axis))
        std = np.sqrt(np.float32(scale / fan_in)) / np.float32(CUT_STD)
        return _scaled(_draw_cut(key, _drawn(math.prod(shape))), std, tuple(shape)).astype(dtype)

    return init


def _drawn(size: int) -> int:
    """The number of values that are drawn when `size` are needed.

    XLA compiles a program for every number. The first values of a longer draw are those of a shorter one, so a few numbers are enough.
    Where drawing takes longer than compiling, they are close: powers of 2, and 9/16 of them, the sizes of most kernels.
    """
    for small in (2**12, 2**16, 2**18):
        if size <= small:
            return small
    power = 2 ** math.ceil(math.log2(size))
    return power // 16 * 9 if size <= power // 16 * 9 else power


@partial(jax.jit, static_argnums=(1, 2, 3))
def _draw_uniform(key, size, low, high):
    return jax.random.uniform(key, (size,), jnp.float32, low, high)


@partial(jax.jit, static_argnums=1)
def _draw_normal(key, size):
    return jax.random.normal(key, (size,))


@partial(jax.jit, static_argnums=1)
def _draw_cut(key, size):
    return jax.random.truncated_normal(key, -2, 2, (size,))


@partial(jax.jit, static_argnums=2)
def _scaled(values, std, shape):
    return (values[: math.prod(shape)] * std).reshape(shape)
