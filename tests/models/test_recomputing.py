"""`config.model.remat`: which parts are computed again, and that the results do not change."""

import importlib
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models import create_model, recomputing
from ctxseg.settings.collect import get_config
from tests.models.test_pairs import HRNET, RESNEST

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)


def config_of(backbone, remat):
    config = get_config()
    config.model.backbone.update(backbone if isinstance(backbone, dict) else {"name": backbone})
    config.model.remat = remat
    return config.model


def loss_of(config, variables):
    def loss(params):
        output, updated = create_model(config, 3).apply(
            {**variables, "params": params},
            IMAGES,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.PRNGKey(1)},
        )
        return jnp.square(output.logits).mean() + sum(jnp.square(a.logits).mean() for a in output.aux.values()), updated

    return loss


def parts(config):
    """Number of parts of the network that are computed again."""
    variables = jax.eval_shape(create_model(config, 3).init, jax.random.PRNGKey(0), IMAGES)
    jaxpr = jax.make_jaxpr(lambda v: loss_of(config, v)(v["params"])[0])(variables)
    return str(jaxpr).count("remat2[")


@pytest.mark.parametrize(
    "backbone, blocks",
    [("tiny", 4), ("resnet18", 8), ("efficientnet_lite0", 16), ("vgg16", 5), (RESNEST, 4), (HRNET, 4)],
)
def test_the_blocks_of_a_backbone(backbone, blocks):
    # The classifier is a stage, and so is the absent context.
    assert [parts(config_of(backbone, remat)) for remat in ("none", "blocks", "all")] == [0, blocks, blocks + 2]


@pytest.mark.parametrize("system", ["msci", "mcibi"])
def test_the_results_stay_the_same(system):
    """A stage that returns maps by name; a memory."""
    config = importlib.import_module(f"ctxseg.configs.{system}").get_config("scenes").model
    config.backbone.width = 4
    if system == "msci":
        config.connections.name, config.context.name = "msci", "fcn"
        config.connections.superpixels = False
    model = create_model(config, 3)
    variables = jax.jit(model.init)(jax.random.PRNGKey(0), IMAGES)
    results = {}
    for remat in ("none", "all"):
        config.remat = remat
        results[remat] = jax.jit(jax.value_and_grad(loss_of(config, variables), has_aux=True))(variables["params"])
    for kept, recomputed in zip(*map(jax.tree.leaves, results.values()), strict=True):
        np.testing.assert_allclose(recomputed, kept, rtol=0, atol=1e-5 * max(float(jnp.abs(kept).max()), 1e-3))


class Stage(nn.Module):
    remat: str = "all"

    def __call__(self, maps):
        return recomputing.stage(self, lambda self, maps: {f"of {name}": x for name, x in maps.items()})(self, maps)


def test_maps_by_name_keep_their_order():
    maps = {name: jnp.full(1, i) for i, name in enumerate(("res2", "conv7", "pool1"))}
    result = Stage().apply({}, maps)
    assert {name: int(x[0]) for name, x in result.items()} == {"of res2": 0, "of conv7": 1, "of pool1": 2}
    assert list(result) == ["of res2", "of conv7", "of pool1"]


# Prints the planned memory of the gradient of a small network, in bytes.
SCRIPT = """
from ctxseg import cpu
{first}
import jax, numpy as np
from tests.models import test_recomputing as test
test.IMAGES = np.zeros((2, 96, 96, 3), np.uint8)
config = test.config_of("tiny", "blocks")
variables = jax.eval_shape(test.create_model(config, 3).init, jax.random.PRNGKey(0), test.IMAGES)
step = jax.jit(lambda v: jax.grad(test.loss_of(config, v), has_aux=True)(v["params"])[0])
print(step.lower(variables).compile().memory_analysis().temp_size_in_bytes)
"""


def test_a_cpu_needs_less_memory_only_with_its_setting():
    def planned(first):
        command = [sys.executable, "-c", SCRIPT.format(first=first)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert planned("cpu.recompute()") < 0.75 * planned("")
