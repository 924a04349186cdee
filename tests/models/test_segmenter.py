"""Backbones, classifiers and auxiliary heads: sizes, strides, receptive field, parameters and multiply-adds."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.configs import defaults
from ctxseg.errors import UserError
from ctxseg.models import BACKBONES, Segmenter, convolution, create_model, layers
from ctxseg.models.auxiliary import AuxiliaryLogits
from ctxseg.studies import operations
from ctxseg.training import losses, pixel_losses

# Parameters of the published ImageNet networks (torchvision's documentation), in millions, without their 1000-way classifiers.
PARAMETERS = {
    "resnet18": 11.689512 - 0.513,
    "resnet34": 21.797672 - 0.513,
    "resnet50": 25.557032 - 2.049,
    "resnet101": 44.549160 - 2.049,
    "resnet152": 60.192808 - 2.049,
    "resnest101": 46.226016,  # this and the next: timm's networks, without what follows the maps
    "hrnetv2_w48": 65.325120,
}


def model_config(**backbone):
    config = defaults.get_config().model
    config.backbone.update(backbone)
    return config


def shapes(config, size=(64, 96), num_classes=5):
    model = create_model(config, num_classes)
    images = jnp.zeros((1, *size, 3), jnp.uint8)
    return jax.eval_shape(lambda r: model.init_with_output(r, images), jax.random.PRNGKey(0))


@pytest.mark.parametrize("name", PARAMETERS)
def test_backbones_have_the_published_parameters(name):
    _, variables = shapes(model_config(name=name))
    count = sum(x.size for x in jax.tree.leaves(variables["params"]["backbone"]))
    assert count / 1e6 == pytest.approx(PARAMETERS[name], abs=1e-6)


# Channels of stems of three convolutions: those of older runs, and those of ResNet-V1c.
STEMS = {"conv3": [64, 64, 128], "conv3_32": [32, 32, 64]}


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize(
    "name, stem", [("tiny", None), ("resnet18", "conv7"), ("resnet50", "conv3"), ("resnet50", "conv3_32")]
)
def test_scores_have_the_output_stride(name, stem, stride):
    output, variables = shapes(model_config(name=name, stem=stem, output_stride=stride))
    assert output.logits.shape == (1, 64 // stride, 96 // stride, 5)
    assert output.logits.dtype == jnp.float32
    if stem in STEMS:
        backbone = variables["params"]["backbone"]
        assert [backbone[f"stem{i}"]["conv"]["kernel"].shape[-1] for i in (1, 2, 3)] == STEMS[stem]


@pytest.mark.parametrize("name", ["tiny", "resnet18", "resnet50"])
def test_dilated_networks_with_the_same_weights_agree_with_stride_32(name, monkeypatch):
    """Every fourth position at stride 8, and every second at stride 16, equals a position at stride 32, also at the borders."""
    monkeypatch.setattr(layers, "convolve", convolution._plain)  # compiles several times faster
    config = {"width": 4} if name == "tiny" else {}
    networks = {stride: BACKBONES[name](output_stride=stride, **config) for stride in (32, 16, 8)}
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(1, 40, 72, 3)), jnp.float32)
    variables = jax.tree.map(
        lambda x: (
            jnp.asarray(rng.normal(size=x.shape) * np.sqrt(2 / np.prod(x.shape[:-1])), x.dtype)
            if len(x.shape) == 4
            else jnp.ones(x.shape, x.dtype)
        ),
        jax.eval_shape(networks[32].init, jax.random.PRNGKey(0), images),
    )
    coarse, middle, fine = (jax.jit(networks[s].apply)(variables, images)["res5"] for s in (32, 16, 8))
    assert coarse.shape[1:3] == (2, 3) and middle.shape[1:3] == (3, 5) and fine.shape[1:3] == (5, 9)
    for subsampled in (middle[:, ::2, ::2], fine[:, ::4, ::4]):
        np.testing.assert_allclose(subsampled, coarse, rtol=0, atol=1e-5 * np.abs(coarse).max())


def receptive_field(stride):
    """Height and width, in pixels, of the window that the score in the middle depends on."""
    model = create_model(model_config(output_stride=stride, width=4), 3)
    images = jnp.asarray(np.random.default_rng(0).uniform(0, 255, (1, 192, 192, 3)), jnp.float32)
    variables = model.init(jax.random.PRNGKey(0), images)

    def score(images):
        logits = model.apply(variables, images).logits
        return (logits[0, logits.shape[1] // 2, logits.shape[2] // 2] ** 2).sum()

    seen = np.abs(jax.jit(jax.grad(score))(images)).sum((0, 3)) > 0
    return tuple(np.ptp(np.flatnonzero(seen.any(axis))) + 1 for axis in (1, 0))


def test_receptive_field_of_tiny_is_at_most_63_pixels():
    """`scenes` relies on it: beacons are more than 48 pixels away, and upsampled scores depend on pixels at most 8 + 31 away."""
    height, width = receptive_field(8)
    assert 55 <= height <= 63 and 55 <= width <= 63


def test_bfloat16_computes_in_bfloat16_and_keeps_parameters_in_float32():
    config = model_config(width=4)
    config.dtype = "bfloat16"
    model = create_model(config, 3)
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    traced = str(jax.make_jaxpr(lambda r: model.init_with_output(r, images)[0].logits)(jax.random.PRNGKey(0)))
    assert "bf16" in traced
    output, variables = shapes(config)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {
        jnp.dtype("float32")
    } and output.logits.dtype == jnp.float32


def test_every_backbone_is_tested():
    # The references of efficientnet_lite0 are its published weights, in tests/models/weights; those of transformers are in test_vit.py; the
    # others, in test_published_weights.py.
    others = {"none", "tiny", "vgg16", "efficientnet_lite0", "resnest50", "hrnetv2_w18", "hrnetv2_w32"}
    others |= {name for name in BACKBONES if name.startswith(("vit_", "dinov2_"))}
    assert set(PARAMETERS) | others == set(BACKBONES)


def test_largefov_has_the_parameters_of_its_table():
    """DeepLab-LargeFOV: k²·in·out + out for each convolution of SPEC §1, 20.5 M in total, and 1024·K + K for the classifier."""
    vgg = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    vgg += [(256, 512)] + 5 * [(512, 512)] + [(512, 1024)]
    by_hand = sum(9 * i * o + o for i, o in vgg)
    # Fields, the kernel of conv7, and the size of the scores. 65 and 96 rows become 33, 17, 9 and 49, 25, 13, or 33, 17, 9 and 48, 24, 12.
    for fields, kernel, size in (
        ({"layout": "largefov"}, 1, (9, 13)),
        ({"layout": "hrenet"}, 3, (9, 12)),
        ({"layout": "hrenet", "conv7_kernel": 1}, 1, (9, 12)),
    ):
        output, variables = shapes(model_config(name="vgg16", **fields), (65, 96), num_classes=21)
        expected = by_hand + kernel**2 * 1024 * 1024 + 1024 + 1024 * 21 + 21
        assert sum(x.size for x in jax.tree.leaves(variables["params"])) == expected
        assert output.logits.shape == (1, *size, 21)
    assert round(by_hand / 1e6 + 1.05, 2) == 20.48


@pytest.mark.parametrize("layout", ["largefov", "hrenet"])
def test_only_largefov_has_average_pooling_before_conv6(layout):
    """Its conv6 reads the mean of 3×3 windows of pool5, padded with zeros. In the layout of the H-ReNet paper, conv6 reads pool5."""
    backbone = BACKBONES["vgg16"](layout=layout, width=1)
    images = np.random.default_rng(0).normal(size=(1, 26, 40, 3)).astype(np.float32)
    (maps, variables) = jax.jit(backbone.init_with_output)(jax.random.PRNGKey(0), images)
    conv6 = variables["params"]["conv6"]["conv"]
    x = np.asarray(maps["pool5"])
    if layout == "largefov":
        around = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = sum(around[:, i : i + x.shape[1], j : j + x.shape[2]] for i, j in np.ndindex(3, 3)) / 9
    # With dilation 12, all taps except the middle one are outside such a small map.
    assert x.shape[1] <= 12 and x.shape[2] <= 12
    np.testing.assert_allclose(maps["conv6"], np.maximum(x @ conv6["kernel"][1, 1], 0), rtol=1e-4, atol=1e-6)
    assert maps["conv6"].max() > 0.01


def test_resnet_fcn_has_the_parameters_of_its_parts():
    """ResNet-18: the stem, eight blocks and three shortcuts. A batch normalisation has two parameters per channel."""
    stages = [(64, 64), (64, 128), (128, 256), (256, 512)]
    conv = lambda k, i, o: k * k * i * o + 2 * o  # noqa: E731
    by_hand = conv(7, 3, 64) + sum(conv(3, i, o) + 3 * conv(3, o, o) for i, o in stages)
    by_hand += sum(conv(1, i, o) for i, o in stages[1:]) + 512 * 5 + 5
    _, variables = shapes(model_config(name="resnet18"))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == by_hand


@pytest.mark.parametrize("name, giga", [("resnet18", 1.814), ("resnet50", 4.089), ("resnet101", 7.801)])
def test_resnets_have_the_published_multiply_adds(name, giga):
    """torchvision's numbers at 224×224, without the classifier. Bottlenecks with the stride in the 1×1 would have 6 to 7 % fewer."""
    model = create_model(model_config(name=name, output_stride=32), 5)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.uint8)
    variables = jax.eval_shape(lambda r: model.init(r, jnp.zeros(images.shape, images.dtype)), jax.random.PRNGKey(0))
    count = operations.count_multiply_adds(lambda v, x: model.apply(v, x).features["res5"], variables, images)
    classifier = 49 * 5 * (512 if name == "resnet18" else 2048)
    assert (count - classifier) / 1e9 == pytest.approx(giga, rel=0.002)


