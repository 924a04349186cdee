"""Vision Transformers: sizes, the loop over the blocks, dropping, what a config can set wrong, and an export of symbolic shapes."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.configs import defaults
from ctxseg.errors import UserError
from ctxseg.inference import export
from ctxseg.inference.protocol import Protocol
from ctxseg.models import create_model, extent
from ctxseg.models.backbones import BACKBONES
from ctxseg.models.backbones.vit import ViT
from ctxseg.models.context import levels
from ctxseg.models.layers import Conv, StochasticDepth

TINY = {"width": 8, "depth": 5, "heads": 2, "grid": 3}


def shapes(backbone, size=(64, 96)):
    """The shapes of the maps and of the parameters."""
    return jax.eval_shape(backbone.init_with_output, jax.random.PRNGKey(0), jnp.zeros((1, *size, 3)))


def drawn(backbone):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape, scale=0.5).astype(x.dtype), shapes(backbone)[1])


def count(backbone):
    return sum(x.size for x in jax.tree.leaves(shapes(backbone)[1]))


def test_numbers_of_parameters():
    """SPEC §6b counts ViT-L/16 at 512×512 with positions of that size, 32×32, and without the normalisations of the chosen layers."""
    large = BACKBONES["vit_large_16"]
    body = 304_147_456
    assert count(large(grid=32, layer_norms="none")) == body
    norms, positions = 4 * 2 * 1024, (32**2 - 24**2) * 1024
    assert count(large()) == body + norms - positions
    # timm 1.0.31, without the classifier.
    assert body + norms / 4 - positions == 304_715_752 - 1000 * 1025
    assert count(BACKBONES["vit_tiny_16"](layer_norms="shared")) == 5_717_416 - 1000 * 193
    assert count(BACKBONES["dinov2_small_14"]()) == 22_056_192
    # timm has added the class token's position to the token.
    assert count(BACKBONES["dinov2_small_14"](registers=4)) == 22_057_344 + 384


def test_maps_of_the_chosen_layers_and_a_pyramid():
    maps, _ = shapes(ViT(**TINY, layers=(1, 2, 4), patch_size=14), (100, 130))
    fine, strides = (1, 8, 10, 8), {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    pyramid = {name: (1, -(-100 // s), -(-130 // s), 8) for name, s in strides.items()}
    assert {name: x.shape for name, x in maps.items()} == pyramid | {"layer1": fine, "layer2": fine, "layer4": fine}
    backbone = BACKBONES["dinov2_large_14"]
    assert backbone.effective({"layers": (), "depth": 24}) == {"layers": (5, 11, 17, 23)}
    assert backbone.effective({"layers": (), "depth": 2}) == {"layers": (0, 1)}

    variables = drawn(ViT(**TINY, layers=(1, 4)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 64, 64, 3)), jnp.float32)
    maps = ViT(**TINY, layers=(1, 4)).apply(variables, x)
    assert list(maps) == ["res2", "res3", "res4", "res5", "layer1", "layer4"]  # contexts of one map read the last
    assert [levels.last(maps, n) for n in (1, 2, 4)] == [
        ["layer4"],
        ["layer1", "layer4"],
        ["res2", "res3", "res4", "res5"],
    ]
    np.testing.assert_array_equal(maps["res4"], maps["layer4"])
    means = maps["layer4"].reshape(1, 2, 2, 2, 2, 8).mean((2, 4))
    np.testing.assert_allclose(maps["res5"], means, atol=1e-5)


class OneByOne(ViT):
    """Blocks with their own calls, in place of a loop."""

    def _blocks(self, *arguments):
        return self._blocks_one_by_one(*arguments)


@pytest.mark.parametrize("remat", ["none", "blocks"])
def test_the_loop_computes_the_blocks(remat):
    fields = TINY | {"layers": (0, 3), "registers": 2, "layer_scale": 0.5}
    variables = drawn(ViT(**fields))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 48, 3)), jnp.float32)

    def value_and_gradient(backbone):
        def total(variables):
            maps = backbone.apply(variables, x, True)
            return sum((m * jnp.sin(jnp.arange(m.size).reshape(m.shape))).sum() for m in maps.values())

        return jax.jit(jax.value_and_grad(total))(variables)

    expected, actual = value_and_gradient(OneByOne(**fields)), value_and_gradient(ViT(**fields, remat=remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), expected, actual)


def test_bfloat16():
    """Normalisation and softmax are float32 inside; the results differ by rounding."""
    variables = drawn(ViT(**TINY))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 48, 3)), jnp.float32)
    expected, actual = (ViT(**TINY, dtype=dtype).apply(variables, x) for dtype in (jnp.float32, jnp.bfloat16))
    for name, y in actual.items():
        assert y.dtype == jnp.bfloat16
        np.testing.assert_allclose(y.astype(jnp.float32), expected[name], atol=0.1 * np.abs(expected[name]).max())


def test_stochastic_depth_drops_samples_alike_on_any_number_of_devices():
    layer, x = StochasticDepth("devices"), jnp.ones((64, 2, 3))
    rngs = {"dropout": jax.random.PRNGKey(0)}

    def run(x):
        return jax.vmap(lambda x: layer.apply({}, x, 0.25, True, rngs=rngs), axis_name="devices")(x)

    y = run(x[None])[0]
    np.testing.assert_array_equal(run(x.reshape(4, 16, 2, 3)).reshape(x.shape), y)
    assert (y == y[:, :1, :1]).all() and set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert 4 <= (y[:, 0, 0] == 0).sum() <= 28
    np.testing.assert_array_equal(layer.apply({}, x, 0.25, False), x)


def test_blocks_drop_more_the_later_they_are():
    """The first block drops nothing; the masks of the others differ from each other."""
    fields = TINY | {"layers": (0, 1, 2, 3, 4), "layer_norms": "none"}
    variables = drawn(ViT(**fields))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 16, 16, 3)), jnp.float32)
    layers = [f"layer{i}" for i in fields["layers"]]

    @jax.jit
    def run(key):
        backbone = ViT(**fields, stochastic_depth=0.9)
        return backbone.apply(variables, x, True, rngs={"dropout": key}), ViT(**fields).apply(variables, x)

    dropped, whole = run(jax.random.PRNGKey(0))
    np.testing.assert_allclose(dropped["layer0"], whole["layer0"], rtol=1e-5)
    unchanged = [
        [(dropped[b][i] == dropped[a][i]).all() for i in range(32)] for a, b in zip(layers, layers[1:], strict=False)
    ]
    assert sum(unchanged[-1]) > sum(unchanged[0]) and unchanged[-1] != unchanged[-2]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"heads": 3}, r"backbone\.heads is 3.*divisor of .*width, 8"),
        ({"layers": (2, 5)}, r"backbone\.layers is \(2, 5\).*below .*depth, 5"),
        ({"layers": (3, 1)}, r"backbone\.layers is \(3, 1\).*ascending"),
    ],
)
def test_message_names_the_field(fields, message):
    with pytest.raises(UserError, match=message):
        shapes(ViT(**TINY | fields))


def test_strides_that_are_no_power_of_2_are_recorded_while_images_are_padded():
    sizes = jnp.array([[20, 64], [64, 50]])
    with extent.padded(sizes, (64, 64)):
        assert extent.lengths((4, 4))[0].tolist() == [2, 4]
        extent.record((5, 5), 14)
        assert [n.tolist() for n in extent.lengths((5, 5))] == [[2, 5], [5, 4]]
        block = extent.current()
        Conv(1, 3, stride=2).init(jax.random.PRNGKey(0), jnp.zeros((2, 5, 5, 1)))
        assert [n.tolist() for n in extent.lengths((3, 3))] == [[1, 3], [3, 2]]  # stride 28
    assert extent.lengths((5, 5)) is None
    with extent.resumed(block):
        assert extent.lengths((5, 5))[0].tolist() == [2, 5]


@pytest.mark.parametrize("name", ["vit_tiny_16", "dinov2_small_14"])
def test_shapes_may_be_symbolic(name):
    """An export is traced once for all sizes. `test_extent.py` compares the values with those of images without padding."""
    config = defaults.get_config()
    config.model.backbone.update({"name": name, "registers": 1} | TINY)
    config.model.context.update({"name": "ppm", "channels": 4})
    model = create_model(config.model, 3)
    variables = jax.eval_shape(model.init, jax.random.PRNGKey(0), jnp.zeros((1, 64, 64, 3)))
    exported, _ = export.lower(model, flax.traverse_util.flatten_dict(variables, sep="/"), Protocol())
    assert [str(n) for n in exported.out_avals[0].shape] == ["b", "32*h", "32*w", "3"]
