"""Time, memory and operations of a compiled program."""

import statistics
import time

import jax
from jax.extend.core import Literal

from ctxseg.studies.operations import total_flops

GIBIBYTE = 2**30


def compile_program(function, *arguments):
    """The compiled program of a jitted function, and the seconds that XLA took to compile it."""
    lowered = function.lower(*arguments)
    start = time.perf_counter()
    program = lowered.compile()
    return program, time.perf_counter() - start


def median_seconds(run, tiny: bool) -> float:
    """The median time of `run()`, which must wait for its result, after two runs that are not timed."""
    for _ in range(2):
        run()
    times: list[float] = []
    while len(times) < 3 or (not tiny and sum(times) < 2 and len(times) < 100):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_memory(program) -> dict:
    """The peak memory of this process on the first device; if the device does not report it, the memory that XLA plans for the program."""
    reported = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in reported:
        return {"memory_bytes": reported["peak_bytes_in_use"], "memory_from": "device"}
    planned = program.memory_analysis()
    if planned is None:
        return {}
    return {
        "memory_bytes": planned.argument_size_in_bytes
        + planned.output_size_in_bytes
        + planned.temp_size_in_bytes
        - planned.alias_size_in_bytes,
        "memory_from": "XLA's plan",
    }


def memory_cell(figures: dict) -> str | None:
    """The text of what `peak_memory` has found, GiB."""
    if "memory_bytes" not in figures:
        return None
    return f"{figures['memory_bytes'] / GIBIBYTE:.2f}" + " (planned)" * (figures["memory_from"] != "device")


def count_operations(function, *arguments) -> int:
    """Floating-point operations of all matrix products and convolutions in `function(*arguments)`, on one device.

    XLA counts the operations of each, for the CPU, which JAX must have. The body of a scan counts as often as it is executed. In its
    analysis of a whole program, XLA counts it once, and does not count library calls on GPUs (see `ctxseg/studies/operations.py`).
    """
    return total_flops(_products(jax.make_jaxpr(function)(*arguments)))


def _products(jaxpr, times=1):
    """Yields (equation, number of executions) for the products and convolutions of `jaxpr` and of every jaxpr that it calls."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    needed = set(_variables(jaxpr.outvars))
    for equation in reversed(jaxpr.eqns):
        # XLA removes what nothing needs, such as the convolution that is traced with its gradient.
        if needed.isdisjoint(equation.outvars):
            continue
        needed.update(_variables(equation.invars))
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation, times
            continue
        called = [x for x in jax.tree.leaves(list(equation.params.values())) if hasattr(x, "eqns")]
        platforms = equation.params.get("branches_platforms") or ()
        if None in platforms:  # `lax.platform_dependent`: the default is the definition
            called = [called[platforms.index(None)]]
        length = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in called:
            yield from _products(inner, times * length)


def _variables(atoms):
    return [atom for atom in atoms if not isinstance(atom, Literal)]
