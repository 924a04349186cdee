"""Training: the step, a pure function of state and batch, and the loop around it, in the order it runs."""

import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial

import jax
import optax

from ctxseg import (
    checkpoints,
    data,
    devices,
    evaluate,
    inference,
    interrupts,
    logs,
    losses,
    provenance,
    schedules,
    workdir,
)
from ctxseg.data import pipeline, superpixels, transforms
from ctxseg.errors import UserError
from ctxseg.models import create_model, memory
from ctxseg.models.context.msci import MSCI
from ctxseg.state import TrainState, create_state


def train_step(state: TrainState, batch: dict, *, model, optimizer, config, axis_name: str = devices.AXIS):
    """One update.

    Every sum (loss, gradient, batch statistics, memory) runs over all devices of `axis_name`, so the new state does not depend on
    how the batch is split over them.

    Args:
        state: the same on every device.
        batch: this device's part: `image` uint8 `[B,H,W,3]`, `label` uint8 `[B,H,W]`, and `regions` int32 `[B,H,W]` if there are.
        model: a segmenter made with the same `axis_name`.
        optimizer: an optax transformation.
        config: of the run; `loss`, `train.steps` and `model.frozen` are read.

    Returns:
        The new state, and float32 scalars: `loss` over all pixels, `gradient_norm`, and `state_norm` of what is new in the state,
        which is finite if all of it is.
    """
    rng = jax.random.fold_in(state.rng, state.step)

    def loss_fn(params):
        if config.model.frozen:
            frozen = schedules.frozen_mask(params, tuple(config.model.frozen))
            params = jax.tree.map(lambda x, stop: jax.lax.stop_gradient(x) if stop else x, params, frozen)
        variables = state.variables | {"params": params}
        output, updated = model.apply(
            variables,
            batch["image"],
            batch.get("regions"),
            train=True,
            rngs={"dropout": rng},
            mutable=["batch_stats"],
        )
        seen = _bank(state.memory)["seen"] if model.memory else None
        return losses.total(output, batch["label"], config.loss, seen, axis_name), (updated, output.pixels)

    (loss, (updated, pixels)), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    loss, gradients = jax.lax.psum((loss, gradients), axis_name)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    bank = state.memory
    if model.memory:
        rate = model.memory.rate(state.step, config.train.steps)
        fields = {"cosine": model.memory.cosine, "axis_name": axis_name}
        bank = {"memory": memory.update(_bank(bank), pixels, batch["label"], rate, **fields)}
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=updated.get("batch_stats", {}),
        memory=bank,
        opt_state=opt_state,
    )
    new = optax.global_norm((state.params, state.batch_stats, _floats(state.memory)))
    return state, {"loss": loss, "gradient_norm": optax.global_norm(gradients), "state_norm": new}


def _floats(tree):
    return [x for x in jax.tree.leaves(tree) if x.dtype.kind == "f"]


def _bank(collection):
    """The bank and what it has seen, in the collection `memory` of a segmenter whose memory is the module `memory`."""
    return collection["memory"]


def create_train_step(model, optimizer, config):
    """`train_step` compiled for every local device: (replicated state, sharded batch) → (state, metrics). The old state is donated."""
    step = partial(train_step, model=model, optimizer=optimizer, config=config)
    return devices.parallel(step, donate=(0,))


def fill_memory(model, state: TrainState, batches, count: int) -> TrainState:
    """`state` with the memory that `model.memory.first`, `random` or `clustering`, makes of the next `count` of `batches`.

    Representations are those that a training step would give: normalised by the statistics of their batch, for there are no running
    ones before the first step. (By the initial ones, mean 0 and variance 1, they come out some seven times as long on `scenes`.)
    """
    random = model.memory.first == "random"

    def step(state, index, batch):
        rng = jax.random.fold_in(state.rng, index)
        output, _ = model.apply(
            state.variables,
            batch["image"],
            batch.get("regions"),
            train=True,
            rngs={"dropout": rng},
            mutable=["batch_stats"],
        )
        given = output.pixels, batch["label"], model.num_classes
        new = memory.sample(*given, rng, devices.AXIS) if random else memory.cluster(*given, devices.AXIS)
        return index + 1, new

    step, replicas, index, found = devices.parallel(step), devices.replicate(state), devices.replicate(0), None
    for _ in range(count):
        index, new = step(replicas, index, devices.shard(next(batches)))
        new = devices.unreplicate(new)
        if found is None:
            found = new
        else:
            found = memory.higher(found, new) if random else jax.tree.map(jax.numpy.add, found, new)
    return state.replace(memory={"memory": memory.sampled(found) if random else memory.centres(found)})


# The least that these numbers may be, and where there is one the most: steps and seeds are counted in 32 bits.
LIMITS = {
    "train.steps": (1, 2**31 - 1),
    "train.log_every": (0, math.inf),
    "train.eval_every": (0, math.inf),
    "train.checkpoint_every": (0, math.inf),
    "train.keep": (1, math.inf),
    "data.threads": (0, 1000),
    "eval.samples": (0, math.inf),
    "eval.crf_images": (1, math.inf),
    "eval.max_pixels": (1, math.inf),
}


