"""The loss of segmentation: of the scores and of the auxiliary scores, each a sum of the losses in `pixel_losses.py`."""

import inspect
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Integer

from ctxseg.choices import find
from ctxseg.errors import UserError
from ctxseg.models.resizing import resize
from ctxseg.models.segmenter import SegmenterOutput
from ctxseg.models.shapes import Array
from ctxseg.training.pixel_losses import LOSSES


def parse(field: str, name: str) -> dict[str, float]:
    """Losses and their weights, of a field of `config.loss`: "cross_entropy+0.5*dice" → {"cross_entropy": 1.0, "dice": 0.5}.

    Raises:
        UserError: a weight that is no number above 0, a repeated loss, or an empty one.
    """
    terms: dict[str, float] = {}
    for term in name.split("+"):
        text, _, loss = term.rpartition("*")
        try:
            weight = float(text) if text else 1.0
        except ValueError:
            weight = math.nan
        loss = loss.strip()
        if not 0 < weight < math.inf or not loss or loss in terms:
            raise UserError(
                f"config.loss.{field} is {name!r}; expected losses, each once, with a weight above 0 if it is not 1, such as "
                "cross_entropy+0.5*dice"
            )
        terms[loss] = weight
    return terms


def find_losses(field: str, name: str) -> dict[str, tuple[Callable, float]]:
    """{name: (function, weight)} of the losses in a field of `config.loss`. UserError: as `parse`, or there is no loss of that name."""
    return {loss: (find(f"loss.{field}", loss, LOSSES), weight) for loss, weight in parse(field, name).items()}


def fields_of(function: Callable) -> list[str]:
    """The fields of `config.loss` that a loss reads: its arguments that can only be given by name."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def total(
    output: SegmenterOutput,
    labels: Integer[Array, "b H W"],
    config,
    axis_name: str | None = None,
    counted: Integer[Array, "_ H W"] | None = None,
) -> Float[Array, ""]:
    """The training loss: the losses `config.loss.name` of the scores, plus the weighted losses of the auxiliary scores.

    Each `AuxiliaryLogits` names the field of `config.loss` that weighs it, and its targets.

    Args:
        output: output of a segmenter.
        labels: as in `pixel_losses.cross_entropy`.
        config: `config.loss`.
        axis_name: as in `cross_entropy`.
        counted: as in `cross_entropy`.

    Returns:
        This device's share of the loss, as in `cross_entropy`.

    Raises:
        UserError: there is no loss of that name.
    """
    main = partial(_pixel_loss, config, config.name, axis_name)
    of_auxiliary = partial(_pixel_loss, config, config.auxiliary_name or config.name, axis_name)
    loss = main(output.logits, labels, counted)
    for auxiliary in output.aux.values():
        logits, weight = auxiliary.logits, config[auxiliary.weight]
        if not weight:
            continue
        if auxiliary.targets == "classes":
            devices = 1 if axis_name is None else jax.lax.psum(1, axis_name)
            parts = 1 if counted is None else len(counted) // len(labels)
            loss += weight * class_consistency(logits, auxiliary.counts) / (devices * parts)
        elif auxiliary.targets == "resized_labels":
            resized, all_resized = (
                None if x is None else resize(x[..., None], logits.shape[1:3], "nearest")[..., 0]
                for x in (labels, counted)
            )
            loss += weight * of_auxiliary(logits, resized, all_resized)
        else:
            loss += weight * of_auxiliary(logits, labels, counted)
    return loss


def _pixel_loss(config, name, axis_name, logits, labels, counted):
    """The sum of the losses in `name`, each times its weight, with the fields of `config` that it reads."""
    # A loss from outside the package need not have the argument, see `tasks.semantic.check`.
    optional = {} if counted is None else {"counted": counted}

    def of(function):
        own = {field: config[field] for field in fields_of(function) if field in config}
        return function(logits, labels, axis_name, **optional, **own)

    return sum(weight * of(function) for function, weight in find_losses("name", name).values())


def of_batch(
    model, variables, batch: dict, rng, config, axis_name: str | None = None, whole: dict | None = None
) -> tuple[Float[Array, ""], tuple]:
    """The loss of segmentation on a training batch, or the share of one of its micro-batches.

    Args:
        model: a segmenter.
        variables: its variables.
        batch: `image`, `label` and, with super-pixels, `regions`, of this device.
        rng: key of the dropout.
        config: `config.loss`.
        axis_name: as in `cross_entropy`.
        whole: this device's whole batch, if `batch` is a micro-batch of it; else None.

    Returns:
        This device's share of the loss, and the updated batch statistics and the pixels that update the memory (None without one).
    """
    output, updated = model.apply(
        variables,
        batch["image"],
        batch.get("regions"),
        train=True,
        rngs={"dropout": rng},
        mutable=["batch_stats"],
    )
    counted = None if whole is None else whole["label"]
    return total(output, batch["label"], config, axis_name, counted), (updated, output.pixels)


def class_consistency(logits: Float[Array, "k k"], counts: Bool[Array, " k"]) -> Float[Array, ""]:
    """The mean of CE(logits[k], k) over the classes k with `counts[k]` (MCIBI, eq. 17); 0 if there are none."""
    ce = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(logits.shape[0]))
    return jnp.where(counts, ce, 0).sum() / jnp.maximum(counts.sum(), 1)
