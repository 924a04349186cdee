"""`--mode=complexity`: the costs of each context module on one map: parameters, operations, memory and time.

Operations are counted in a module's jaxpr, so they are the same on every device. Memory and time are measured on the present device.
"""

import os
import statistics
import time
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ctxseg import data
from ctxseg.errors import UserError
from ctxseg.files import make_folder, write_json
from ctxseg.models import CONTEXTS, create_model, find_module
from ctxseg.settings import declared
from ctxseg.studies.operations import count_flops, count_multiply_adds

# Jin et al., ICCV 2021 (MCIBI), Table 3: parameters (M), multiply-adds (G), on `PAPER_INPUT` with 512 channels. SPEC §6.
PAPER_INPUT, PAPER_CHANNELS = (1, 128, 128, 2048), 512
PAPER = {
    "ppm": (23.07, 309.45),
    "aspp": (42.21, 674.47),
    "ccnet": (23.92, 397.38),
    "danet": (23.92, 392.02),
    "dnl": (24.12, 395.25),
    "apcnet": (30.46, 413.12),
    "ann": (20.32, 335.24),
    "dca": (14.82, 242.80),
    "aspp + dca": (45.63, 730.56),
}


class Measured(nn.Module):
    """The module that a row measures: a context, the memory (MCIBI's dataset-level context aggregation, DCA), or both combined.

    The paper counts DCA without H1, which scores the classes of each pixel; its scores are therefore an input here.
    """

    context: nn.Module | None
    memory: nn.Module | None

    def __call__(self, features, regions, scores):
        """Runs the modules in evaluation mode.

        Args:
            features: {name: map `[B,h,w,·]`}.
            regions: super-pixels, int32 `[B,H,W]`.
            scores: float32 `[B,h,w,K]`, for the memory.

        Returns:
            The map of the modules, and {name: auxiliary logits}.
        """
        within, aux = (None, {}) if self.context is None else self.context(features, regions, False)
        if self.memory is None:
            return within, aux

        classes = getattr(self.memory, "SCORES", None)

        def replace_scores(call, arguments, keywords, context):
            return scores if context.module.name == classes else call(*arguments, **keywords)

        with nn.intercept_methods(replace_scores):
            return self.memory(list(features.values())[-1], within, False), aux


class Neck(nn.Module):
    """The module of a row of a neck: all levels of a context, for a detector."""

    context: nn.Module

    def __call__(self, features, regions, scores):
        """The maps of all levels, in evaluation mode. `regions` and `scores` are not used."""
        return self.context.pyramid(features, None, False)


