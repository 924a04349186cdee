"""The training step, a pure function of state and batch, and the initialisation of the memory before the first step.

With `config.train.micro_batches` above 1, a device divides its part of a batch into micro-batches and keeps the activations of only one of
them at a time. Of the whole part, it keeps only the pixels that MCIBI's memory reads.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Float, Shaped

from ctxseg import devices
from ctxseg.models.shapes import Array
from ctxseg.training import losses, optimizers
from ctxseg.training.state import TrainState


def train_step(
    state: TrainState,
    batch: dict[str, Shaped[Array, "b H W ..."]],
    *,
    model,
    optimizer,
    config,
    loss: Callable = losses.of_batch,
    axis_name: str = devices.AXIS,
) -> tuple[TrainState, dict[str, Float[Array, ""]]]:
    """One update.

    Every sum (loss, gradient, batch statistics, memory) runs over all devices of `axis_name`, so the new state does not depend on
    how the batch is split over them. Nor does it depend on the number of micro-batches, with these exceptions: each is normalised by its
    own batch statistics and updates the running ones, in order; it has its own key for dropout; and see `pixel_losses` and
    `detection_losses.of_batch`.

    Args:
        state: the same on every device.
        batch: this device's part, as `loss` reads it: for segmentation `image` uint8 `[B,H,W,3]`, `label` uint8 `[B,H,W]`, and with
            super-pixels `regions` int32 `[B,H,W]`.
        model: a network created with the same `axis_name`.
        optimizer: an optax transformation.
        config: the run's config; only `loss`, `train.steps`, `train.micro_batches`, `train.ema` and `model.frozen` are
            read.
        loss: the loss of the task, with the arguments and results of `losses.of_batch`.

    Returns:
        The new state and the metrics: `loss`, averaged over all pixels; `gradient_norm`; and `state_norm`, the norm of the new
        parameters, batch statistics and memory, which is not finite if any of their values is not.
    """
    rng = jax.random.fold_in(state.rng, state.step)

    def differentiate(batch_stats, batch, rng, whole=None):
        """(loss, gradient), batch statistics and the pixels that update the memory, of a batch or of a micro-batch of the `whole`."""

        def loss_fn(params):
            if config.model.frozen:
                frozen = optimizers.frozen_mask(params, tuple(config.model.frozen))
                params = jax.tree.map(lambda x, stop: lax.stop_gradient(x) if stop else x, params, frozen)
            variables = state.variables | {"params": params, "batch_stats": batch_stats}
            return loss(model, variables, batch, rng, config.loss, axis_name, whole)

        (value, (updated, pixels)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        return (value, gradients), updated.get("batch_stats", {}), pixels

    if config.train.micro_batches == 1:
        shares, batch_stats, pixels = differentiate(state.batch_stats, batch, rng)
    else:
        parts = _divided(batch, rng, config.train.micro_batches)
        shares, batch_stats, pixels = _accumulate(partial(differentiate, whole=batch), state, parts)
    value, gradients = lax.psum(shares, axis_name)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    memory = state.memory
    if pixels is not None:
        arguments = memory["memory"], pixels, batch["label"], state.step, config.train.steps, axis_name
        memory = {"memory": model.memory.updated(*arguments)}
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        memory=memory,
        opt_state=opt_state,
    )
    if state.averages:
        state = dataclasses.replace(state, averages=_averages(state, config.train.ema))
    state_norm = optax.global_norm((state.params, state.batch_stats, _floats(state.memory)))
    return state, {"loss": value, "gradient_norm": optax.global_norm(gradients), "state_norm": state_norm}


def _averages(state, decay):
    """The averages after an update: d·average + (1 − d)·value. d is `decay`, but at first, after update t, only t/(9 + t): else the initial
    values would count for long (TensorFlow's ExponentialMovingAverage)."""
    decay = jnp.minimum(decay, state.step / (9 + state.step))
    values = {"params": state.params, "batch_stats": state.batch_stats}
    return jax.tree.map(lambda average, x: average + (1 - decay) * (x - average), state.averages, values)


def _accumulate(differentiate, state, parts):
    """The results of `differentiate` for all micro-batches: losses and gradients are summed, and the pixels joined."""

    def add(carry, part):
        sums, batch_stats = carry
        new, batch_stats, pixels = differentiate(batch_stats, *part)
        return (jax.tree.map(jnp.add, sums, new), batch_stats), pixels

    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params)
    (sums, batch_stats), pixels = lax.scan(add, (zeros, state.batch_stats), parts)
    return sums, batch_stats, _joined(pixels)


def _divided(batch, rng, count):
    """`count` micro-batches, and a key for each: leaves `[B,…]` → `[count,B/count,…]`."""
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch), jax.random.split(rng, count)


def _joined(pixels):
    """The pixels of all micro-batches: `[count,B/count,…]` → `[B,…]`; None → None."""
    return jax.tree.map(lambda x: lax.collapse(x, 0, 2), pixels)


def _floats(tree):
    return [x for x in jax.tree.leaves(tree) if x.dtype.kind == "f"]


def create_train_step(model, optimizer, config, loss: Callable = losses.of_batch):
    """`train_step`, compiled for all local devices: (replicated state, sharded batch) → (state, metrics). The old state is donated."""
    step = partial(train_step, model=model, optimizer=optimizer, config=config, loss=loss)
    return devices.parallel(step, donate=(0,))


def fill_memory(model, state: TrainState, batches, count: int, micro_batches: int = 1) -> TrainState:
    """`state` with the initial memory, computed by `model.memory` from the next `count` of `batches`.

    The representations are those of a training step: they are normalised by the statistics of their batch, or micro-batch, since running
    statistics do not exist before the first step. (The initial ones, mean 0 and variance 1, would make them about seven times as long on
    `scenes`.)
    """

    def step(state, index, batch):
        rng = jax.random.fold_in(state.rng, index)

        def represent(batch, rng):
            output, _ = model.apply(
                state.variables,
                batch["image"],
                batch.get("regions"),
                train=True,
                rngs={"dropout": rng},
                mutable=["batch_stats"],
            )
            return output.pixels

        if micro_batches == 1:
            pixels = represent(batch, rng)
        else:
            pixels = _joined(lax.map(lambda arguments: represent(*arguments), _divided(batch, rng, micro_batches)))
        return index + 1, model.memory.gather(pixels, batch["label"], rng, devices.AXIS)

    step, replicas, index, gathered = devices.parallel(step), devices.replicate(state), devices.replicate(0), None
    for _ in range(count):
        index, new = step(replicas, index, devices.shard(next(batches)))
        new = devices.unreplicate(new)
        gathered = new if gathered is None else model.memory.join(gathered, new)
    return dataclasses.replace(state, memory={"memory": model.memory.filled(gathered)})