def check_numbers(config) -> None:
    """Raises UserError for a number of the config that no run can have, batch sizes among them."""
    for field, (least, most) in LIMITS.items():
        section, name = field.split(".")
        value = config[section][name]
        if not least <= value <= most:
            limit = f"at least {least}" if value < least else f"at most {most}"
            raise UserError(f"config.{field} is {value}, but must be {limit}")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed is {config.seed}, but must be 0 or more, and less than 2³²")
    if not 0 <= config.model.kernel_std < math.inf:
        raise UserError(f"config.model.kernel_std is {config.model.kernel_std}, but must be 0 or more")
    superpixels.check(config.data.superpixels)
    for section in ("context", "connections"):
        module = config.model[section]
        if module.name != "msci" or module.superpixels is False or module.region_shape == "grid":
            continue
        segments, most = config.data.superpixels, MSCI.regions if module.regions is None else module.regions
        if segments < 1:
            raise UserError(f"config.data.superpixels is {segments}, but msci needs some: 1000 for photographs")
        if segments > most:
            raise UserError(f"config.data.superpixels is {segments}, more than config.model.{section}.regions, {most}")
    devices.check_batch_size("train.batch_size", config.train.batch_size)
    devices.check_batch_size("eval.batch_size", config.eval.batch_size)


def check_fields(config, class_names: Sequence[str]) -> None:
    """Finds what is wrong with a config without data: UserError for a number or a name that no run can have."""
    check_numbers(config)
    create_augmentation(config.data, class_names)
    inference.create_protocol(config.eval, class_names)
    create_model(config.model, len(class_names))
    schedules.create_optimizer(config.optimizer, config.train.steps, tuple(config.model.frozen))


def check_network(config, class_names: Sequence[str]) -> None:
    """Makes the initial state in the abstract, which takes seconds. UserError for parts that do not fit together."""
    model = create_model(config.model, len(class_names))
    optimizer = schedules.create_optimizer(config.optimizer, config.train.steps, tuple(config.model.frozen))
    state = jax.eval_shape(
        lambda: create_state(model, optimizer, config.data.crop, config.seed, config.model.kernel_std)
    )
    if config.train.batch_size == 1:  # of which batch norm may have nothing to normalise by

        def forward(variables):
            shape, rngs = (1, *config.data.crop), {"dropout": jax.random.PRNGKey(0)}
            images, regions = jax.numpy.zeros((*shape, 3), "uint8"), jax.numpy.zeros(shape, "int32")
            return model.apply(variables, images, regions, train=True, rngs=rngs, mutable=["batch_stats"])

        jax.eval_shape(forward, state.variables)


def create_augmentation(config, class_names: Sequence[str] = ()) -> transforms.Augmentation:
    """The training augmentation that `config.data` describes, for these classes."""
    return transforms.Augmentation(
        crop=tuple(config.crop),
        flip=config.flip,
        mirrored_classes=transforms.mirrored_classes(class_names),
        scale_range=tuple(config.scale_range),
        rotate=config.rotate,
        brightness=config.brightness,
        contrast=config.contrast,
        saturation=config.saturation,
        hue=config.hue,
        padding=config.padding,
        base_size=tuple(config.base_size),
        rotate_share=config.rotate_share,
    )


