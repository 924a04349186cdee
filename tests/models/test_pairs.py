"""Any choice for one stage works with any choice for the others: every context with every merge over scales, with the memory, and on every
small backbone. Each backbone has a different merge.

Compilation takes most of the time. Therefore each context runs a training step in one of the combinations only. In the others, its loss is
only traced, which shows that shapes fit and that the loss depends on every parameter. `average` and `max`, which have no parameters, get a
single scale.
"""

import jax
import numpy as np
import optax
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

from ctxseg.configs import defaults
from ctxseg.models import CONTEXTS, create_model
from ctxseg.training import losses
from ctxseg.training.state import create_state
from ctxseg.training.step import train_step
from tests.drawn import drawn

SMALL = {
    "channels": 4, "stages": 2, "subdivisions": (2,), "units": (3,), "regions": 9, "key_channels": 4, "bins": (1, 2),
    "dilations": (1, 2),
}  # fmt: skip
RESNEST = {"name": "resnest50", "stage_sizes": (1, 1, 1, 1), "stem_width": 2, "width": 4}
HRNET = {"name": "hrnetv2_w18", "modules": (1, 1, 1), "blocks": 1, "stem_width": 4, "width": 4}
TRANSFORMER = {"depth": 4, "heads": 2, "grid": 2, "layer_scale": 0.5, "width": 4}
SMALL_BACKBONES = {fields["name"]: fields for fields in (RESNEST, HRNET)} | {
    name: TRANSFORMER for name in ("vit_tiny_16", "dinov2_small_14")
}
COMBINATIONS = [
    ("tiny", "attention", (1.0, 0.5), "none"),
    ("vgg16", "average", (0.75,), "mcibi"),
    ("resnet18", "max", (0.75,), "none"),
]
RUN = [(context, *COMBINATIONS[i % len(COMBINATIONS)]) for i, context in enumerate(CONTEXTS)]
RUN += [
    ("encoder_decoder", "hrnetv2_w18", "average", (0.75,), "none"),
    ("fcn", "hrnetv2_w18", "max", (0.75,), "mcibi"),
    ("aspp", "resnest50", "average", (0.75,), "mcibi"),
    ("aspp", "vit_tiny_16", "none", (), "mcibi"),
    ("ocr", "vit_tiny_16", "none", (), "none"),
    ("fpn", "dinov2_small_14", "none", (), "none"),
]
ALL = [(context, *combination) for context in CONTEXTS for combination in COMBINATIONS]
TRACED = [combination for combination in ALL if combination not in RUN]
AXIS = {"axis_name": "devices", "axis_size": 1}
pytestmark = pytest.mark.usefixtures("plain_convolutions")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 24, 28, 3)).astype(np.uint8)  # not a multiple of the stride
    regions = np.kron(np.arange(9).reshape(3, 3), np.ones((8, 10), int))[:, :28]
    return {"image": image, "label": rng.integers(0, 3, (2, 24, 28), np.uint8), "regions": np.stack([regions] * 2)}


def build(context, backbone, merge, scales, memory, batch):
    """A config, its model, an optimiser that keeps the gradient as its state, and the shapes of the initial state."""
    config = defaults.get_config()
    config.model.backbone.update({"name": backbone, "width": 4, "norm": "batch", "dropout": 0.0})
    config.model.backbone.update(SMALL_BACKBONES.get(backbone, {}))
    config.model.context.update({"name": context} | SMALL)
    config.model.memory.update({"name": memory, "channels": 4, "dropout": 0.0})
    config.model.scales.update({"merge": merge, "scales": scales or (1.0,), "head_filters": 3})
    model = create_model(config.model, 3, axis_name="devices")
    optimizer = optax.trace(0.9)
    return (
        config,
        model,
        optimizer,
        jax.eval_shape(lambda: create_state(model, optimizer, batch["image"].shape[1:3], 0)),
    )


@pytest.mark.parametrize("context, backbone, merge, scales, memory", RUN)
def test_training_step_gives_every_kernel_a_gradient(context, backbone, merge, scales, memory, batch):
    config, model, optimizer, shapes = build(context, backbone, merge, scales, memory, batch)
    fields = {"model": model, "optimizer": optimizer, "config": config, "axis_name": "devices"}
    step = jax.vmap(lambda s, b: train_step(s, b, **fields), **AXIS)
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


@pytest.mark.parametrize("context, backbone, merge, scales, memory", TRACED)
def test_loss_depends_on_every_parameter(context, backbone, merge, scales, memory, batch):
    config, model, _, shapes = build(context, backbone, merge, scales, memory, batch)

    def loss(params, state, batch):
        variables = state.variables | {"params": params}
        output, _ = model.apply(variables, batch["image"], batch["regions"], train=True, mutable=["batch_stats"])
        return losses.total(output, batch["label"], config.loss, "devices")

    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), (shapes.params, shapes, batch))
    traced = jax.make_jaxpr(jax.vmap(loss, **AXIS))(*arguments)
    _, read = dce_jaxpr(traced.jaxpr, [True])
    paths = jax.tree_util.tree_flatten_with_path(shapes.params)[0]
    unread = [jax.tree_util.keystr(path) for (path, _), used in zip(paths, read, strict=False) if not used]
    assert not unread


@pytest.mark.parametrize(
    "backbone, downsample",
    [*((name, False) for name in SMALL_BACKBONES), ("hrnetv2_w18", True), ("dinov2_small_14", True)],
)
def test_every_context_reads_the_maps(backbone, downsample, batch):
    """Of backbones that `COMBINATIONS` lacks, and with a halved map, which `config.model.downsample` adds. Only the contexts are traced."""
    config, model, *_ = build("none", backbone, "none", (), "none", batch)
    pixels, shapes = np.zeros(batch["image"].shape, np.float32), {"pixels": batch["image"].shape}

    def maps(key):  # in their order, which the result of `eval_shape` does not keep
        shapes.update({name: x.shape for name, x in model.backbone.init_with_output(key, pixels)[0].items()})

    jax.eval_shape(maps, jax.random.PRNGKey(0))
    features = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    if downsample:
        features["downsampled"] = list(features.values())[-1][:, ::2, ::2]
    for context in CONTEXTS:
        config.model.context.name = context
        module = create_model(config.model, 3).context

        def read(key, module=module):
            return module.init_with_output(key, features, batch["regions"])[0][0]

        y = jax.eval_shape(read, jax.random.PRNGKey(0))
        assert y.shape[0] == 2 and min(y.shape) > 0, context
