"""Three training steps against PyTorch in float64."""

import jax
import numpy as np
import optax

from ctxseg import devices
from ctxseg.configs import defaults
from ctxseg.models import create_model
from ctxseg.training import optimizers
from ctxseg.training.state import create_state
from ctxseg.training.step import create_train_step
from tests.references import mcibi_torch as reference


def name_of(path):
    return "/".join(entry.key for entry in path)


def test_three_steps_of_mcibi_match_pytorch():
    """The error of float32 is at most 1e-4 of the parameters' change. It is 1.4e-5; with a variance computed as E[x²] − mean², 4e-4.

    The step is traced, and so compiled, only once.
    """
    config = defaults.get_config()
    config.model.backbone.width = reference.WIDTH
    config.model.memory.update({"name": "mcibi", "channels": reference.CHANNELS, "first": "mean", "dropout": 0.0})
    config.model.classifier.hidden = reference.CHANNELS
    config.train.steps = reference.STEPS
    config.optimizer.update(
        learning_rate=reference.LEARNING_RATE, momentum=reference.MOMENTUM, weight_decay=reference.WEIGHT_DECAY
    )
    model = create_model(config.model, reference.CLASSES, axis_name=devices.AXIS)
    optimizer = optimizers.create_optimizer(config.optimizer, config.train.steps)
    images, _ = next(reference.batches())
    state = create_state(model, optimizer, images.shape[1:3], seed=0)
    params = jax.tree_util.tree_map_with_path(lambda path, x: reference.initial(name_of(path), x.shape), state.params)
    state = devices.replicate(state.replace(params=params))
    traced = []

    def update(*arguments):
        traced.append(arguments)
        return optimizer.update(*arguments)

    step = create_train_step(model, optax.GradientTransformation(optimizer.init, update), config)
    for image, label in reference.batches():
        state, _ = step(state, devices.shard({"image": image, "label": label}))
    assert len(traced) == 1

    recorded = np.load(reference.FILE)
    actual = {name_of(p): x for p, x in jax.tree_util.tree_leaves_with_path(devices.unreplicate(state.params))}
    assert set(actual) == set(recorded)
    error = sum(np.square(actual[name] - np.float64(x)).sum() for name, x in recorded.items())
    change = sum(np.square(reference.initial(name, x.shape) - np.float64(x)).sum() for name, x in recorded.items())
    assert np.sqrt(error) <= 1e-4 * np.sqrt(change)
    assert all((reference.initial(name, x.shape) != x).any() for name, x in recorded.items())
