"""Attention to scale against `tests/references/scales_numpy.py`. The segmenter's outputs are inputs of the reference."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.configs import defaults
from ctxseg.models import MultiScale, SegmenterOutput, create_model
from ctxseg.models.auxiliary import AuxiliaryLogits
from ctxseg.training import losses, pixel_losses
from tests.models.gradients import check_against, random_like
from tests.references import scales_numpy

SCALES = (1.0, 0.5, 0.75)


def models(**scales):
    config = defaults.get_config()
    config.model.backbone.width = 4
    single = create_model(config.model, 3)
    config.model.scales.update({"scales": SCALES, "head_filters": 5, "merge": "attention"} | scales)
    return single, create_model(config.model, 3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3)).astype(np.float32)


class Linear(nn.Module):
    """A segmenter with features and scores that are linear in each pixel, so that its reference takes one line."""

    def setup(self):
        self.feature = self.param("feature", nn.initializers.normal(), (3, 2))
        self.score = self.param("score", nn.initializers.normal(), (3, 4))

    def __call__(self, images, regions=None, train=False):
        return SegmenterOutput(images @ self.score, features={"context": images @ self.feature})


@pytest.mark.parametrize("merge, head_layers", [("attention", 2), ("attention", 1), ("average", 2), ("max", 2)])
def test_gradients_of_the_merge_match_the_reference(merge, head_layers):
    """With respect to the images and all parameters, over three scales, of which the largest is not the first."""
    module = MultiScale(Linear(), (0.5, 1.0, 0.75), merge, head_layers=head_layers, head_filters=5, dtype=jnp.float64)
    images = np.random.default_rng(0).normal(size=(2, 6, 8, 3))

    def reference(params, images):
        inputs = [scales_numpy.bilinear_resize(images, round(6 * s), round(8 * s)) for s in module.scales]
        heads, features = None, [x @ params["feature"] for x in inputs]
        if merge == "attention":
            layers = [(params[k]["kernel"], params[k]["bias"]) for k in ("attention1", "attention2") if k in params]
            if head_layers == 2:
                heads = scales_numpy.attention_head(features, *layers[0], *layers[1])
            else:
                heads = scales_numpy.conv2d(np.concatenate(scales_numpy.resize_to_finest(features), -1), *layers[0])
        return scales_numpy.merge([x @ params["score"] for x in inputs], heads, merge)[0]

    check_against(lambda p, x: module.apply({"params": p}, x).logits, reference, module, images)


@pytest.mark.parametrize("merge", ["attention", "average", "max"])
def test_merge_matches_the_reference(images, merge):
    single, multiple = models(merge=merge)
    shapes = jax.eval_shape(multiple.init, jax.random.PRNGKey(0), images)
    variables = {"params": jax.tree.map(np.float32, random_like(shapes["params"]))}
    variables["batch_stats"] = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes["batch_stats"])
    output = jax.jit(multiple.apply)(variables, images)

    # The segmenter's output at each scale alone; it ignores the parameters of the attention head.
    outputs = [
        single.apply(variables, scales_numpy.bilinear_resize(images, round(32 * s), round(48 * s)).astype(np.float32))
        for s in SCALES
    ]
    heads = None
    if merge == "attention":
        p = variables["params"]
        layers = (p[name][part] for name in ("attention1", "attention2") for part in ("kernel", "bias"))
        heads = scales_numpy.attention_head([np.asarray(o.features["context"]) for o in outputs], *layers)
        heads = np.asarray(heads)
    merged, weights = scales_numpy.merge([np.asarray(o.logits, np.float64) for o in outputs], heads, merge)
    np.testing.assert_allclose(output.logits, merged, rtol=1e-5, atol=1e-4)
    for scale, single_scale in zip(SCALES, outputs, strict=True):
        np.testing.assert_allclose(output.aux[f"scale/{scale}"].logits, single_scale.logits, rtol=1e-4, atol=1e-4)
    if merge == "max":
        assert output.scale_weights is None
    else:
        np.testing.assert_allclose(output.scale_weights, weights, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "head", [{"head_input": "logits"}, {"head_input": "res4"}, {"head_layers": 1, "head_kernel": 1}]
)
def test_attention_head_reads_its_input_with_its_kernel(images, head):
    _, multiple = models(**head)
    output, variables = jax.eval_shape(lambda r: multiple.init_with_output(r, images), jax.random.PRNGKey(0))
    assert output.scale_weights.shape == (1, 4, 6, 3)
    first = variables["params"].get("attention1", variables["params"]["attention2"])["kernel"]
    channels = {"logits": 3, "res4": 16}.get(head.get("head_input"), 24) * len(SCALES)
    assert first.shape[:3] == ((1, 1, channels) if "head_layers" in head else (3, 3, channels))


def test_extra_supervision_adds_a_cross_entropy_for_each_scale():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (1, 8, 8)).astype(np.uint8)
    logits, small = (jnp.asarray(rng.normal(size=(1, n, n, 3)), jnp.float32) for n in (4, 2))
    aux = {f"scale/{s}": AuxiliaryLogits(x, "scales", "resized_labels") for s, x in ((1.0, logits), (0.5, small))}
    output = SegmenterOutput(logits, aux)
    config = defaults.get_config().loss
    plain = pixel_losses.cross_entropy(logits, jnp.asarray(labels))
    # Labels at the scores' resolution: the nearest pixel is at index n/2 of n pixels.
    extra = [
        pixel_losses.cross_entropy(x, jnp.asarray(labels[:, n // 2 :: n, n // 2 :: n]))
        for x, n in ((logits, 2), (small, 4))
    ]
    np.testing.assert_allclose(losses.total(output, jnp.asarray(labels), config), plain + sum(extra), rtol=1e-6)
    config.scales = 0.0
    np.testing.assert_allclose(losses.total(output, jnp.asarray(labels), config), plain, rtol=1e-6)
