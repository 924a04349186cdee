"""ImageNet's weights of EfficientNet-Lite0, as they are installed: what the network computes of photographs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage import data

import ctxseg
from ctxseg.configs import fcn
from ctxseg.models import create_model
from ctxseg.models.weights import source
from ctxseg.models.weights.files import read
from ctxseg.models.weights.tensor import Scratch
from tests.references import published

SIDE = 224


def installed(model):
    """The model's variables with ImageNet's weights, zeros where there are none, and the report."""
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), np.zeros((1, 64, 64, 3), np.uint8))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return ctxseg.load_weights(model, zeros, "efficientnet_lite0")


@pytest.fixture(scope="module")
def classify():
    """A function of an image `[1,H,W,3]` → (maps, scores of ImageNet's 1000 classes). No network here has this classifier: it is NumPy."""
    config = fcn.get_config()
    config.model.backbone.name = "efficientnet_lite0"
    config.model.backbone.output_stride = 32
    config.model.pixels.update(source.open_source("efficientnet_lite0").pixels)
    model = create_model(config.model, 2)
    variables, report = installed(model)
    assert {name.split("/")[1] for name in report.new} == {"classifier"}
    tensors = read(source.installed("efficientnet_lite0")).tensors
    head = {name: tensors[name].read(Scratch()) for name in report.left}
    apply = jax.jit(lambda *inputs: model.apply(*inputs).features)

    def run(image):
        maps = apply(variables, image)
        x = np.asarray(maps["res5"])[0] @ head["_conv_head.weight"][:, :, 0, 0].T
        x = (x - head["_bn1.running_mean"]) / np.sqrt(head["_bn1.running_var"] + 1e-3)
        x = np.clip(x * head["_bn1.weight"] + head["_bn1.bias"], 0, 6).mean((0, 1))
        return maps, x @ head["_fc.weight"].T + head["_fc.bias"]

    return run


def test_photographs_are_recognised(classify):
    def scores(image):
        return classify(np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))[None])[1]

    cats = np.argsort(-scores(data.chelsea()))[:3]
    assert list(cats) == [285, 282, 281]  # Egyptian cat, tiger cat, tabby
    assert np.argmax(scores(data.coffee())) == 967  # espresso


@pytest.mark.parametrize(("name", "size"), published.CROPS)
def test_maps_and_scores_equal_those_of_the_published_package(classify, name, size):
    """`efficientnet_lite_pytorch`, recorded by `benchmarks/published_weights.py`; at the odd size with our padding at the end."""
    with np.load(published.PHOTOGRAPHS) as file:
        case = f"{name}-{size[0]}x{size[1]}/"
        recorded = {key.removeprefix(case): x for key, x in file.items() if key.startswith(case)}
    maps, scores = classify(published.photograph(name, size))
    expected = recorded.pop("logits")
    errors = {key: published.difference(maps[key], x) for key, x in recorded.items()}
    errors["logits"] = np.abs(scores - expected).max() / np.abs(expected).max()
    assert set(errors) == {"res2", "res3", "res4", "res5", "logits"}
    assert max(errors.values()) < 1e-4, errors


def test_output_strides_give_the_same_maps():
    """With the same weights, the map of stride 8, at every fourth position, is the map of stride 32 (SPEC §1)."""
    image = np.random.default_rng(0).integers(0, 256, (1, 67, 90, 3), np.uint8)
    config = fcn.get_config()
    config.model.backbone.name = "efficientnet_lite0"
    maps = {}
    for stride in (32, 8):
        config.model.backbone.output_stride = stride
        model = create_model(config.model, 2)
        if stride == 32:
            variables, _ = installed(model)
        maps[stride] = jax.jit(model.apply)(variables, image).features["res5"]
    expected = maps[32]
    error = jnp.abs(maps[8][:, ::4, ::4] - expected).max() / jnp.abs(expected).max()
    assert error < 1e-5
