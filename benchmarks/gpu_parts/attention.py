"""MCIBI's dataset-level context aggregation (DCA) against ASPP, on the map of the paper's Table 3."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ctxseg.configs import defaults
from ctxseg.models import create_model
from gpu_parts.measuring import compile_program, count_operations, median_seconds, memory_cell, peak_memory

TITLE = "DCA against ASPP"
NOTE = (
    "Forward, on [1,128,128,2048] with 512 channels. As in the paper (MCIBI, Table 3), DCA is without H1. The paper has 0.47 of ASPP's "
    "time."
)
FRESH = True
COLUMNS = ("context", "ms", "time of ASPP", "share of the ceiling", "peak memory, GiB")
DTYPES = ("bfloat16", "float32")
CLASSES = 150  # those of ADE20K; their number hardly changes the time


def entries():
    return [f"{context} {dtype}" for dtype in DTYPES for context in ("aspp", "dca")]


class DCA(nn.Module):
    """The memory, with the scores of the classes of each pixel (H1) as an input, in evaluation mode."""

    memory: nn.Module

    def __call__(self, x, scores):
        def replace_scores(call, arguments, keywords, context):
            return scores if context.module.name == self.memory.SCORES else call(*arguments, **keywords)

        with nn.intercept_methods(replace_scores):
            return self.memory(x, None, False)[0]


class ASPP(nn.Module):
    """The context, in evaluation mode."""

    context: nn.Module

    def __call__(self, x, scores):
        return self.context({"res5": x}, None, False)[0]


def measure(entry: str, tiny: bool, images: int) -> dict:
    context, dtype = entry.split()
    config = defaults.get_config()
    config.model.dtype = dtype
    config.model.backbone.name = "none"
    config.model.context.name = "aspp" if context == "aspp" else "none"
    config.model.memory.name = "none" if context == "aspp" else "mcibi"
    config.model.context.channels = config.model.memory.channels = 8 if tiny else 512
    segmenter = create_model(config.model, CLASSES)
    module = ASPP(segmenter.context) if context == "aspp" else DCA(segmenter.memory)
    rng, shape = np.random.default_rng(0), (1, 16, 16, 32) if tiny else (1, 128, 128, 2048)
    x = jnp.asarray(rng.standard_normal(shape, np.float32), dtype)
    scores = jnp.asarray(rng.standard_normal((*shape[:3], CLASSES), np.float32))
    variables = jax.jit(module.init)(jax.random.PRNGKey(0), x, scores)
    operations = count_operations(module.apply, variables, x, scores)
    program, compilation = compile_program(jax.jit(module.apply), variables, x, scores)
    seconds = median_seconds(lambda: program(variables, x, scores).block_until_ready(), tiny)
    figures = {"seconds": seconds, "operations": operations, "operations_per_second": operations / seconds}
    return figures | {"compile_seconds": compilation} | peak_memory(program)


def cells(entry: str, figures: dict, parts: dict) -> list:
    dtype = entry.split()[1]
    aspp = parts["attention"].get(f"aspp {dtype}", {}).get("seconds")
    ceiling = parts.get("ceilings", {}).get(dtype, {}).get("operations_per_second")
    return [
        f"{1e3 * figures['seconds']:.2f}",
        f"{figures['seconds'] / aspp:.2f}" if aspp else None,
        f"{figures['operations_per_second'] / ceiling:.1%}" if ceiling else None,
        memory_cell(figures),
    ]
