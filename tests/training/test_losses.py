"""The losses of scores at pixels, against float64 loops that were written without looking at them."""

from functools import partial
from types import SimpleNamespace

import cv2
import jax
import numpy as np
import pytest

from ctxseg.configs import fcn
from ctxseg.errors import UserError
from ctxseg.tasks import semantic
from ctxseg.training import checks, losses, pixel_losses
from ctxseg.training.pixel_losses import cross_entropy
from tests.references import losses_numpy

K = 5
WEIGHTS = (0.5, 2.0, 0.0, 1.0, 3.0)
# {case: (loss, its own arguments, the reference)}.
CASES = {
    "cross_entropy": (cross_entropy, {}, losses_numpy.cross_entropy),
    "class weights, smoothing": (
        cross_entropy,
        {"class_weights": WEIGHTS, "smoothing": 0.1},
        partial(losses_numpy.cross_entropy, weights=WEIGHTS, smoothing=0.1),
    ),
    "focal": (
        pixel_losses.focal,
        {"class_weights": WEIGHTS, "focal_gamma": 1.5},
        partial(losses_numpy.focal, weights=WEIGHTS, gamma=1.5),
    ),
    "dice": (pixel_losses.dice, {}, losses_numpy.dice),
    "lovasz": (pixel_losses.lovasz, {}, losses_numpy.lovasz),
    "ohem, by probability": (
        pixel_losses.ohem,
        {"ohem_threshold": 0.3, "ohem_least": 5},
        partial(losses_numpy.ohem, threshold=0.3, least=5),
    ),
    "ohem, by number": (
        pixel_losses.ohem,
        {"ohem_threshold": 0.01, "ohem_least": 30},
        partial(losses_numpy.ohem, threshold=0.01, least=30),
    ),
}


