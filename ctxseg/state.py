"""What a training step reads and returns."""

from typing import Any

import flax
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class TrainState:
    """Everything that a training step changes; a checkpoint is this and the data position.

    Attributes:
        step: int32 scalar, updates done.
        params: float32 parameters.
        batch_stats: running means and variances.
        memory: the beyond-image memory, state that no gradient reaches; {} without one.
        opt_state: the optimiser's.
        rng: the run's key; a step draws from `fold_in(rng, step)`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    memory: Any
    opt_state: Any
    rng: jax.Array

    @property
    def variables(self) -> dict:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats, "memory": self.memory}


def create_state(model, optimizer, crop: tuple[int, int], seed: int) -> TrainState:
    """Initial state for images of `crop` (height, width); the same seed gives the same weights."""
    init_rng, rng = jax.random.split(jax.random.PRNGKey(seed))
    images, regions = jnp.zeros((1, *crop, 3), jnp.uint8), jnp.zeros((1, *crop), jnp.int32)
    variables = jax.jit(lambda r: model.init(r, images, regions))(init_rng)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        memory=variables.get("memory", {}),
        opt_state=optimizer.init(variables["params"]),
        rng=rng,
    )
