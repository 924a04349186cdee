"""The recurrence of a ReNet layer, in several forms: an LSTM that sweeps all columns of a map from both ends."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental import rnn
from jax.experimental.pallas import triton

from ctxseg.models.context.renet import ReNetLayer
from gpu_parts.measuring import compile_program, median_seconds, memory_cell, peak_memory

TITLE = "ReNet"
NOTE = (
    "plain: ctxseg's layer, which computes the product of inputs and weights before a scan of both directions. unroll: the same with "
    "several steps per iteration of the loop. in scan: a scan per direction, which computes this product in every step. cudnn: the LSTM of "
    "cuDNN. pallas: one kernel for the whole scan, without a gradient. Difference: the largest one from the plain form."
)
FRESH = True
COLUMNS = ("form", "forward, ms", "with gradients, ms", "difference", "peak memory, GiB")
DTYPES = ("bfloat16", "float32")

# {layer: (map [B,h,w,C], units of each direction)}: the first layers of H-ReNet, and of N-ReNet after its patches, in a training step.
LAYERS = {"hrenet": ((10, 50, 63, 2048), 120), "nrenet": ((10, 120, 160, 12), 64)}
TINY = {"hrenet": ((2, 5, 3, 7), 6), "nrenet": ((1, 4, 18, 3), 4)}


def entries():
    every = [f"{layer} {dtype} {form}" for layer in LAYERS for dtype in DTYPES for form in FORMS]
    return [entry for entry in every if not entry.endswith("bfloat16 cudnn")]  # which computes in float32


def plain(params, x, dtype):
    """`[B,h,w,C]` → `[B,h,w,2·d]`, with the parameters of a `ReNetLayer`. The other forms have the same arguments."""
    return ReNetLayer(params["bias"].shape[1] // 4, vertical=True, dtype=dtype).apply({"params": params}, x)


def unrolled(params, x, dtype, steps):
    projected, recurrent = _projected(params, x, dtype), params["recurrent_kernel"].astype(dtype)

    def step(state, x):
        h, c = _cell(x + jnp.einsum("znd,zdg->zng", state[0].astype(dtype), recurrent).astype(jnp.float32), state[1])
        return (h, c), h.astype(dtype)

    start = (jnp.zeros((*projected.shape[1:3], recurrent.shape[1]), jnp.float32),) * 2
    _, h = lax.scan(step, start, projected, unroll=steps)
    return _map(h, x)


def in_scan(params, x, dtype):
    kernel, recurrent = (params[name].astype(dtype) for name in ("input_kernel", "recurrent_kernel"))
    sequence = x.astype(dtype).swapaxes(0, 1).reshape(x.shape[1], -1, x.shape[3])

    def sweep(z, sequence):
        def step(state, x):
            gates = x @ kernel[z] + state[0].astype(dtype) @ recurrent[z]
            h, c = _cell(gates.astype(jnp.float32) + params["bias"][z], state[1])
            return (h, c), h.astype(dtype)

        start = (jnp.zeros((sequence.shape[1], recurrent.shape[1]), jnp.float32),) * 2
        return lax.scan(step, start, sequence)[1]

    return _map(jnp.stack([sweep(0, sequence), sweep(1, sequence[::-1])], 1), x)


def cudnn(params, x, dtype, lstm=rnn.lstm):
    """Computes in float32, whatever `dtype` is. Tests replace `lstm`, which needs a GPU."""
    b, length, w, inputs = x.shape
    units = params["recurrent_kernel"].shape[1]

    # Gates: input, forget, output, candidate → input, forget, candidate, output.
    def reordered(values):
        i, f, o, g = jnp.split(values, 4, -1)
        return jnp.concatenate([i, f, g, o], -1)

    # The weights of both directions precede their biases. cuDNN adds two biases.
    parts = [reordered(params[f"{name}_kernel"][z]).T for z in (0, 1) for name in ("input", "recurrent")]
    parts += [part for z in (0, 1) for part in (reordered(params["bias"][z]), jnp.zeros(4 * units))]
    weights = jnp.concatenate([part.ravel() for part in parts])
    lines = x.astype(jnp.float32).swapaxes(1, 2).reshape(b * w, length, inputs)
    start, lengths = jnp.zeros((2, b * w, units)), jnp.full(b * w, length, jnp.int32)
    y = lstm(lines, start, start, weights, lengths, inputs, units, 1, 0.0, True)[0]
    return y.reshape(b, w, length, 2 * units).swapaxes(1, 2)


def pallas(params, x, dtype, interpret=False):
    """Each program of the kernel sweeps `block` columns in one direction.

    Triton needs sizes that are powers of 2, and at least 16 in products. The state of the units that are added is 0.
    """
    projected, recurrent = _projected(params, x, dtype), params["recurrent_kernel"].astype(dtype)
    length, _, lines, _ = projected.shape
    units, block = recurrent.shape[1], 16
    padded = max(16, 1 << (units - 1).bit_length())

    def widened(values):  # [2,…,4·units] → [2,4,…,padded]
        values = jnp.moveaxis(values.reshape(*values.shape[:-1], 4, units), -2, 1)
        return jnp.pad(values, ((0, 0),) * (values.ndim - 1) + ((0, padded - units),))

    projected = jnp.pad(widened(projected.swapaxes(0, 1)), ((0, 0),) * 3 + ((0, -lines % block), (0, 0)))
    recurrent = jnp.pad(widened(recurrent), ((0, 0), (0, 0), (0, padded - units), (0, 0)))

    def kernel(x_ref, recurrent_ref, h_ref):
        def step(t, state):
            h, c = state
            product = partial(jnp.dot, h.astype(dtype), preferred_element_type=jnp.float32)
            i, f, o, g = (x_ref[gate, t].astype(jnp.float32) + product(recurrent_ref[gate]) for gate in range(4))
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            h_ref[t] = h.astype(dtype)
            return h, c

        lax.fori_loop(0, length, step, (jnp.zeros((block, padded), jnp.float32),) * 2)

    h = pl.pallas_call(
        kernel,
        jax.ShapeDtypeStruct((2, length, projected.shape[3], padded), dtype),
        grid=(2, projected.shape[3] // block),
        in_specs=[
            pl.BlockSpec((None, 4, length, block, padded), lambda z, n: (z, 0, 0, n, 0)),
            pl.BlockSpec((None, 4, padded, padded), lambda z, n: (z, 0, 0, 0)),
        ],
        out_specs=pl.BlockSpec((None, length, block, padded), lambda z, n: (z, 0, n, 0)),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
    )(projected, recurrent)
    return _map(h[:, :, :lines, :units].swapaxes(0, 1), x)


FORMS = {
    "plain": plain,
    "unroll 4": partial(unrolled, steps=4),
    "unroll 16": partial(unrolled, steps=16),
    "in scan": in_scan,
    "cudnn": cudnn,
    "pallas": pallas,
}


def _projected(params, x, dtype):
    """The products of inputs and weights, `[h,2,B·w,4·d]`. Those of the second direction begin with the last row."""
    sequence = x.astype(dtype).swapaxes(0, 1).reshape(x.shape[1], -1, x.shape[3])
    flat = params["input_kernel"].astype(dtype).transpose(1, 0, 2).reshape(x.shape[3], -1)
    projected = jnp.moveaxis((sequence @ flat).reshape(*sequence.shape[:2], 2, -1), 2, 1)
    projected = (projected + params["bias"][:, None]).astype(dtype)
    return jnp.stack([projected[:, 0], projected[::-1, 1]], 1)


def _cell(gates, c):
    i, f, o, g = jnp.split(gates, 4, -1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def _map(h, x):
    """States `[h,2,B·w,d]` as a map `[B,h,w,2·d]`."""
    b, length, w, _ = x.shape
    return jnp.concatenate([h[:, 0], h[::-1, 1]], -1).reshape(length, b, w, -1).swapaxes(0, 1)


def example(shape, units):
    """Random parameters and a random map of `shape`."""
    rng = np.random.default_rng(0)
    shapes = {
        "input_kernel": (2, shape[3], 4 * units),
        "recurrent_kernel": (2, units, 4 * units),
        "bias": (2, 4 * units),
    }
    params = {name: rng.uniform(-0.2, 0.2, s).astype(np.float32) for name, s in shapes.items()}
    params["input_kernel"] /= np.float32(shape[3] ** 0.5)  # so that the gates are not saturated
    return params, rng.standard_normal(shape, np.float32)


def measure(entry: str, tiny: bool, images: int) -> dict:
    layer, dtype, form = entry.split(maxsplit=2)
    platform = jax.default_backend()
    if form == "cudnn" and platform != "gpu":
        return {"skipped": "cuDNN's LSTM needs an NVIDIA GPU"}
    if form == "pallas" and platform == "tpu":
        return {"skipped": "the kernel is written for GPUs"}
    options = {"interpret": True} if form == "pallas" and platform == "cpu" else {}
    apply = partial(FORMS[form], dtype=jnp.dtype(dtype), **options)
    params, x = jax.device_put(example(*(TINY if tiny else LAYERS)[layer]))
    forward, compilation = compile_program(jax.jit(apply), params, x)
    figures = {
        "forward_seconds": median_seconds(lambda: forward(params, x).block_until_ready(), tiny),
        "compile_seconds": compilation,
    }
    program = forward
    if form != "pallas":
        gradient = jax.grad(lambda params, x: jnp.square(apply(params, x).astype(jnp.float32)).mean(), (0, 1))
        program, _ = compile_program(jax.jit(gradient), params, x)
        figures["both_seconds"] = median_seconds(lambda: jax.block_until_ready(program(params, x)), tiny)
    figures |= peak_memory(program)
    # Last, so that the plain form does not count as peak memory.
    expected = jax.jit(partial(plain, dtype=jnp.dtype(dtype)))(params, x)
    difference = jnp.abs(forward(params, x).astype(jnp.float32) - expected.astype(jnp.float32)).max()
    return figures | {"difference": float(difference)}


def cells(entry: str, figures: dict, parts: dict) -> list:
    both = figures.get("both_seconds")
    return [
        f"{1e3 * figures['forward_seconds']:.2f}",
        None if both is None else f"{1e3 * both:.2f}",
        f"{figures['difference']:.1e}",
        memory_cell(figures),
    ]
