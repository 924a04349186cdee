"""The state of training."""

import dataclasses
import zlib
from typing import Any

import flax
import jax
import jax.numpy as jnp

from ctxseg.models import initial


@flax.struct.dataclass
class TrainState:
    """Everything that a training step changes; a checkpoint has this and the data position.

    Attributes:
        step: int32 scalar, number of updates done.
        params: float32 parameters.
        batch_stats: running means and variances.
        memory: the beyond-image memory, which gets no gradient; {} without one.
        opt_state: state of the optimiser.
        rng: the run's key; a step draws from `fold_in(rng, step)`.
        averages: exponential moving averages of `params` and `batch_stats`, under these names; {} without `config.train.ema`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    memory: Any
    opt_state: Any
    rng: jax.Array
    averages: Any = flax.struct.field(default_factory=dict)

    @property
    def variables(self) -> dict:
        """The variables for `model.apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats, "memory": self.memory}


def with_averages(state: TrainState) -> TrainState:
    """`state` with averages, which begin at its values."""
    values = {"params": state.params, "batch_stats": state.batch_stats}
    return dataclasses.replace(state, averages=jax.tree.map(jnp.copy, values))  # a step donates both


def averaged(state: TrainState) -> TrainState:
    """`state` with its averages in place of its parameters and batch statistics, and without averages beside them."""
    return dataclasses.replace(state, **state.averages, averages={})


def create_state(model, optimizer, crop: tuple[int, int], seed: int, kernel_std: float = 0.0) -> TrainState:
    """Initial state for images of `crop` (height, width); the same seed gives the same weights.

    With `kernel_std`, convolution kernels without pretrained weights (the backbone's `UNTRAINED` layers, if it names any, and all outside
    the backbone) are drawn from a normal distribution with this standard deviation (H-ReNet, §4.2: 0.1) instead of He's.
    """
    init_rng, rng = jax.random.split(jax.random.PRNGKey(seed))
    variables = initial.variables(model, init_rng, model.example(crop))
    if kernel_std:
        untrained = getattr(model.backbone, "UNTRAINED", ())
        variables = variables | {"params": _normal_kernels(variables["params"], init_rng, kernel_std, untrained)}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        memory=variables.get("memory", {}),
        opt_state=jax.jit(optimizer.init)(variables["params"]),  # jitted: one program, not one for every shape
        rng=rng,
    )


def _normal_kernels(params, rng, std, untrained):
    """`params` with new kernels `[k,k,·,·]` outside `backbone`, and in its layers `untrained`."""

    def draw(path, x):
        names = [entry.key for entry in path]
        pretrained = names[0] == "backbone" and names[1] not in untrained
        if pretrained or names[-1] != "kernel" or x.ndim != 4:
            return x
        key = jax.random.fold_in(rng, zlib.crc32("/".join(names).encode()))
        return initial.normal(std)(key, x.shape, x.dtype)

    return jax.tree_util.tree_map_with_path(draw, params)
