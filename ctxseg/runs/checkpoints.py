"""Checkpoints of the train state and the data position, by Orbax: asynchronous and atomic; the last n and the best are kept."""

import contextlib
import os
from functools import partial

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from ctxseg import devices, files, processes
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.runs import metrics_log, old_names, provenance, record, workdir
from ctxseg.training import optimizers
from ctxseg.training.state import averaged, create_state, with_averages

DAMAGED = "cannot be read; if it is damaged, delete it to continue from the previous checkpoint"


class Checkpoints:
    """The checkpoints of one run, in one directory.

    A context manager: leaving it waits for the save in progress. An interrupted save never looks like a complete checkpoint.

    Args:
        directory: created when the first checkpoint is saved.
        keep: number of latest checkpoints to keep, besides the one with the best score.
    """

    def __init__(self, directory: str, keep: int = 1):
        policies = [
            checkpoint_managers.LatestN(max(keep, 1)),
            checkpoint_managers.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
        ]
        try:
            self._manager = ocp.CheckpointManager(
                directory if files.is_remote(directory) else os.path.abspath(directory),
                item_handlers={"state": ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()},
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                    best_fn=_score,
                    enable_async_checkpointing=True,
                ),
            )
        except ValueError as e:  # Orbax reads the metrics of every checkpoint
            raise UserError(f"{_damaged(directory)} {DAMAGED}") from e

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._saving(), contextlib.ExitStack() as stack:
            stack.callback(self._manager.close)
            self._manager.wait_until_finished()

    def wait(self) -> None:
        """Waits for the save in progress. UserError: as `save`."""
        with self._saving():
            self._manager.wait_until_finished()

    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, or None. UserError if the processes of the run see different ones.

        All processes call this equally often.
        """
        step = self._manager.latest_step()
        remedy = "the file system shows old files; run the same command again in a minute"
        processes.check_equal(f"in {self._manager.directory}, as its newest checkpoint,", str(step), remedy)
        return step

    def all_steps(self) -> list[int]:
        """Steps of all complete checkpoints."""
        return list(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best score, or None if none was evaluated."""
        return self._manager.best_step()

    def save(self, step: int, state, data: dict, score: float | None = None) -> None:
        """Starts saving `state` (a pytree of arrays) and the data position `data` (JSON) after `step` updates.

        A checkpoint competes for the best only if it has a `score`.

        Raises:
            UserError: this checkpoint or the previous one cannot be written, for instance because the disk is full.
        """
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        with self._saving():
            self._manager.save(step, args=args, metrics=None if score is None else {"score": float(score)}, force=True)

    @contextlib.contextmanager
    def _saving(self):
        """Turns the exceptions of Orbax and TensorStore into a UserError."""
        try:
            yield
        except Exception as e:
            full = any(word in str(e) for word in ("RESOURCE_EXHAUSTED", "No space left", "Disk quota exceeded"))
            reason = "the disk is full" if full else " ".join(str(e).split())[:200] or type(e).__name__
            raise UserError(
                f"a checkpoint cannot be written to {self._manager.directory}: {reason}; once that is fixed, the same command "
                "continues from the previous checkpoint"
            ) from e

    def restore(self, state, step: int | None = None):
        """The state and data position of `step` (default: the newest). Older parameter names are translated, see `old_names`.

        Args:
            state: a state of the same structure, shapes and dtypes; its values are not used.

        Raises:
            UserError: the checkpoint does not exist, belongs to another model or optimiser, or is damaged.
        """
        step = self.latest_step() if step is None else step
        if step not in self._manager.all_steps():
            of_step = "" if step is None else f" of step {step}"
            raise UserError(f"{self._manager.directory} has no checkpoint{of_step}: train first (--mode=train)")
        path = self._manager.directory / str(step)
        try:
            tree = getattr(self._manager.item_metadata(step)["state"], "tree", None)
            saved, expected = _arrays(tree), _arrays(state)
            if not saved:
                raise UserError(f"{path} {DAMAGED}")
            translate = partial(old_names.current, current_names=expected)
            translated = jax.eval_shape(
                translate, {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in saved.items()}
            )
            _check_same(translated, expected, path)
            renamed = saved.keys() != expected.keys()
            target = jax.tree.map(_target, state)
            if renamed:  # Orbax needs the names in the checkpoint
                zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
                target = jax.tree.map(_target, zeros)
            args = ocp.args.Composite(state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore())
            restored = self._manager.restore(step, args=args)
            restored_state = restored["state"]
            if processes.several():
                restored_state = jax.tree.map(lambda x: x.addressable_data(0), restored_state)
            if renamed:
                arrays = translate(_arrays(restored_state))
                restored_state = jax.tree_util.tree_map_with_path(
                    lambda keys, x: arrays[_name(keys)].astype(x.dtype), state
                )
        except UserError:
            raise
        except Exception as e:  # Orbax and TensorStore raise many types on damaged files
            raise UserError(f"{path} {DAMAGED}") from e
        return restored_state, restored["data"]


