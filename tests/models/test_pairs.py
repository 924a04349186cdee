"""Any choice of one stage works with any choice of the others: context × merge and context × memory, on every small backbone."""

import jax
import numpy as np
import optax
import pytest

from configs import defaults
from ctxseg.models import CONTEXTS, convolution, create_model, layers
from ctxseg.state import create_state
from ctxseg.train import train_step

SMALL = {
    "channels": 4, "stages": 2, "subdivisions": (2,), "units": (3,), "regions": 9, "key_channels": 4, "bins": (1, 2),
    "dilations": (1, 2),
}  # fmt: skip
# On `tiny` each merge, one of them with the memory; on the others the memory and a merge together.
CASES = [("tiny", "attention", "none"), ("tiny", "average", "mcibi"), ("tiny", "max", "none")]
CASES += [("vgg16", "attention", "mcibi"), ("resnet18", "attention", "mcibi")]


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


def drawn(shapes):
    """A state of these shapes: kernels of unit gain, a memory that has seen every class; initialisers are slow to compile."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name.endswith("kernel") or name == "bank":
            return (rng.normal(size=x.shape) * np.sqrt(2 / max(np.prod(x.shape[:-1]), 1))).astype(x.dtype)
        return (np.ones if name in ("scale", "var", "seen") else np.zeros)(x.shape, x.dtype)

    state = jax.tree_util.tree_map_with_path(draw, shapes)
    return state.replace(opt_state=jax.tree.map(np.zeros_like, state.opt_state))


@pytest.mark.parametrize("backbone, merge, memory", CASES)
@pytest.mark.parametrize("context", CONTEXTS)
def test_training_step(context, backbone, merge, memory, batch):
    config = defaults.get_config()
    config.model.backbone.update({"name": backbone, "width": 4, "norm": "batch", "dropout": 0.0})
    config.model.context.update({"name": context} | SMALL)
    config.model.memory.update({"name": memory, "channels": 4, "dropout": 0.0})
    config.model.scales.update({"merge": merge, "head_filters": 3})
    model = create_model(config.model, 3, axis_name="devices")
    gradients = optax.trace(0.9)  # whose state, after one step, is the gradient

    state = drawn(jax.eval_shape(lambda: create_state(model, gradients, batch["image"].shape[1:3], 0)))

    @jax.jit
    def step(state, batch):
        fields = {"model": model, "optimizer": gradients, "config": config, "axis_name": "devices"}
        one = jax.vmap(lambda s, b: train_step(s, b, **fields), axis_name="devices", axis_size=1)
        return one(state, batch)

    new, metrics = step(*jax.tree.map(lambda x: np.asarray(x)[None], (state, batch)))
    new, metrics = jax.tree.map(lambda x: x[0], (new, metrics))
    assert np.isfinite(metrics["loss"]) and metrics["gradient_norm"] > 0
    for path, gradient in jax.tree_util.tree_flatten_with_path(new.opt_state.trace)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(gradient).all(), name
        # The attention head starts from zeros in its last layer, which keeps its first layer's gradient at 0 for a step.
        if name.endswith("kernel") and not name.startswith("attention1"):
            assert np.abs(gradient).max() > 0, name
    if memory == "mcibi":
        assert (state.memory["memory"]["bank"] != new.memory["memory"]["bank"]).any()