def sample(seed=0, scale=3.0, ignored=0.3):
    """Scores and labels; the last class has no pixel."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (4, 6, 7, K)).astype(np.float32)
    labels = rng.integers(0, K - 1, (4, 6, 7)).astype(np.uint8)
    return logits, np.where(rng.random(labels.shape) < ignored, 255, labels).astype(np.uint8)


def expected(reference, logits, labels):
    return reference(logits.reshape(-1, K).astype(np.float64), labels.reshape(-1))


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient(case, scale):
    """The gradient along a direction, by differences of the reference."""
    function, own, reference = CASES[case]
    logits, labels = sample(scale=scale)
    loss, gradient = jax.jit(jax.value_and_grad(partial(function, **own)))(logits, labels)
    np.testing.assert_allclose(loss, expected(reference, logits, labels), rtol=1e-5)
    assert not np.asarray(gradient)[labels == 255].any()
    direction, h = np.random.default_rng(1).normal(size=logits.shape), 1e-6
    ahead, behind = (expected(reference, np.float64(logits) + s * direction, labels) for s in (h, -h))
    np.testing.assert_allclose((gradient * direction).sum(), (ahead - behind) / (2 * h), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_loss_is_zero_if_all_pixels_are_ignored(case):
    function, own, _ = CASES[case]
    logits, labels = sample(scale=1e4)
    loss, gradient = jax.jit(jax.value_and_grad(partial(function, **own)))(logits, np.full_like(labels, 255))
    assert loss == 0
    assert not np.asarray(gradient).any()


@pytest.mark.parametrize("case", CASES)
def test_devices_are_one(case):
    """The shares of two devices add up to the loss of the batch, and their gradients are those of the batch, though a device has fewer
    pixels, or only ignored ones."""
    function, own, _ = CASES[case]
    logits, labels = sample(seed=1)
    labels[:2] = 255
    labels[2, :2] = 255
    alone, gradient = jax.jit(jax.value_and_grad(partial(function, **own)))(logits, labels)

    def total(logits):  # as the training step: each device differentiates its share, and the gradients are added
        shares = jax.value_and_grad(partial(function, axis_name="devices", **own))
        return jax.vmap(shares, axis_name="devices")(logits, labels.reshape(2, 2, 6, 7))

    shares, gradients = jax.jit(total)(logits.reshape(2, 2, 6, 7, K))
    np.testing.assert_allclose(shares.sum(), alone, rtol=1e-5)
    np.testing.assert_allclose(gradients.reshape(gradient.shape), gradient, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_on_two_devices(case):
    """Means over pixels are those of the whole batch. The other losses are the mean over the micro-batches, each of both devices. The first
    micro-batch has no pixel with a class."""
    function, own, _ = CASES[case]
    logits, labels = (np.concatenate([sample(seed=i)[part] for i in (2, 3)]) for part in (0, 1))
    labels[[0, 4]] = 255
    labels[1, :3] = 255
    parts = [[0, 4], [1, 5], [2, 6], [3, 7]]  # the images of each micro-batch, one of each device

    def total(logits):
        def share(logits, labels):
            shares = [
                function(logits[i : i + 1], labels[i : i + 1], "devices", counted=labels, **own)
                for i in range(len(parts))
            ]
            return sum(shares)

        shares = jax.vmap(jax.value_and_grad(share), axis_name="devices")
        return shares(logits.reshape(2, 4, *logits.shape[1:]), labels.reshape(2, 4, *labels.shape[1:]))

    def wanted(logits):
        if function in (cross_entropy, pixel_losses.focal):
            return function(logits, labels, **own)
        return sum(function(logits[part], labels[part], **own) for part in map(np.array, parts)) / len(parts)

    shares, gradients = jax.jit(total)(logits)
    value, gradient = jax.jit(jax.value_and_grad(wanted))(logits)
    np.testing.assert_allclose(shares.sum(), value, rtol=1e-5)
    np.testing.assert_allclose(gradients.reshape(gradient.shape), gradient, atol=1e-6)


def test_logits_are_resized_to_the_labels():
    logits, labels = sample()
    small = logits[:, ::2, ::3]  # 3×3 for labels of 6×7
    resized = np.stack([cv2.resize(x, (7, 6), interpolation=cv2.INTER_LINEAR) for x in small])
    value = expected(losses_numpy.cross_entropy, resized, labels)
    np.testing.assert_allclose(cross_entropy(small, labels), value, rtol=1e-5)


def test_ohem_counts_all_pixels_with_the_same_loss():
    logits, labels = np.zeros((1, 2, 3, K), np.float32), np.zeros((1, 2, 3), np.uint8)
    logits[0, 0, 0, 1] = 2
    loss = pixel_losses.ohem(logits, labels, ohem_threshold=0.01, ohem_least=2)
    np.testing.assert_allclose(loss, (np.log(np.exp(2) + K - 1) + 5 * np.log(K)) / 6, rtol=1e-6)


def test_weights_by_frequency():
    pixels = np.array([[60, 30, 0, 10], [0, 50, 0, 50], [20, 0, 0, 0]])
    frequencies = [80 / 120, 80 / 200, 0.0, 60 / 200]
    np.testing.assert_allclose(
        pixel_losses.median_frequency(frequencies), losses_numpy.median_frequency(pixels), rtol=1e-12
    )


def test_a_sum_of_losses():
    assert losses.parse("name", "cross_entropy+0.5*dice") == {"cross_entropy": 1.0, "dice": 0.5}
    for name in ("", "dice+", "0*dice", "x*dice", "dice+dice", "-1*dice", "nan*dice"):
        with pytest.raises(UserError, match=r"config\.loss\.name is .*such as cross_entropy\+0\.5\*dice"):
            losses.parse("name", name)
    with pytest.raises(
        UserError, match=r"config\.loss\.auxiliary_name is 'dise'; expected one of cross_entropy, focal, dice"
    ):
        losses.find_losses("auxiliary_name", "dise")


@pytest.mark.parametrize(
    "weights", [(0.0,) * 3, (1, -1, 1), ("a", "b", "c"), ("frequency", 1, 2), (1.0, float("nan"), 1.0)]
)
def test_weights_that_are_no_weights(weights):
    config = fcn.get_config()
    config.loss.class_weights = weights
    with pytest.raises(
        UserError, match=r"config\.loss\.class_weights is .*; expected frequency, or a number of at least 0"
    ):
        checks.check_fields(config)


def test_as_many_weights_as_classes():
    config = fcn.get_config()
    config.loss.class_weights = (1, 2.0, 0)
    checks.check_fields(config)  # without knowing the classes
    builder = SimpleNamespace(info=SimpleNamespace(metadata={"class_names": ["a", "b", "c"]}))
    assert semantic.with_class_weights(config, builder) is config
    builder.info.metadata["class_names"].append("d")
    with pytest.raises(UserError, match="class_weights has 3 numbers; expected 4, one for each class: a, b, c, d"):
        semantic.with_class_weights(config, builder)
