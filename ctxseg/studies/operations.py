"""Counts the operations of a function, from its jaxpr."""

import jax

from ctxseg.errors import UserError


def equations(jaxpr, times: int = 1):
    """Yields (equation, number of executions) for the equations of `jaxpr` and of every jaxpr that it calls.

    The body of a scan is executed as often as the scan is long. For `lax.platform_dependent` the default is counted: it is the
    definition, and the other branches are faster implementations.

    Raises:
        ValueError: a `while`, or a `cond` on data: the number of executions is not known.
    """
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        name, params = equation.primitive.name, equation.params
        if name == "scan":
            yield from equations(params["jaxpr"], times * params["length"])
        elif name == "cond" and None in (params.get("branches_platforms") or ()):
            yield from equations(params["branches"][params["branches_platforms"].index(None)], times)
        elif name in ("cond", "while"):
            raise ValueError(f"operations cannot be counted: the number of executions in a `{name}` depends on data")
        elif (called := _called(equation)) is not None:
            yield from equations(called, times)
        else:
            yield equation, times


def _called(equation):
    """The jaxpr that an equation calls (jit, custom_vjp, checkpoint), or None. Other jaxprs, as of a reduction, have other arguments."""
    for value in equation.params.values():
        if hasattr(value, "eqns"):
            shapes = [v.aval.shape for v in getattr(value, "jaxpr", value).invars]
            if shapes == [v.aval.shape for v in equation.invars]:
                return value
    return None


def count_multiply_adds(function, *args) -> int:
    """Multiply-adds of the convolutions in `function(*args)`, counted as in papers:

        output positions · k² · input channels of a group · output channels

    Taps on padding, and on zeros between the samples of a dilated input, are counted. Matrix products are not (the 1×1 convolutions
    of `models.layers` are defined as convolutions). Nothing is computed: `args` may be `jax.ShapeDtypeStruct`s.

    Raises:
        ValueError: see `equations`.
    """
    total = 0
    for equation, times in equations(jax.make_jaxpr(function)(*args)):
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            features = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            total += times * equation.outvars[0].aval.size * kernel.size // features
    return total


def count_flops(function, *args) -> int:
    """Floating-point operations in `function(*args)`: the sum over its equations of XLA's cost analysis.

    A multiply-add is two operations. Taps on padding, exponentials and tanh are not counted. The compiled program is not analysed as a
    whole, since XLA counts the body of a loop only once, and does not count library calls on GPUs
    (github.com/jax-ml/jax/issues/22249). `args` may be `jax.ShapeDtypeStruct`s.

    Raises:
        ValueError: see `equations`.
        UserError: JAX has no CPU.
    """
    return total_flops(equations(jax.make_jaxpr(function)(*args)))


def total_flops(executed) -> int:
    """The sum over pairs (equation, number of executions) of XLA's cost analysis. Equal equations are analysed once."""
    counts: dict[tuple, int] = {}
    total = 0
    for equation, times in executed:
        key = (equation.primitive.name, str(equation.params), *(str(v.aval) for v in equation.invars))
        if key not in counts:
            counts[key] = _flops(equation)
        total += times * counts[key]
    return total


def _flops(equation) -> int:
    """The operations of one equation."""

    def run(*args):
        return equation.primitive.bind(*args, **equation.params)

    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars]
    # For the CPU: for GPUs and TPUs, JAX has no cost analysis of a program that is not compiled.
    with jax.default_device(_cpu()):
        costs = jax.jit(run).lower(*shapes).cost_analysis()
    assert costs is not None, "the CPU has a cost analysis"
    return int(costs.get("flops", 0))


def _cpu():
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as e:
        raise UserError(
            f"JAX_PLATFORMS is {jax.config.jax_platforms}: operations are counted on the CPU, so add cpu to it, or leave it unset"
        ) from e