def train(config, folder: str) -> dict:
    """`--mode=train`: trains the run in `folder` from its newest checkpoint on, evaluates it at the end and returns the scores.

    Raises:
        UserError: bad input, a loss that is not finite any more, or an interruption (SIGINT, SIGTERM). Nothing that was saved is lost.
    """
    start = time.time()
    check_numbers(config)
    primary = devices.process()[0] == 0  # the one of several hosts that writes
    if primary:
        workdir.check(folder, config)
    builder = data.load(config.data.name, config.data.data_dir, config.data.manual_dir)
    dataset = provenance.describe(builder, config.data.manual_dir)
    if primary:
        provenance.check(folder, dataset, "choose another --workdir")
    tested = evaluate.load_tested(config, dataset["class_names"])
    evaluate.tested_source(config, tested)  # which the end needs
    class_names = builder.info.metadata["class_names"]
    source = evaluate.split_source(builder, config.train.split, config.data.superpixels, "config.train.split")
    new_batches = partial(
        pipeline.train_iterator,
        source,
        create_augmentation(config.data, class_names),
        config.train.batch_size,
        config.seed,
        *devices.process(),
        config.data.threads,
    )
    if config.train.batch_size == 1:
        check_network(config, class_names)
    batches = new_batches()
    model = create_model(config.model, len(class_names), axis_name=devices.AXIS)
    optimizer = schedules.create_optimizer(config.optimizer, config.train.steps, tuple(config.model.frozen))
    print("train  compiling the initial state", file=sys.stderr, flush=True)
    state = create_state(model, optimizer, config.data.crop, config.seed, config.model.kernel_std)
    eval_step = evaluate.create_eval_step(model, inference.create_protocol(config.eval, class_names))
    if primary:  # not before: a config with a fault in it must not keep the folder from the one without
        workdir.claim(folder, config, dataset)

    with checkpoints.Checkpoints(os.path.join(folder, "checkpoints"), config.train.keep) as saved:
        first = 0
        if saved.latest_step() is not None:
            state, position = saved.restore(state)
            batches.set_state(position)
            first = int(state.step)
            word = "finished; evaluating" if first >= config.train.steps else f"continuing from step {first}"
            print(f"{folder}: {word}", flush=True)
        elif model.memory and model.memory.first != "mean":
            epoch = math.ceil(len(source) / config.train.batch_size)
            state = fill_memory(model, state, new_batches(), min(model.memory.clustering_batches, epoch))
        if primary and config.model.frozen and not first:
            names = ", ".join(config.model.frozen)
            print(
                f"{folder}: config.model.frozen: {names}: random for good, as no pretrained weights fill them",
                flush=True,
            )
        log = logs.MetricsLog(folder) if primary else None
        if log:
            log.truncate(first)
        evaluation = partial(evaluate.evaluate_split, config, tested, eval_step)
        state = _loop(
            config, folder, create_train_step(model, optimizer, config), evaluation, state, first, batches, saved, log
        )
    scores = evaluate.finish(config, folder, tested, evaluation, state, start)
    evaluated = log and any(e["kind"] == "eval" and e["step"] == config.train.steps for e in logs.read_metrics(folder))
    if log and not evaluated:  # the same command on a finished run evaluates again
        log.write(config.train.steps, "eval", scores)
    return scores


def _loop(config, folder, step, evaluation, state, first, batches, saved, log):
    """Updates `first` + 1 … `config.train.steps`. Returns the final state."""
    rate = schedules.learning_rate(config.optimizer, config.train.steps)
    state = devices.replicate(state)
    pending, good, last = [], first, time.time()
    with logs.Progress(config.train.steps, first, "train", compiles=True) as progress, _Interrupt() as interrupt:
        for i in range(first + 1, config.train.steps + 1):
            state, step_metrics = step(state, devices.shard(next(batches)))
            pending.append((i, step_metrics))
            interrupt.defer()
            final = i == config.train.steps
            stopping = interrupt.asked and not final
            evaluating = _every(config.train.eval_every, i) and not final
            saving = final or stopping or evaluating or _every(config.train.checkpoint_every, i)

            if saving or _every(config.train.log_every, i):
                loss = _mean_loss(pending, folder, good)
                speed = len(pending) * config.train.batch_size / (time.time() - last)
                if log:
                    log.write(
                        i, "train", {"loss": loss, "learning_rate": float(rate(i - 1)), "images_per_second": speed}
                    )
                progress.update(i, {"loss": loss, "images_per_second": speed})
                pending, last = [], time.time()
            scores = None
            if evaluating:
                scores = evaluation(state.variables).scores
                if log:
                    log.write(i, "eval", scores)
                last = time.time()
            if saving:
                saved.save(i, devices.unreplicate(state), batches.get_state(), scores)
                good = i
            if stopping:
                raise UserError(f"interrupted at step {i}, saved in {folder}: the same command continues from there")
    return devices.unreplicate(state)


def _every(period: int, step: int) -> bool:
    return period > 0 and step % period == 0


# What of a step has to be finite, by its name in `train_step`'s result.
WATCHED = {"loss": "loss", "gradient": "gradient_norm", "norm of the parameters": "state_norm"}


def _mean_loss(pending, folder, good) -> float:
    """Mean over the steps since the last look. UserError at the first that is not finite, before it reaches a checkpoint."""
    losses = []
    for i, step_metrics in pending:
        values = {name: float(devices.unreplicate(step_metrics[key])) for name, key in WATCHED.items()}
        loss = values["loss"]
        if wrong := [f"the {name} became {value}" for name, value in values.items() if not math.isfinite(value)]:
            what = wrong[0]
            kept = f"the checkpoint of step {good} in {folder} is kept" if good else "no checkpoint had been written"
            raise UserError(
                f"{what} at step {i}; {kept}: lower config.optimizer.learning_rate, or set clip_norm or warmup_steps, "
                "in another --workdir"
            )
        losses.append(loss)
    return sum(losses) / len(losses)


class _Interrupt:
    """Turns the first SIGINT or SIGTERM after `defer` into a request to save and stop after the step; the second acts as usual."""

    def __enter__(self):
        self.asked, self._before = False, {}
        return self

    def defer(self) -> None:
        """Called when the first step is compiled: until then there is nothing to save. Later calls do nothing."""
        if not self._before:
            interrupts.patient = True
            self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}

    def _ask(self, *_):
        self.asked = True
        self._restore()

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *_):
        self._restore()
        interrupts.patient = False
