import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctxseg import processes
from ctxseg.configs import defaults, fcn
from ctxseg.errors import UserError
from ctxseg.models.context.zigzag import ZigZag
from ctxseg.runs import checkpoints, metrics_log, record
from ctxseg.runs.checkpoints import Checkpoints
from ctxseg.training import checks, optimizers
from ctxseg.training.state import TrainState


def random_state(step=0, channels=3, **optimizer):
    rng = np.random.default_rng(step)
    config = defaults.get_config().optimizer
    config.update(optimizer)
    params = {
        "backbone": {"conv": {"kernel": rng.normal(size=(2, channels)), "bias": rng.normal(size=channels)}},
        "classifier": {"kernel": rng.normal(size=(channels, 2))},
    }
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    opt_state = optimizers.create_optimizer(config, 10).init(params)
    return TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats={"backbone": {"mean": jnp.full(channels, step / 7)}},
        memory={},
        opt_state=jax.tree.map(lambda x: x + step, opt_state),
        rng=jax.random.PRNGKey(step),
    )


def assert_equal(state, expected):
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for value, wanted in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        assert value.dtype == wanted.dtype
        np.testing.assert_array_equal(value, wanted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoints of a run that has saved five. The second has the best score."""
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder, keep=2) as saved:
        assert saved.latest_step() is None
        for step, score in enumerate((0.2, 0.5, None, 0.3, None), 1):
            saved.save(step, random_state(step), {"next_index": step, "exhausted": False}, score)
    return folder


def test_round_trip_in_a_new_manager(folder):
    for step in (None, 2):
        with Checkpoints(folder) as saved:  # as in a new process: nothing saved by this manager
            assert saved.latest_step() == 5
            state, position = saved.restore(random_state(99), step)
        assert_equal(state, random_state(step or 5))
        assert position == {"next_index": step or 5, "exhausted": False}


def test_the_last_and_the_best_are_kept(folder):
    assert sorted(os.listdir(folder)) == ["2", "4", "5"]


def test_older_checkpoints_have_mean_iou_as_their_score(tmp_path):
    with Checkpoints(tmp_path, keep=2) as saved:
        for step, score in enumerate((0.3, 0.1), 1):
            saved.save(step, random_state(step), {}, score)
    metrics = tmp_path / "1" / "metrics" / "metrics"
    metrics.write_text(json.dumps({"mIoU": json.loads(metrics.read_text())["score"]}))
    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(3, random_state(3), {}, 0.2)
        assert saved.best_step() == 1
    assert sorted(os.listdir(tmp_path)) == ["1", "3"]


DIFFERENT = {
    "shape": (random_state(channels=4), r"model: params/backbone/conv/bias has shape \(3,\) .* and \(4,\) in this"),
    "missing": (
        random_state().replace(params={"backbone": random_state().params["backbone"]}),
        r"model: params/classifier/kernel has shape \(3, 2\) .* and none in this config",
    ),
    "more": (
        random_state().replace(params=random_state().params | {"memory": {"kernel": jnp.zeros(3)}}),
        r"model: params/memory/kernel has shape none .* and \(3,\) in this config",
    ),
    "statistics": (random_state().replace(batch_stats={}), "model: batch_stats/backbone/mean has shape .* and none in"),
    "memory": (random_state().replace(memory={"bank": jnp.zeros(3)}), "model: memory/bank has shape none "),
    "optimizer": (random_state(clip_norm=1.0), "optimiser: opt_state/1/trace/backbone/conv/bias has shape .* and none"),
}


@pytest.mark.parametrize("difference", DIFFERENT)
def test_the_message_names_the_difference_from_another_model_or_optimizer(folder, difference):
    state, message = DIFFERENT[difference]
    with Checkpoints(folder) as saved, pytest.raises(UserError) as error:
        saved.restore(state)
    assert str(error.value).startswith(f"{folder}/5 is a checkpoint of another ") and "\n" not in str(error.value)
    assert error.match(message)


def zigzag_state(stages, adam=False, seed=0):
    """A state of ZigZagNet on two levels, with random arrays."""
    module = ZigZag(channels=2, stages=stages, subdivisions=(2,), readout="up")
    features = {"res2": jnp.zeros((1, 4, 4, 3)), "res3": jnp.zeros((1, 2, 2, 3))}
    optimizer = optax.adam(0.1) if adam else optimizers.create_optimizer(defaults.get_config().optimizer, 10)

    def init():
        variables = {k: {"context": v} for k, v in module.init(jax.random.PRNGKey(0), features).items()}
        opt_state = optimizer.init(variables["params"])
        return TrainState(jnp.int32(0), **variables, memory={}, opt_state=opt_state, rng=jax.random.PRNGKey(0))

    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 9, x.shape), x.dtype), jax.eval_shape(init))


def scanned(state, stages):
    """The state in the format of older versions, where stages 2 … T−1 were one `nn.scan`: `stages` has their stacked arrays."""

    def stack(tree):
        if not isinstance(tree, dict) or not tree:
            return tree
        context = dict(tree["context"])
        middle = [context.pop(f"stage{t}") for t in range(2, stages)]
        return {"context": context | {"stages": jax.tree.map(lambda *x: np.stack(x), *middle)}}

    return jax.tree.map(stack, state, is_leaf=lambda x: isinstance(x, dict))


@pytest.mark.parametrize("stages, adam", [(3, False), (4, True)])
def test_older_checkpoints_of_zigzag_with_scanned_stages_are_restored(tmp_path, stages, adam):
    state = zigzag_state(stages, adam)
    old = scanned(state, stages)
    assert old.params["context"]["stages"]["fuse_up2"]["conv"]["kernel"].shape == (stages - 2, 3, 3, 2, 2)
    with Checkpoints(tmp_path, keep=2) as saved:
        saved.save(7, old, {"next_index": 7})
        saved.save(8, state, {"next_index": 8})
    with Checkpoints(tmp_path) as saved:
        for step in (7, 8):
            restored, position = saved.restore(zigzag_state(stages, adam, seed=1), step)
            assert_equal(restored, state)
            assert position == {"next_index": step}
        assert_equal(saved.restore(old, 7)[0], old)  # a context from outside the package may have such names


def without(tree, name):
    """A tree of dicts without one of its branches, `a/b/c`."""
    first, _, rest = name.partition("/")
    return {k: without(v, rest) if k == first else v for k, v in tree.items() if rest or k != first}


def test_the_message_names_the_difference_from_scanned_stages(tmp_path):
    three = zigzag_state(3)
    with Checkpoints(tmp_path) as saved:
        saved.save(1, scanned(three, 3), {})
    momentum = three.opt_state[1].trace
    reduced = without(momentum, "context/stage2/fuse_up1/conv")
    others = {
        "model: params/context/stage4/context_up1/.* has shape none .* and ": zigzag_state(4),
        r"model: params/context/stage2/fuse_up1/conv/kernel has shape \(3, 3, 2, 2\) .* and none in ": three.replace(
            params=without(three.params, "context/stage2/fuse_up1/conv")
        ),
        r"optimiser: opt_state/1/trace/context/stage2/fuse_up1/conv/kernel has shape \(3, 3, 2, 2\) .* and none ": three.replace(
            opt_state=(three.opt_state[0], three.opt_state[1]._replace(trace=reduced), *three.opt_state[2:])
        ),
    }
    for message, state in others.items():
        with Checkpoints(tmp_path) as saved, pytest.raises(UserError, match=message) as error:
            saved.restore(state)
        assert str(error.value).startswith(f"{tmp_path}/1 is a checkpoint of another ") and "\n" not in str(error.value)


def test_without_a_checkpoint(folder, tmp_path):
    with Checkpoints(tmp_path / "none") as saved:
        with pytest.raises(UserError, match="none .*no checkpoint.*--mode=train"):
            saved.restore(random_state())
    with Checkpoints(folder) as saved, pytest.raises(UserError, match="checkpoints .*step 3.*train"):
        saved.restore(random_state(), 3)


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_can_be_restored(tmp_path):
    with Checkpoints(tmp_path, keep=2) as saved:
        for step in (1, 2):
            saved.save(step, random_state(step), {"next_index": step})
    (tmp_path / "2" / "state" / "_METADATA").unlink()
    with Checkpoints(tmp_path) as saved, pytest.raises(UserError, match="/2 cannot be read.*delete"):
        saved.restore(random_state())
    os.rename(tmp_path / "2", tmp_path.parent / "damaged")
    with Checkpoints(tmp_path) as saved:
        assert_equal(saved.restore(random_state())[0], random_state(1))


def test_the_last_checkpoint_can_be_the_best(tmp_path):
    """It is saved before it is evaluated, so only metrics.jsonl has its score."""
    log = metrics_log.MetricsLog(tmp_path)
    with Checkpoints(str(tmp_path / "checkpoints")) as saved:
        assert checkpoints._best(tmp_path, saved) is None
        for step, score in ((1, 0.5), (2, None)):
            saved.save(step, random_state(step), {}, score)
        log.write(1, "eval", {"mIoU": 0.5})
        log.write(2, "train", {"loss": 1.0})
        assert checkpoints._best(tmp_path, saved) == 1
        log.write(2, "eval", {"mIoU": 0.75})
        log.write(3, "eval", {"mIoU": 0.9})  # has no checkpoint
        assert checkpoints._best(tmp_path, saved) == 2


@pytest.mark.parametrize("score, best", [("", 1), ("mean F1", 2), ("IoU of a", 3), ("IoU of b", 2)])
def test_the_best_by_another_score(tmp_path, score, best):
    log = metrics_log.MetricsLog(tmp_path)
    with Checkpoints(str(tmp_path / "checkpoints"), keep=3) as saved:
        for step, (miou, f1, a, b) in enumerate([(0.5, 0.1, 0.2, None), (0.4, 0.6, 0.1, 0.3), (0.3, 0.2, 0.9, 0.1)], 1):
            values = {"mIoU": miou, "mean_F1": f1, "per_class_iou": {"a": a, "b": b}}
            saved.save(step, random_state(step), {}, record.main_score(values, score) or 0.0)
            log.write(step, "eval", values)
        assert checkpoints._best(tmp_path, saved, score) == saved.best_step() == best


@pytest.mark.parametrize("score", ["F1", "mask AP", "iou of a"])
def test_an_unknown_score(score):
    config = fcn.get_config()
    config.train.best = score
    with pytest.raises(UserError, match="config.train.best is .*expected one of mIoU, .*mean F1, .*IoU of CLASS"):
        checks.check_fields(config)


def test_a_full_disk_is_reported_in_one_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device\n[…]")

    message = "^a checkpoint cannot be written to .*/checkpoints: .*disk is full.*the same command"
    with pytest.raises(UserError, match=message) as error:
        with Checkpoints(str(tmp_path / "checkpoints")) as saved:
            saved.save(1, random_state(1), {})
            monkeypatch.setattr(saved._manager, "save", fail)
            saved.save(2, random_state(2), {})
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=message), Checkpoints(str(tmp_path / "checkpoints")) as saved:
        assert saved.latest_step() == 1
        monkeypatch.setattr(saved._manager, "wait_until_finished", fail)


def test_processes_that_see_different_checkpoints_end(tmp_path, monkeypatch):
    """A network's file system may list a folder late; each process would restore another step."""
    monkeypatch.setattr(processes, "gather", lambda contents: [contents, b"5"])
    monkeypatch.setattr(processes, "_hosts", ["a", "b"])
    with Checkpoints(str(tmp_path)) as saved, pytest.raises(UserError, match="process 1 on b .* 5, process 0 has None"):
        saved.latest_step()