def test_auxiliary_heads_add_weighted_losses():
    """A head is a 3×3 and a 1×1 convolution on a named map. Without heads there are no parameters."""
    config, weights = model_config(name="none"), defaults.get_config().loss
    assert "auxiliary" not in shapes(config, (4, 6))[1]["params"]
    config.auxiliary.update({"levels": ("pixels",), "channels": 4})
    model = create_model(config, 5)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (2, 4, 6, 3), np.uint8), rng.integers(0, 5, (2, 4, 6))
    variables = jax.eval_shape(lambda key: model.init(key, images), jax.random.PRNGKey(0))
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 1, x.shape).astype(x.dtype), variables)
    output = jax.jit(model.apply)(variables, images)
    p, stats = variables["params"]["auxiliary"], variables["batch_stats"]["auxiliary"]["pixels_conv"]["norm"]
    kernel, norm = p["pixels_conv"]["conv"]["kernel"], p["pixels_conv"]["norm"]
    padded = np.pad(output.features["pixels"], ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = sum(padded[:, i : i + 4, j : j + 6] @ kernel[i, j] for i in range(3) for j in range(3))
    x = np.maximum((x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"], 0)
    scores = x @ p["pixels"]["scores"]["kernel"][0, 0] + p["pixels"]["scores"]["bias"]
    np.testing.assert_allclose(output.aux["head/pixels"].logits, scores, rtol=1e-4, atol=1e-4)

    def cross_entropy(logits):
        logits = np.asarray(logits, np.float64)
        correct = np.take_along_axis(logits, labels[..., None], 3)[..., 0]
        return (np.log(np.exp(logits).sum(3)) - correct).mean()

    assert weights.heads == 0.4  # the default
    for weight in (0.4, 0.7, 0.0):
        weights.heads = weight
        expected = cross_entropy(output.logits) + weight * cross_entropy(scores)
        np.testing.assert_allclose(losses.total(output, jnp.asarray(labels), weights), expected, rtol=1e-4)


class Scoring(nn.Module):
    """A context with plain auxiliary scores, and with scores that name their weight. Both are linear in the image."""

    levels: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, features, regions=None, train=False):
        x = features["pixels"]
        return x, {"plain": 2 * x, "weighed": AuxiliaryLogits(3 * x[:, ::2, ::2], "heads", "resized_labels")}


def test_auxiliary_scores_have_the_weight_that_they_name():
    """Plain scores have the weight `auxiliary`."""
    model = Segmenter(BACKBONES["none"](), Scoring(), num_classes=3)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (1, 4, 6, 3), np.uint8), rng.integers(0, 3, (1, 4, 6))
    output, _ = model.init_with_output(jax.random.PRNGKey(0), images)
    assert {name: (x.weight, x.targets) for name, x in output.aux.items()} == {
        "plain": ("auxiliary", "labels"), "weighed": ("heads", "resized_labels"),
    }  # fmt: skip
    x, labels = output.features["pixels"], jnp.asarray(labels)
    main, plain = pixel_losses.cross_entropy(output.logits, labels), pixel_losses.cross_entropy(2 * x, labels)
    weighed = pixel_losses.cross_entropy(
        3 * x[:, ::2, ::2], labels[:, 1::2, 1::2]
    )  # the nearest pixel is the lower right one
    weights = defaults.get_config().loss
    for auxiliary, heads in ((0.3, 0.7), (0.0, 0.7), (0.3, 0.0)):
        weights.update({"auxiliary": auxiliary, "heads": heads})
        expected = main + auxiliary * plain + heads * weighed
        np.testing.assert_allclose(losses.total(output, labels, weights), expected, rtol=1e-6)


def test_auxiliary_heads_have_the_sizes_of_their_maps():
    """At the largest of several scales. The message for an unknown map names it."""
    config = model_config(width=4)
    config.auxiliary.levels = ("res3", "res4")
    config.scales.update({"merge": "average", "scales": (1.0, 0.5)})
    output, _ = shapes(config)
    assert {name: x.logits.shape for name, x in output.aux.items() if name.startswith("head/")} == {
        "head/res3": (1, 8, 12, 5),
        "head/res4": (1, 8, 12, 5),
    }
    config.auxiliary.update({"convolutions": 2, "enlarge": 4})
    output, variables = shapes(config)
    assert output.aux["head/res4"].logits.shape == (1, 8 * 16, 12 * 16, 5)
    assert {"res4_conv", "res4_conv2"} < set(variables["params"]["auxiliary"])
    config.auxiliary.levels = ("res4", "pool4")
    with pytest.raises(UserError, match="config.model.auxiliary.levels .*'pool4'.*res4"):
        shapes(config)


def test_a_convolution_halves_the_map_that_context_and_memory_read():
    config = model_config(width=4)
    config.memory.update({"name": "mcibi", "channels": 8})
    before, _ = shapes(config)
    config.downsample = True
    after, variables = shapes(config)
    assert before.logits.shape == (1, 8, 12, 5) and after.logits.shape == (1, 4, 6, 5)
    assert before.pixels.shape[1:3] == (8, 12) and after.pixels.shape[1:3] == (4, 6)
    kernel = variables["params"]["halving"]["conv"]["conv"]["kernel"]
    assert kernel.shape == (3, 3, 24, 24) == (3, 3, *after.features["downsampled"].shape[-1:] * 2)


def test_images_are_normalised():
    """ImageNet's mean becomes 0, and one standard deviation above it becomes 1."""
    rgb = np.array([(123.675, 116.28, 103.53), (123.675 + 58.395, 116.28 + 57.12, 103.53 + 57.375)], np.float32)
    model = create_model(model_config(width=4), 3)
    images = np.broadcast_to(rgb[:, None, None], (2, 8, 8, 3))
    variables = jax.eval_shape(lambda r: model.init(r, images), jax.random.PRNGKey(0))
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)
    pixels = model.apply(variables, images).features["pixels"]
    np.testing.assert_allclose(pixels, np.broadcast_to([[[[0.0]]], [[[1.0]]]], pixels.shape), atol=1e-5)
