"""A training step of several micro-batches: the loss, the gradient and the memory are those of the undivided batch."""

from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

from ctxseg import devices
from ctxseg.configs import defaults
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.models.detectors.outputs import DetectorOutput, SampledAnchors, SampledBoxes, SampledMasks
from ctxseg.training import detection_losses, optimizers
from ctxseg.training.step import create_train_step, fill_memory, train_step
from tests.drawn import drawn_state
from tests.models.detectors.example import LOSS

pytestmark = pytest.mark.usefixtures("plain_convolutions")
CLASSES, SIZE, PARTS = 3, 16, 3


@pytest.fixture(scope="module")
def batch():
    """Six images. One micro-batch on one device, and one of each device on two, have only ignored pixels. The others have some."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, (6, SIZE, SIZE), np.uint8)
    labels[2:4] = 255
    labels[0, 3:] = 255
    labels[4, :, 9:] = 255
    return {"image": rng.integers(0, 256, (6, SIZE, SIZE, 3), np.uint8), "label": labels}


@pytest.fixture(scope="module")
def created():
    """A network with all losses of a segmenter, in which images do not affect each other: running statistics, and no dropout."""
    config = defaults.get_config()
    config.model.backbone.width = 4
    config.model.frozen = ("*/norm",)  # batch normalisation then uses its running statistics in training too
    config.model.memory.update({"name": "mcibi", "channels": 4, "dropout": 0.0})
    config.model.auxiliary.update({"levels": ("res4",), "channels": 4, "dropout": 0.0})
    config.model.classifier.update({"hidden": 4, "dropout": 0.0})
    config.model.scales.update({"merge": "average", "scales": (1.0,)})  # adds a loss on resized labels
    model = create_model(config.model, CLASSES, axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(config.optimizer, 10, tuple(config.model.frozen))
    return config, model, optimizer, drawn_state(model, optimizer, (SIZE, SIZE))


def step(created, batch, parts, count=1):
    """The results of a step with `parts` micro-batches on each of `count` devices."""
    config, model, optimizer, state = created
    config.train.micro_batches = parts
    if count == 1:
        run = create_train_step(model, optimizer, config)
        return devices.unreplicate(run(devices.replicate(state), devices.shard(batch)))
    run = partial(train_step, model=model, optimizer=optimizer, config=config)
    shards = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    results = jax.jit(jax.vmap(run, (None, 0), axis_name=devices.AXIS))(state, shards)
    return jax.tree.map(lambda x: x[0], results)


@pytest.fixture(scope="module")
def undivided(created, batch):
    return step(created, batch, 1)


@pytest.mark.parametrize("count", [1, 2])
def test_micro_batches_give_the_update_of_the_whole_batch(created, batch, undivided, count):
    (expected, metrics), (state, new_metrics) = undivided, step(created, batch, PARTS, count)
    assert float(metrics["gradient_norm"]) > 0.1
    gradients, new_gradients = (optax.tree_utils.tree_get(s.opt_state, "trace") for s in (expected, state))
    old = created[-1].memory["memory"]["bank"]
    assert np.abs(expected.memory["memory"]["bank"] - old).max(1).min() > 0.01
    for name, actual, wanted in (
        ("metrics", new_metrics, metrics),
        ("gradients", new_gradients, gradients),
        ("params", state.params, expected.params),
        ("memory", state.memory, expected.memory),
    ):
        for (path, x), y in zip(jax.tree_util.tree_flatten_with_path(actual)[0], jax.tree.leaves(wanted), strict=True):
            message = name + jax.tree_util.keystr(path)
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 * np.abs(y).max(initial=0), err_msg=message)


@pytest.mark.parametrize("first", ["random", "clustering"])
def test_the_memory_is_filled_as_from_whole_batches(created, batch, first):
    config, model, _, state = created
    model = model.clone(segmenter=model.segmenter.clone(memory=model.memory.clone(first=first)))
    whole, divided = (fill_memory(model, state, iter([batch]), 1, parts).memory["memory"] for parts in (1, PARTS))
    np.testing.assert_array_equal(whole["seen"], divided["seen"])
    np.testing.assert_allclose(whole["bank"], divided["bank"], rtol=0, atol=1e-6 * np.abs(whole["bank"]).max())


def test_each_micro_batch_has_its_own_statistics_and_dropout(batch):
    """The running statistics are updated by one micro-batch after the other. Each has another key."""
    config = defaults.get_config()
    config.model.backbone.width = 4
    config.train.micro_batches = 2
    model = create_model(config.model, CLASSES, axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(config.optimizer, 10)
    state, keys = drawn_state(model, optimizer, (SIZE, SIZE)), []

    def loss(model, variables, batch, rng, *_):
        jax.debug.callback(lambda key: keys.append(tuple(key.tolist())), rng)
        output, updated = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        return output.logits.mean(), (updated, None)

    update = create_train_step(model, optimizer, config, loss)
    new, _ = devices.unreplicate(update(devices.replicate(state), devices.shard(batch)))
    jax.effects_barrier()
    assert len(set(keys)) == 2

    variables = {"params": state.params, "batch_stats": state.batch_stats}
    apply = partial(model.apply, train=True, mutable=["batch_stats"])
    apply = jax.jit(jax.vmap(apply, (None, 0), axis_name=devices.AXIS))
    for images in np.split(batch["image"], 2):
        variables |= jax.tree.map(lambda x: x[0], apply(variables, images[None])[1])
    for actual, expected in zip(
        jax.tree.leaves(new.batch_stats), jax.tree.leaves(variables["batch_stats"]), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_loss_of_a_detector_is_the_mean_over_micro_batches():
    rng = np.random.default_rng(0)
    deltas, masks = (rng.normal(size=size).astype(np.float32) for size in ((2, 5, 4), (2, 5, 6, 6)))
    yes = np.ones((2, 5), bool)
    output = DetectorOutput(
        SampledAnchors(deltas[..., 0], deltas, 0 * deltas, yes, yes),
        SampledBoxes(deltas[..., :3], deltas[:, :, None], yes.astype(np.int32), 0 * deltas, yes, yes),
        SampledMasks(masks[..., None], 0 * masks, 0 * yes, yes),
    )
    model = SimpleNamespace(apply=lambda *_, **__: (output, {}))
    part = dict.fromkeys(("image", "size", "boxes", "classes", "masks"), np.zeros(2))
    alone, of_three = (
        detection_losses.of_batch(model, {}, part, None, LOSS, whole=whole)[0]
        for whole in (None, {"image": np.zeros(6)})
    )
    assert alone > 0.1
    np.testing.assert_allclose(of_three, alone / 3, rtol=1e-6)


def test_a_number_of_micro_batches_that_does_not_divide_the_batch(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    devices.check_micro_batches(6, 24)
    with pytest.raises(
        UserError, match=r"config\.train\.micro_batches is 5, but each device has 12 of the 24 .*1, 2, 3, 4, 6 or 12$"
    ):
        devices.check_micro_batches(5, 24)
    with pytest.raises(
        UserError, match=r"config\.train\.micro_batches is 2, but each device has 1 of the 2 .* set it to 1$"
    ):
        devices.check_micro_batches(2, 2)