def pyramid(shape, coarser=(1, 1)):
    """{name: shape} of the maps of a ResNet, finest first.

    Args:
        shape: `[B,h,w,C]`: positions of the map of stride 8, and channels of the last map.
        coarser: the strides of res4 and res5 divided by 8: (1, 1) for output stride 8, (2, 4) for 32.
    """
    b, h, w, channels = shape
    sizes = {"res2": (2 * h, 2 * w), "res3": (h, w)}
    sizes |= {name: (h // n, w // n) for name, n in zip(("res4", "res5"), coarser, strict=True)}
    parts = {"res2": 8, "res3": 4, "res4": 2, "res5": 1}
    return {name: (b, *(max(n, 1) for n in (*size, channels // parts[name]))) for name, size in sizes.items()}


def build(config, context: str = "none", memory: str = "none", projected: bool = False, neck: bool = False):
    """Builds the module and inputs of a row.

    Args:
        config: the whole config. The fields of `config.model.context` and `config.model.memory` apply to the modules that have
            them, except name, channels and levels.
        context: a key of `models.CONTEXTS`; `none` for no context.
        memory: a key of `models.MEMORIES`; `none` for no memory.
        projected: whether the input map already has `config.complexity.channels` channels.
        neck: whether all levels of the context are measured, on the maps of output stride 32.

    Returns:
        The module, a `Measured` or `Neck`, and its arguments as `jax.ShapeDtypeStruct`s.
    """
    channels, classes = config.complexity.channels, len(data.metadata(config.data)["class_names"])
    section = config.model.to_dict()
    section["backbone"]["name"], section["scales"]["merge"] = "none", "none"
    section["context"] |= {"name": context, "channels": channels, "levels": None}
    section["detector"]["name"] = "none"
    section["memory"] |= {"name": memory, "channels": channels}
    segmenter = create_model(section, classes)
    shape = (*config.complexity.input[:3], channels if projected else config.complexity.input[3])
    maps = pyramid(shape, (2, 4) if neck else (1, 1))
    inputs = (
        {name: jax.ShapeDtypeStruct(s, segmenter.dtype) for name, s in maps.items()},
        jax.ShapeDtypeStruct((shape[0], 8 * shape[1], 8 * shape[2]), jnp.int32),
        jax.ShapeDtypeStruct((*shape[:3], classes), jnp.float32),
    )
    if neck:
        return Neck(segmenter.context), inputs
    return Measured(None if context == "none" else segmenter.context, segmenter.memory), inputs


# {name: function of the config that returns a module and the shapes of its inputs}.
ROWS = {
    name: partial(build, context=name, projected=getattr(module, "KEEPS_CHANNELS", False))
    for name, module in CONTEXTS.items()
    if name != "none"
}
ROWS |= {
    f"{name}_neck": partial(build, context=name, neck=True)
    for name, module in CONTEXTS.items()
    if hasattr(module, "pyramid")
}
ROWS["dca"] = partial(build, memory="mcibi")
ROWS["aspp + dca"] = partial(build, context="aspp", memory="mcibi")


def row_of(name: str):
    """An entry of `ROWS`, or the row of a context from outside the package, `package.module:Class`. UserError: there is none."""
    if name in ROWS:
        return ROWS[name]
    if ":" not in name:
        raise UserError(
            f"config.complexity.contexts has {name!r}; expected any of {', '.join(ROWS)}, or package.module:Class"
        )
    module = find_module("complexity.contexts", name, CONTEXTS)
    return partial(build, context=name, projected=getattr(module, "KEEPS_CHANNELS", False))


def measure(module: nn.Module, inputs, repeats: int) -> dict:
    """The costs of `module.apply(variables, *inputs)`.

    Args:
        module: it gets random initial weights.
        inputs: a pytree of `jax.ShapeDtypeStruct`s; executed on random values, see `random_inputs`.
        repeats: number of timed executions, after one that is not timed; 0: nothing is compiled or executed.

    Returns:
        parameters: number of values in the collection `params`.
        multiply_adds: see `count_multiply_adds`.
        flops: see `count_flops`.
        memory_bytes: peak memory of the compiled program: arguments (parameters and inputs), results and XLA's temporary buffers.
            None without execution.
        milliseconds: median over the repeats, on the default device. None without execution.
    """
    key = jax.random.key(0)
    variables = jax.eval_shape(module.init, key, *inputs)
    row = {
        "parameters": sum(x.size for x in jax.tree.leaves(variables.get("params", {}))),
        "multiply_adds": count_multiply_adds(module.apply, variables, *inputs),
        "flops": count_flops(module.apply, variables, *inputs),
        "memory_bytes": None,
        "milliseconds": None,
    }
    if not repeats:
        return row
    program = jax.jit(module.apply).lower(variables, *inputs).compile()
    memory = program.memory_analysis()
    if memory is not None:  # some backends return none
        row["memory_bytes"] = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )
    arrays = random_inputs(inputs)
    variables = jax.jit(module.init)(key, *arrays)  # compiled, which removes the forward pass

    def seconds():
        start = time.perf_counter()
        jax.block_until_ready(program(variables, *arrays))
        return time.perf_counter() - start

    jax.block_until_ready(variables)
    seconds()
    row["milliseconds"] = 1000 * statistics.median(seconds() for _ in range(repeats))
    return row


def random_inputs(inputs):
    """Arrays with the shapes and dtypes of the pytree `inputs`: normally distributed values, or for integers, ids below 100."""
    rng = np.random.default_rng(0)

    def draw(x):
        ids = jnp.issubdtype(x.dtype, jnp.integer)
        return jnp.asarray(rng.integers(0, 100, x.shape) if ids else rng.standard_normal(x.shape, np.float32), x.dtype)

    return jax.tree.map(draw, inputs)


def check(config) -> tuple[str, ...]:
    """The names of the rows that `config.complexity` selects. UserError for an invalid field."""
    fields = config.complexity
    if len(fields.input) != 4 or min(fields.input) < 1:
        raise UserError(
            f"config.complexity.input is {tuple(fields.input)}; expected images, height, width and channels, each at least 1"
        )
    declared.check_section("complexity", fields)
    # On the command line, `a,b` is one string.
    names = [name.strip() for entry in fields.contexts for name in entry.split(",")]
    for name in names:
        row_of(name)
    return tuple(dict.fromkeys(names)) or tuple(ROWS)


def chosen(config) -> dict[str, set[str]]:
    """{section of the config: names of the modules that are measured}, see `reading.unread`."""
    rows = [row_of(name).keywords for name in check(config)]
    return {f"model.{part}": {row.get(part, "none") for row in rows} for part in ("context", "memory")}


def complexity(config, folder: str) -> None:
    """Measures every row that `config.complexity` selects, prints it at once, and writes `folder`/complexity.json.

    The folder does not become the folder of a run: nothing else is written there. With the input of the paper's Table 3, the paper's
    numbers are printed alongside.

    Raises:
        UserError: an invalid field, or a folder that cannot be used.
    """
    names = check(config)
    try:
        make_folder(folder)
    except OSError as e:
        raise UserError(f"--workdir={folder} cannot be used: {e.strerror}; choose another --workdir") from e
    shape, channels = tuple(config.complexity.input), config.complexity.channels
    paper = PAPER if (shape, channels) == (PAPER_INPUT, PAPER_CHANNELS) else {}
    device = jax.devices()[0]
    result = {
        "input": shape,
        "channels": channels,
        "dtype": config.model.dtype,
        "data": config.data.name,  # sets the number of classes
        "device": device.device_kind,
        "jax": jax.__version__,
        "repeats": config.complexity.repeats,
        "rows": [],
    }
    print(f"input {_shape(shape)}, {channels} channels, {config.model.dtype}, on {result['device']}")
    width = max(map(len, ("context", *names)))
    print(_line(width, COLUMNS, "context", bool(paper)))
    for name in names:
        module, inputs = row_of(name)(config)
        row = {"context": name, "input": list(inputs[0].values())[-1].shape} | measure(
            module, inputs, config.complexity.repeats
        )
        if name in paper:
            row["paper"] = dict(zip(("parameters_m", "multiply_adds_g"), paper[name], strict=True))
        result["rows"].append(row)
        print(_line(width, _cells(row), name, bool(paper)), flush=True)
    print()
    for note in _notes(result, bool(paper)):
        print(note)
    path = os.path.join(folder, "complexity.json")
    try:
        write_json(path, result)
    except OSError as e:
        raise UserError(f"--workdir={folder} cannot be used: {e.strerror}; choose another --workdir") from e
    print(path)


COLUMNS = ("parameters, M", "paper", "multiply-adds, G", "paper", "FLOPs, G", "memory, MiB", "ms")


def _line(width, cells, name, paper):
    """A line of the table, without the paper's columns unless `paper`."""
    columns = [(title, cell) for title, cell in zip(COLUMNS, cells, strict=True) if paper or title != "paper"]
    return "  ".join([name.ljust(width), *(cell.rjust(max(len(title), 8)) for title, cell in columns)])


def _cells(row):
    paper = row.get("paper", {})
    return [
        _number(row["parameters"], 1e6),
        _number(paper.get("parameters_m")),
        _number(row["multiply_adds"], 1e9),
        _number(paper.get("multiply_adds_g")),
        _number(row["flops"], 1e9),
        _number(row["memory_bytes"], 2**20),
        _number(row["milliseconds"]),
    ]


def _number(value, unit=1):
    """Two decimals, or two digits of a number less than one; – for None."""
    if value is None:
        return "–"
    value = value / unit
    return f"{value:.2f}" if value >= 1 or value == 0 else f"{value:#.2g}"


def _shape(shape):
    return f"[{','.join(map(str, shape))}]"


def _notes(result, paper):
    for row in result["rows"]:
        if row["input"] != result["input"] and not row["context"].endswith("_neck"):
            yield f"{row['context']} keeps the number of channels: its input is {_shape(row['input'])}"
    if several := [row["context"] for row in result["rows"] if getattr(CONTEXTS.get(row["context"]), "READS", 1) > 1]:
        yield f"these also read finer maps, those of a ResNet with output stride 8: {', '.join(several)}"
    if any(row["context"].endswith("_neck") for row in result["rows"]):
        yield "necks: all levels, from the maps of the same network with strides 4 to 32"
    yield "multiply-adds: only those of convolutions. FLOPs: all operations, as counted by XLA; a loop's body counts once per iteration"
    yield "memory: parameters, input, results and temporary buffers of the compiled forward pass. ms: the median of the repeats"
    if paper:
        yield "paper: Jin et al., ICCV 2021, Table 3; like this table, it counts dca without the classifier of each pixel (H1)"
