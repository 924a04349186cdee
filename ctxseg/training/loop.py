"""The training loop."""

import contextlib
import math
import os
import signal
import sys
import time
from functools import partial

import jax
from jax.experimental import multihost_utils

from ctxseg import data, devices, interrupts, processes
from ctxseg.errors import UserError
from ctxseg.evaluation import evaluate, splits
from ctxseg.models import create_model
from ctxseg.progress import Progress
from ctxseg.runs import checkpoints, loggers, metrics_log, pretrained, provenance, record, workdir
from ctxseg.tasks import task_of
from ctxseg.training import early_stopping, optimizers, schedules
from ctxseg.training.ahead import CompiledAhead
from ctxseg.training.checks import check_fields, check_network
from ctxseg.training.prefetch import Prefetch
from ctxseg.training.profile import Profile
from ctxseg.training.state import averaged, create_state, with_averages
from ctxseg.training.step import create_train_step, fill_memory


def train(config, folder: str, traced: int = 0) -> dict:
    """`--mode=train`: trains the run in `folder` from its newest checkpoint, evaluates it at the end and returns the scores.

    `traced`: the number of steps to trace, see `Profile`; more than 0 needs a folder on this machine.

    Raises:
        UserError: invalid input, a loss that is no longer finite, or an interruption (SIGINT, SIGTERM). Checkpoints are kept.
    """
    start = time.time()
    check_fields(config)
    config = pretrained.resolve(config, folder)
    first_process = processes.is_first()  # only this one writes, except for checkpoints
    if first_process:
        loggers.find_loggers(config.train.loggers)  # fails now rather than after the compilation
        workdir.check(folder, config)
    workdir.check_shared(folder)
    builder = data.load(config.data.name, config.data.data_dir, config.data.manual_dir)
    others = splits.load_mixture(config, builder)
    mixed = [other for _, other in others]
    dataset = provenance.describe(builder, config.data.manual_dir, mixed)
    for used in (builder, *mixed):
        provenance.check_everywhere(used)
    if first_process:
        provenance.check(folder, dataset, "choose another --workdir")
    tested = splits.load_tested(config, dataset["class_names"])
    task = task_of(config)
    task.check_evaluation(config, tested)  # fails now rather than after training
    class_names = builder.info.metadata["class_names"]
    source = task.training_source(config, builder, others)
    weighted = task.with_class_weights(config, builder)
    new_batches = partial(task.training_batches, config, source, class_names)
    if config.train.batch_size == config.train.micro_batches:
        check_network(config, class_names)
    batches = new_batches()
    model = create_model(config.model, len(class_names), axis_name=devices.AXIS)
    create_optimizer = partial(
        optimizers.create_optimizer,
        config.optimizer,
        config.train.steps,
        tuple(config.model.frozen),
        depths=optimizers.layers_after(model),
    )
    optimizer = create_optimizer()
    print("train  compiling the initial state", file=sys.stderr, flush=True)
    state = create_state(model, optimizer, config.data.crop, config.seed, config.model.kernel_std)
    report = None
    if config.model.pretrained and not checkpoints.exist(folder):
        state, report = pretrained.start(config, model, state, optimizer, class_names)
        print(f"{folder}: {report}", flush=True)
    if config.train.ema:
        state = with_averages(state)
    evaluation, programs = task.create_evaluation(config, tested, model)
    if first_process:  # only now: a config that failed above must not claim the folder
        workdir.claim(folder, config, dataset)
        if report:
            pretrained.write_report(folder, report)
    for line in splits.remarks(config, builder, others):
        print(f"{folder}: {line}", flush=True)
    if config.optimizer.head_steps:
        new = report.new_parameters if report else pretrained.new_parameters(folder)
        optimizer = create_optimizer(new=new)

    with contextlib.ExitStack() as stack:
        with checkpoints.Checkpoints(os.path.join(folder, "checkpoints"), config.train.keep) as saved:
            first = 0
            if saved.latest_step() is not None:
                state, position = saved.restore(state)
                batches.set_state(position)
                first = int(state.step)
            early = early_stopping.of_run(config, folder, first)
            if first:
                print(f"{folder}: {_status(config, first, early)}", flush=True)
            elif model.memory and model.memory.filling and not (report and report.has("memory")):
                epoch = math.ceil(len(source) / config.train.batch_size)
                filling = min(model.memory.filling, epoch)
                state = fill_memory(model, state, new_batches(), filling, config.train.micro_batches)
            log = None
            if first_process:
                log = stack.enter_context(contextlib.closing(metrics_log.MetricsLog(folder, config.train.loggers)))
                log.truncate(first)
            show = partial(_show, log, task, tested) if log and log.takes_images else None
            if not early.stops:
                step = create_train_step(model, optimizer, weighted, task.loss)
                state = _loop(
                    config, folder, step, evaluation, programs, state, first, batches, saved, log, traced, early, show
                )
                if early.stops:
                    print(f"{folder}: {_status(config, int(state.step), early)}", flush=True)
        last = int(state.step)
        # Training a finished run evaluates it again, and a run that stops early has just been evaluated.
        entries = metrics_log.read_metrics(folder) if log else []
        logged = any(e["kind"] == "eval" and e["step"] == last for e in entries)
        show_last = partial(show, last) if show and not logged else None
        scores = evaluate.finish(config, folder, tested, evaluation, _evaluated(config, state), start, show_last)
        if log and not logged:
            log.write(last, "eval", scores)
    return scores


