"""`--mode=lr`: a learning-rate range test (Smith, WACV 2017, §3.3).

A network trains as its config says, while the learning rate grows by the same factor from step to step. At low rates the loss hardly
changes, then it falls, and at high rates it rises. Smith draws the accuracy over a rate that grows linearly. The loss over a rate that
grows exponentially is fastai's form of the test (Howard and Gugger, Information 2020, `lr_find`).

The suggestion is one of fastai's too: a tenth of the rate at which the smoothed loss is lowest, because at that rate itself the loss is
about to rise. The other usual choice, the rate of the steepest descent, depends much more on the noise of single steps.
"""

import io
import math
import os
from functools import partial
from typing import NamedTuple

import optax

from ctxseg import data, devices
from ctxseg.errors import UserError
from ctxseg.evaluation import splits
from ctxseg.files import make_folder, write_bytes, write_json
from ctxseg.models import create_model
from ctxseg.progress import Progress
from ctxseg.runs import pretrained
from ctxseg.tasks import task_of
from ctxseg.training import optimizers
from ctxseg.training.checks import check_fields, check_network
from ctxseg.training.prefetch import Prefetch
from ctxseg.training.state import create_state
from ctxseg.training.step import create_train_step, fill_memory
from ctxseg.views import curves

# The test ends when the smoothed loss is more than this factor above its minimum.
DIVERGED = 4.0
# A smoothed loss that ends above its minimum by this factor has risen.
RISEN = 1.1
# The suggestion is the rate of the lowest smoothed loss, divided by this.
BELOW_LOWEST = 10.0
# The loss is smoothed over this share of the steps.
SMOOTHED = 1 / 20


