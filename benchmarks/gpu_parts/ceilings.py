"""Upper limits of the device: the speed of a matrix product and of a copy."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gpu_parts.measuring import compile_program, median_seconds

TITLE = "Ceilings"
NOTE = (
    "A product of two square matrices of 8192 rows; and an array of 1 GiB to which 1 is added, counting what is read and written. By "
    "default, GPUs (TF32) and TPUs round the factors of float32 products; `highest` does not."
)
FRESH = False
COLUMNS = ("operation", "TFLOP/s", "GB/s")
PRODUCTS = {
    "bfloat16": ("bfloat16", "default"),
    "float32": ("float32", "default"),
    "float32 highest": ("float32", "highest"),
}
REPEATED = 10  # executions within a program, so that the time of its start does not matter


def entries():
    return [*PRODUCTS, "copy"]


def measure(entry: str, tiny: bool, images: int) -> dict:
    if entry == "copy":
        size = 2**20 if tiny else 2**30
        values = [jnp.zeros(size // 4, jnp.float32)]
        # Donated: the loop would copy its input once more.
        increase = jax.jit(lambda x: lax.fori_loop(0, REPEATED, lambda _, x: x + 1, x), donate_argnums=0)
        program, _ = compile_program(increase, *values)

        def run():
            values[0] = program(values[0])
            values[0].block_until_ready()

        return {"gigabytes_per_second": REPEATED * 2 * size / median_seconds(run, tiny) / 1e9}
    dtype, precision = PRODUCTS[entry]
    n = 128 if tiny else 8192
    # Random values whose variance the products keep. Zeros need less power, and run faster.
    x, w = (np.random.default_rng(seed).standard_normal((n, n), np.float32) for seed in (0, 1))
    x, w = jnp.asarray(x, dtype), jnp.asarray(w / np.sqrt(np.float32(n)), dtype)

    def multiply(x, w):
        for _ in range(REPEATED):  # a loop of XLA's would copy each product
            x = jnp.matmul(x, w, precision=precision)
        return x

    program, _ = compile_program(jax.jit(multiply), x, w)
    seconds = median_seconds(lambda: program(x, w).block_until_ready(), tiny)
    return {"operations_per_second": REPEATED * 2 * n**3 / seconds}


def cells(entry: str, figures: dict, parts: dict) -> list:
    tera, giga = figures.get("operations_per_second"), figures.get("gigabytes_per_second")
    return [None if tera is None else f"{tera / 1e12:.1f}", None if giga is None else f"{giga:.0f}"]
