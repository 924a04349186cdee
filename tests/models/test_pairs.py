"""Any choice of one stage works with any choice of the others: a training step of every context with every merge over scales, with the
memory, and on every small backbone, each backbone with another merge.

Compiling is what costs, as much for each scale: `average` and `max`, which have no parameters, are given one. So each context's step is
executed in one of the combinations, in turn. In the others the initial state is traced, where parts that do not fit together fail too.
"""

import jax
import numpy as np
import optax
import pytest

from ctxseg.configs import defaults
from ctxseg.models import CONTEXTS, convolution, create_model, layers
from ctxseg.training.state import create_state
from ctxseg.training.step import train_step
from tests.drawn import drawn

SMALL = {
    "channels": 4, "stages": 2, "subdivisions": (2,), "units": (3,), "regions": 9, "key_channels": 4, "bins": (1, 2),
    "dilations": (1, 2),
}  # fmt: skip
COMBINATIONS = [
    ("tiny", "attention", (1.0, 0.5), "none"),
    ("vgg16", "average", (0.75,), "mcibi"),
    ("resnet18", "max", (0.75,), "none"),
]


@pytest.fixture(autouse=True)
def plain_convolutions(monkeypatch):
    """XLA's own convolution, which compiles several times faster; `test_layers.py` holds the others to it."""
    monkeypatch.setattr(layers, "convolve", convolution._plain)
    for module in (layers, convolution):
        monkeypatch.setattr(module, "materialize", lambda x: x)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 24, 28, 3)).astype(np.uint8)  # no multiple of the stride
    regions = np.kron(np.arange(9).reshape(3, 3), np.ones((8, 10), int))[:, :28]
    return {"image": image, "label": rng.integers(0, 3, (2, 24, 28), np.uint8), "regions": np.stack([regions] * 2)}


def build(context, backbone, merge, scales, memory, batch):
    """Shapes of the initial state, and a training step: (state, batch), with a leading axis of one device → (state, metrics)."""
    config = defaults.get_config()
    config.model.backbone.update({"name": backbone, "width": 4, "norm": "batch", "dropout": 0.0})
    config.model.context.update({"name": context} | SMALL)
    config.model.memory.update({"name": memory, "channels": 4, "dropout": 0.0})
    config.model.scales.update({"merge": merge, "scales": scales, "head_filters": 3})
    model = create_model(config.model, 3, axis_name="devices")
    gradients = optax.trace(0.9)  # whose state, after one step, is the gradient
    fields = {"model": model, "optimizer": gradients, "config": config, "axis_name": "devices"}
    step = jax.vmap(lambda s, b: train_step(s, b, **fields), axis_name="devices", axis_size=1)
    return jax.eval_shape(lambda: create_state(model, gradients, batch["image"].shape[1:3], 0)), step


@pytest.mark.parametrize("combination", range(len(COMBINATIONS)))
@pytest.mark.parametrize("context", CONTEXTS)
def test_training_step(context, combination, batch):
    memory = COMBINATIONS[combination][-1]
    shapes, step = build(context, *COMBINATIONS[combination], batch)
    if combination != list(CONTEXTS).index(context) % len(COMBINATIONS):
        return
    state = drawn(shapes)
    new, metrics = jax.jit(step)(*jax.tree.map(lambda x: np.asarray(x)[None], (state, batch)))
    new, metrics = jax.tree.map(lambda x: x[0], (new, metrics))
    assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0
    for path, gradient in jax.tree_util.tree_flatten_with_path(new.opt_state.trace)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(gradient).all(), name
        if name.endswith("kernel"):
            assert np.abs(gradient).max() > 0, name
    if memory == "mcibi":
        assert (state.memory["memory"]["bank"] != new.memory["memory"]["bank"]).any()