class RangeTest(NamedTuple):
    """The result of a range test of n steps.

    Attributes:
        rates: learning rate of each step.
        losses: loss of each step, before its update.
        smoothed: exponential moving average of the losses.
        diverged: whether the test ended because the loss diverged or was not finite.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    diverged: bool

    @property
    def lowest(self) -> int:
        """Index of the step with the lowest smoothed loss."""
        return min(range(len(self.smoothed)), key=self.smoothed.__getitem__)

    @property
    def suggestion(self) -> float | None:
        """The suggested rate; None if the loss never fell."""
        return self.rates[self.lowest] / BELOW_LOWEST if self.lowest else None


def schedule(fields) -> optax.Schedule:
    """Step → lowest · (highest / lowest)^(step / (steps − 1)), of `config.lr`."""
    return optax.exponential_decay(fields.lowest, fields.steps - 1, fields.highest / fields.lowest)


def range_test(fields, take_step) -> RangeTest:
    """Takes steps until the loss diverges, at most `steps`.

    Args:
        fields: `config.lr`.
        take_step: index of a step → its loss; it updates by the rate of `schedule`.

    Raises:
        UserError: the first loss is not finite.
    """
    ratio = fields.highest / fields.lowest
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    for i in range(fields.steps):
        loss = take_step(i)
        if not math.isfinite(loss):
            if not losses:
                raise UserError(f"the loss is {loss} before the first update: check the data, the loss and the weights")
            return RangeTest(rates, losses, smoothed, True)
        rates.append(fields.lowest * ratio ** (i / (fields.steps - 1)))
        losses.append(loss)
        smoothed = curves.running_mean(losses, fields.steps * SMOOTHED)
        if smoothed[-1] > DIVERGED * min(smoothed):
            return RangeTest(rates, losses, smoothed, True)
    return RangeTest(rates, losses, smoothed, False)


def find(config, folder: str) -> None:
    """Runs the test; writes `folder`/lr.json and `folder`/lr.png, and prints the suggested rate.

    The folder does not become the folder of a run: nothing else is written there. `config.optimizer.schedule`, `warmup_steps` and
    `head_steps` have no effect.

    Raises:
        UserError: invalid input, a folder that cannot be used, or a loss that never fell.
    """
    check_fields(config)
    fields = config.lr
    if fields.lowest >= fields.highest:
        raise UserError(
            f"config.lr.lowest is {fields.lowest:g}; expected less than config.lr.highest, {fields.highest:g}"
        )
    try:
        make_folder(folder)
    except OSError as e:
        raise UserError(f"--workdir={folder} cannot be used: {e.strerror}; choose another --workdir") from e
    with Progress(fields.steps, 0, "lr", compiles=True) as progress:
        result = _tested(config, progress)
    path = os.path.join(folder, "lr")
    picture = io.BytesIO()
    drawn = curves.range_test(result.rates, result.losses, result.smoothed, result.suggestion)
    drawn.savefig(picture, format="png", dpi=150, facecolor="white")
    configured = config.optimizer.learning_rate
    try:
        write_json(f"{path}.json", result._asdict() | {"suggestion": result.suggestion, "learning_rate": configured})
        write_bytes(f"{path}.png", picture.getvalue())
    except OSError as e:
        raise UserError(f"--workdir={folder} cannot be used: {e.strerror}; choose another --workdir") from e
    if result.suggestion is None:
        raise UserError(
            f"the loss rose from the first step on, see {path}.png: lower config.lr.lowest, which is {fields.lowest:g}"
        )
    print(f"{path}.png")
    for line in _lines(result, fields, configured):
        print(line)


def _lines(result, fields, configured):
    """The result in words; the last line has the suggestion."""
    first, lowest = result.smoothed[0], result.smoothed[result.lowest]
    yield f"the smoothed loss is {first:.4g} at first, and lowest at a rate of {result.rates[result.lowest]:.2g}: {lowest:.4g}"
    if result.diverged:
        yield f"it diverges at a rate of about {result.rates[-1]:.2g}"
    elif result.smoothed[-1] > RISEN * lowest:
        yield f"at the highest rate, {fields.highest:g}, it is {result.smoothed[-1]:.4g}"
    else:
        yield f"it does not rise up to the highest rate, {fields.highest:g}: raise config.lr.highest"
    if result.suggestion < fields.lowest:
        yield f"the suggested rate is below the lowest one that was tested, {fields.lowest:g}: lower config.lr.lowest to test it"
    yield (
        f"suggested: --config.optimizer.learning_rate={result.suggestion:.2g}, a tenth of the rate of the lowest loss; the config has "
        f"{configured:g}"
    )


def _tested(config, progress):
    """The test of the network, data, loss and optimiser of a config."""
    fields = config.lr
    config = pretrained.resolve(config).copy_and_resolve_references()
    config.optimizer.head_steps = 0
    builder = data.load(config.data.name, config.data.data_dir, config.data.manual_dir)
    task, class_names = task_of(config), builder.info.metadata["class_names"]
    source = task.training_source(config, builder, splits.load_mixture(config, builder))
    weighted = task.with_class_weights(config, builder)
    new_batches = partial(task.training_batches, config, source, class_names)
    if config.train.batch_size == config.train.micro_batches:
        check_network(config, class_names)
    model = create_model(config.model, len(class_names), axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(
        config.optimizer,
        config.train.steps,
        tuple(config.model.frozen),
        depths=optimizers.layers_after(model),
        schedule=schedule(fields),
    )
    state = create_state(model, optimizer, config.data.crop, config.seed, config.model.kernel_std)
    report = None
    if config.model.pretrained:
        state, report = pretrained.start(config, model, state, optimizer, class_names)
    if model.memory and model.memory.filling and not (report and report.has("memory")):
        filling = min(model.memory.filling, math.ceil(len(source) / config.train.batch_size))
        state = fill_memory(model, state, new_batches(), filling, config.train.micro_batches)
    step = create_train_step(model, optimizer, weighted, task.loss)
    state = devices.replicate(state)
    with Prefetch(new_batches(), fields.steps) as prefetch:

        def take_step(i):
            nonlocal state
            state, metrics = step(state, prefetch.next())
            loss = float(devices.unreplicate(metrics["loss"]))
            progress.update(i + 1, {"loss": loss})
            return loss

        return range_test(fields, take_step)