def _show(log, task, tested, step, evaluated):
    """Logs pictures of an evaluation."""
    log.images(step, "eval", task.logged_pictures(evaluated, tested))


def _status(config, step, early):
    """What happens to a run after `step`, in words."""
    if step >= config.train.steps:
        return "finished; evaluating"
    if not early.stops:
        return f"continuing from step {step}"
    best, score = early.best
    name = config.train.best or task_of(config).SCORES[0]
    return (
        f"stopped early at step {step}: the best {name} is still the {score:.4f} of step {best}; --checkpoint=best reads the best "
        "checkpoint; evaluating"
    )


def _loop(config, folder, step, evaluation, programs, state, first, batches, saved, log, traced, early, show):
    """Runs the updates `first` + 1 … `config.train.steps`, or fewer if `early` stops them. Returns the final state.

    `show`: called with the step and the evaluation of the task; or None.
    """
    rate = schedules.learning_rate(config.optimizer, config.train.steps)
    state = devices.replicate(state)
    total = config.train.steps
    pending, computing, last_saved, last_time = [], None, first, time.time()
    with (
        Prefetch(batches, total - first) as prefetch,
        CompiledAhead(programs(devices.shapes(state.variables))) as ahead,
        Profile(folder, traced, first, total) as profile,
        Progress(total, first, "train", compiles=True) as progress,
        _Interrupt() as interrupt,
    ):
        for i in range(first + 1, total + 1):
            profile.before(i, computing)
            with jax.profiler.StepTraceAnnotation("train", step_num=i):
                state, step_metrics = step(state, prefetch.next(computing))
                ahead.start()
                # At most two steps are unfinished: more would keep more batches on the devices, and a signal would stop them later.
                jax.block_until_ready(computing)
            computing = step_metrics
            profile.after(i, computing)
            pending.append((i, step_metrics))
            interrupt.defer()
            final = i == total
            stopping = interrupt.stops_after(i) and not final
            evaluating = _every(config.train.eval_every, i) and not final
            saving = final or stopping or evaluating or _every(config.train.checkpoint_every, i)

            if saving or _every(config.train.log_every, i):
                loss = _mean_loss(pending, folder, last_saved)
                seconds = time.time() - last_time
                values = {
                    "loss": loss,
                    "learning_rate": float(rate(i - 1)),
                    "images_per_second": len(pending) * config.train.batch_size / seconds,
                    "waiting_for_data": prefetch.waited / seconds,
                }
                if log:
                    log.write(i, "train", values)
                progress.update(i, values)
                pending, prefetch.waited, last_time = [], 0.0, time.time()
            scores = None
            if evaluating:
                ahead.stop()
                scores = evaluate.scores_of(evaluation, _evaluated(config, state), show and partial(show, i))
                if log:
                    log.write(i, "eval", scores)
                last_time = time.time()
            if saving:
                score = None
                if scores is not None:
                    score = record.main_score(scores, config.train.best) or 0.0
                    early.add(i, score)
                saved.save(i, devices.for_checkpoint(state), prefetch.position, score)
                last_saved = i
            if stopping:
                saved.wait()
                processes.end_together()  # the first process to end would end the others before they have saved
                raise UserError(f"interrupted at step {i}, saved in {folder}: the same command continues the run")
            if early.stops:
                break
    return devices.unreplicate(state)


def _evaluated(config, state):
    """`state` with the parameters that `config.eval` asks for."""
    return averaged(state) if config.eval.averages else state


def _every(period: int, step: int) -> bool:
    return period > 0 and step % period == 0


# The values of a step that must be finite: name in messages → key in the result of `train_step`.
WATCHED = {"loss": "loss", "gradient": "gradient_norm", "norm of the parameters": "state_norm"}


def _mean_loss(pending, folder, last_saved) -> float:
    """Mean loss of the pending steps. UserError at the first value that is not finite, before it reaches a checkpoint."""
    losses = []
    for i, step_metrics in pending:
        values = {name: float(devices.unreplicate(step_metrics[key])) for name, key in WATCHED.items()}
        loss = values["loss"]
        if faults := [f"the {name} became {value}" for name, value in values.items() if not math.isfinite(value)]:
            saved = (
                f"the checkpoint of step {last_saved} in {folder} is kept"
                if last_saved
                else "no checkpoint was written"
            )
            raise UserError(
                f"{faults[0]} at step {i}; {saved}: lower config.optimizer.learning_rate, or set clip_norm or warmup_steps, "
                "in another --workdir"
            )
        losses.append(loss)
    return sum(losses) / len(losses)


class _Interrupt:
    """Turns the first SIGINT or SIGTERM after `defer` into a request to save and stop after the step; the second has its normal effect.

    In a run of several processes, jax.distributed handles SIGTERM from its start on: all processes stop after the same step.
    """

    def __enter__(self):
        self._requested, self._handlers = False, {}
        return self

    def stops_after(self, step: int) -> bool:
        """Whether to stop after `step`. Called after each step; the same in all processes."""
        return multihost_utils.reached_preemption_sync_point(step) if processes.several() else self._requested

    def defer(self) -> None:
        """Starts to defer signals, after the first step is compiled: before that, there is nothing to save. Later calls do nothing."""
        if not self._handlers:
            interrupts.patient = True
            numbers = (signal.SIGINT,) if processes.several() else (signal.SIGINT, signal.SIGTERM)
            self._handlers = {number: signal.signal(number, self._request) for number in numbers}

    def _request(self, *_):
        self._requested = True
        self._restore()
        if processes.several():
            os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def __exit__(self, *_):
        self._restore()
        interrupts.patient = False
