"""Networks in bfloat16: convolutions are bfloat16; the state, the losses and sums of many values are float32."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg import devices
from ctxseg.configs import fcn, mcibi, zigzag
from ctxseg.models import create_model
from ctxseg.models.context import CONTEXTS
from ctxseg.models.context.msci import MSCI
from ctxseg.models.layers import ConvNorm, Norm
from ctxseg.models.memory import FeatureMemory
from ctxseg.training import detection_losses, losses, optimizers
from ctxseg.training.step import train_step
from tests.drawn import drawn_state
from tests.models.detectors import example
from tests.operations import bfloat16_sums, dtypes

pytestmark = pytest.mark.usefixtures("plain_convolutions")
FEW = 4  # images of a batch, or copies of a value
SMALL = {
    "channels": 4,
    "subdivisions": (2,),
    "units": (3,),
    "regions": 9,
    "key_channels": 4,
    "bins": (1, 2),
    "dilations": (1,),
}


@pytest.mark.parametrize("module", [fcn, zigzag, mcibi], ids=lambda module: module.__name__.rpartition(".")[2])
def test_a_training_step(module):
    """The loss of the first step is within 2 % of float32's."""
    config = module.get_config()
    config.model.backbone.width = 4
    if module is zigzag:
        config.model.context.update({"channels": 8, "stages": 1})
    config.model.memory.channels = 8
    config.model.auxiliary.update({"levels": ("res4",), "channels": 8})
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (1, 2, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 3, (1, 2, 32, 32), np.uint8),
    }
    values = {}
    for dtype in ("float32", "bfloat16"):
        config.model.dtype = dtype
        model = create_model(config.model, 3, axis_name=devices.AXIS)
        optimizer = optimizers.create_optimizer(config.optimizer, 10)
        state = jax.tree.map(lambda x: np.asarray(x)[None], drawn_state(model, optimizer, (32, 32)))
        loss = partial(losses.of_batch, model, rng=state.rng[0], config=config.loss, axis_name=devices.AXIS)
        values[dtype] = jax.jit(jax.vmap(loss, axis_name=devices.AXIS))(state.variables, batch)[0].item()
    assert values["bfloat16"] != values["float32"]
    np.testing.assert_allclose(values["bfloat16"], values["float32"], rtol=0.02)

    step = jax.vmap(partial(train_step, model=model, optimizer=optimizer, config=config), axis_name=devices.AXIS)
    traced, (new, metrics) = jax.make_jaxpr(step, return_shape=True)(state, batch)
    assert dtypes(traced.jaxpr, "conv_general_dilated") == {"bfloat16"}
    assert dtypes(traced.jaxpr, "exp", "log", "rsqrt") == {"float32"}
    assert bfloat16_sums(traced.jaxpr, FEW) == []
    assert jax.tree.map(lambda x: x.dtype, new) == jax.tree.map(lambda x: x.dtype, state)
    assert jnp.bfloat16 not in {x.dtype for x in jax.tree.leaves((new, metrics))}


@pytest.mark.parametrize("name", CONTEXTS)
def test_no_context_adds_many_values_in_bfloat16(name):
    """Neither forward nor backward. This is traced only."""
    module = CONTEXTS[name]
    bound = {"conv": partial(ConvNorm, dtype=jnp.bfloat16), "normalisation": partial(Norm, dtype=jnp.bfloat16)}
    bound |= {"dtype": jnp.bfloat16, "num_classes": 3} | SMALL
    module = module(**{k: v for k, v in bound.items() if k in {f.name for f in dataclasses.fields(module)}})
    maps = {f"res{i}": jax.ShapeDtypeStruct((2, n, n, 5), jnp.bfloat16) for i, n in enumerate((16, 8, 8, 8), 2)}
    assert_no_long_sums(module, maps, jax.ShapeDtypeStruct((2, 64, 64), jnp.int32))


@pytest.mark.parametrize("fusion", ["concat", "add", "weighted_add"])
def test_the_memory_adds_no_many_values_in_bfloat16(fusion):
    module = FeatureMemory(3, 8, fusion, conv=partial(ConvNorm, dtype=jnp.bfloat16), dtype=jnp.bfloat16, dropout=0.0)
    x = jax.ShapeDtypeStruct((2, 8, 8, 5), jnp.bfloat16)
    assert_no_long_sums(module, x, x)


@pytest.mark.parametrize("fields", [{"superpixels": False}, {"region_pool": "mean"}], ids=str)
def test_msci_adds_no_many_values_in_bfloat16(fields):
    module = MSCI(channels=4, regions=9, conv=partial(ConvNorm, dtype=jnp.bfloat16), dtype=jnp.bfloat16, **fields)
    maps = {f"res{i}": jax.ShapeDtypeStruct((2, n, n, 5), jnp.bfloat16) for i, n in ((2, 16), (3, 8))}
    assert_no_long_sums(module, maps, jax.ShapeDtypeStruct((2, 64, 64), jnp.int32))


def assert_no_long_sums(module, features, other):
    """Traces a module's gradients with respect to its parameters and its maps. `other`: the second argument."""
    call = partial(module.apply, train=True, mutable=["batch_stats"])
    variables = jax.eval_shape(partial(module.init, train=True), jax.random.key(0), features, other)
    params = variables.pop("params", {})

    def loss(params, features):
        (y, *_), _ = call({"params": params} | rest, features, second)
        assert y.dtype == jnp.bfloat16
        return y.astype(jnp.float32).sum()

    rest, second = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), (variables, other))
    traced = jax.make_jaxpr(jax.grad(loss, (0, 1)))(params, features)
    assert dtypes(traced.jaxpr, "conv_general_dilated") <= {"bfloat16"}
    assert bfloat16_sums(traced.jaxpr, FEW) == []


def test_a_detector():
    """Convolutions are bfloat16; boxes, losses and sums of many values are float32."""
    conv = partial(ConvNorm, dtype=jnp.bfloat16)
    model = example.detector()
    parts = {part: getattr(model, part).clone(conv=conv) for part in ("backbone", "neck")}
    model = model.clone(conv=conv, dtype=jnp.bfloat16, **parts)
    batch, variables = example.batch(2), example.variables(model)

    def loss(params):
        output, _ = example.apply(model, variables | {"params": params}, batch)
        return detection_losses.total(output, example.LOSS)[0]

    traced = jax.make_jaxpr(jax.grad(loss))(variables["params"])
    assert dtypes(traced.jaxpr, "conv_general_dilated") == {"bfloat16"}
    assert dtypes(traced.jaxpr, "exp", "log", "sort", "top_k") <= {"float32", "int32"}
    assert bfloat16_sums(traced.jaxpr, FEW) == []
    shapes = jax.eval_shape(model.apply, variables, batch["image"], batch["size"])
    assert jnp.bfloat16 not in {x.dtype for x in jax.tree.leaves(shapes)}
