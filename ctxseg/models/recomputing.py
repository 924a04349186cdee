"""Maps that the backward pass computes again, so that they need no memory between the passes (Chen et al. 2016): `config.model.remat`.

    none      all maps are kept
    blocks    of each block of the backbone, only the input is kept; a block of VGG-16 is the convolutions up to a pooling
    all       also of each later stage: connections, context, memory, classifier; a detector's neck

The results are the same but for rounding. On a CPU, XLA undoes this without `cpu.recompute`.
"""

from functools import partial
from typing import Literal, TypeAlias

import flax.linen as nn

Remat: TypeAlias = Literal["none", "blocks", "all"]


def block(module: nn.Module, cls):
    """`cls`, a block of the backbone `module` that is called with a map and `train`, recomputed if `module.remat` says so."""
    return nn.remat(cls, static_argnums=(2,)) if of_blocks(module) else cls


def of_blocks(module: nn.Module) -> bool:
    """Whether the blocks of the backbone `module` are recomputed."""
    return _applies(module, "blocks", "all")


def blocks(module: nn.Module, function):
    """`function(module, *arrays)`, a part of a backbone, recomputed if `module.remat` says so."""
    return nn.remat(function) if of_blocks(module) else function


def stage(module: nn.Module, function):
    """`function(module, *arrays)`, a stage after the backbone, recomputed if `module.remat` is `all`.

    Arguments and the result may be maps by name. They keep their order, which JAX would sort; names within a tuple are sorted.
    """
    if not _applies(module, "all"):
        return function
    order: list[str] | None = None  # of the result, if it is maps by name

    def on_values(names, module, *arrays):
        nonlocal order
        result = function(
            module, *(x if n is None else dict(zip(n, x, strict=True)) for n, x in zip(names, arrays, strict=True))
        )
        order = list(result) if isinstance(result, dict) else None
        return result if order is None else list(result.values())

    def recomputed(module, *arrays):
        names = [list(x) if isinstance(x, dict) else None for x in arrays]
        values = [list(x.values()) if isinstance(x, dict) else x for x in arrays]
        result = nn.remat(partial(on_values, names))(module, *values)
        return result if order is None else dict(zip(order, result, strict=True))

    return recomputed


def _applies(module, *values):
    return module.remat in values and not module.is_initializing()  # initial values need no backward pass