def _target(x):
    """What Orbax restores for an array: on this device, or if there are other processes, on the devices of all."""
    if processes.several():
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=devices.everywhere())
    return ocp.utils.to_shape_dtype_struct(x)


def _score(metrics):
    return metrics["score"] if "score" in metrics else metrics["mIoU"]  # the name in older checkpoints


def _damaged(directory):
    """The first checkpoint whose metrics are not valid JSON, or `directory` if there is none."""
    for step in sorted(epath.Path(directory).iterdir()):
        try:
            files.parse_json(files.read_bytes(step / "metrics" / "metrics"))
        except OSError:  # saved without metrics
            continue
        except ValueError:
            return step
    return directory


def exist(folder: str) -> bool:
    """Whether the run in `folder` has a complete checkpoint."""
    return newest(folder) is not None


def newest(folder: str) -> int | None:
    """The step of the newest checkpoint of the run in `folder`; None if there is none."""
    path = epath.Path(folder) / "checkpoints"
    steps = [int(p.name) for p in path.iterdir() if p.name.isdigit()] if path.is_dir() else []
    return max(steps, default=None)


def restore_run(config, folder: str, checkpoint: int | str | None = None):
    """The segmenter of the run in `folder`, and its train state, on one device.

    Args:
        config: of the run.
        folder: of the run.
        checkpoint: a step; `best`, the one with the highest score during training; None, the newest.

    Returns:
        The model, without a device axis, and the `TrainState`; with `config.eval.averages`, its averages are its parameters.

    Raises:
        UserError: the checkpoint does not exist, or belongs to another model.
    """
    if workdir.exists(folder):
        config = workdir.with_pixels(config, workdir.pixels_of(workdir.read_config(folder)))
    model = create_model(config.model, len(provenance.metadata(config, folder)["class_names"]))
    optimizer = optimizers.create_optimizer(
        config.optimizer, config.train.steps, tuple(config.model.frozen), depths=optimizers.layers_after(model)
    )
    if not epath.Path(folder, "checkpoints").is_dir():  # Orbax would create it
        raise UserError(f"{os.path.join(folder, 'checkpoints')} has no checkpoint: train first (--mode=train)")
    # Restoring needs only shapes, so no initial weights are computed.
    create = partial(create_state, model, optimizer, config.data.crop, config.seed)
    shapes = jax.eval_shape(lambda: with_averages(create()) if config.train.ema else create())
    with Checkpoints(os.path.join(folder, "checkpoints")) as saved:
        if checkpoint == "best":
            checkpoint = _best(folder, saved, config.train.best)
            if checkpoint is None:
                raise UserError(f"{folder} has no best checkpoint: no checkpoint was evaluated")
        state, _ = saved.restore(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), checkpoint)
    return model, averaged(state) if config.eval.averages else state


def _best(folder, saved, score=""):
    """Step of the best checkpoint by a score in metrics.jsonl, as the last checkpoint is evaluated only after it is saved.

    `score`: see `record.main_score`.
    """
    steps = saved.all_steps()
    entries = [e for e in metrics_log.read_metrics(folder) if e["kind"] == "eval" and e["step"] in steps]
    scores = {entry["step"]: record.main_score(entry, score) or 0.0 for entry in entries}
    if scores:
        return max(scores, key=lambda step: scores[step])
    best = saved.best_step()
    if best is not None:
        return best
    # Neither the log nor the checkpoints have the scores of --mode=evaluate.
    step = record.read(folder).get("step")
    return step if step in steps else None


def _arrays(tree):
    """{name: array} of a state, or of Orbax's metadata of a saved one."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(keys): leaf for keys, leaf in leaves if hasattr(leaf, "shape")}


def _name(keys):
    return "/".join(_key(k) for k in keys)


def _key(entry):
    return str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))


def _check_same(saved, expected, path):
    """Raises UserError for the first array whose shape differs; parameters come first."""
    for name in sorted(saved.keys() | expected.keys(), key=lambda name: (not name.startswith("params/"), name)):
        saved_shape, shape = (arrays[name].shape if name in arrays else "none" for arrays in (saved, expected))
        if saved_shape != shape:
            what = "optimiser" if name.startswith("opt_state/") else "model"
            raise UserError(
                f"{path} is a checkpoint of another {what}: {name} has shape {saved_shape} in it and {shape} in this config; "
                "use the config it was trained with, or another --workdir"
            )
