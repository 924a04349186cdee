from functools import partial

import cv2
import jax
import numpy as np
import pytest

from ctxseg.training.losses import cross_entropy

K = 5


def sample(seed=0, scale=3.0, ignored=0.3):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (3, 6, 7, K)).astype(np.float32)
    labels = rng.integers(0, K, (3, 6, 7)).astype(np.uint8)
    return logits, np.where(rng.random(labels.shape) < ignored, 255, labels).astype(np.uint8)


def reference(logits, labels):
    """Mean of −log softmax over the pixels that are not ignored, in float64, and its gradient."""
    z = logits.astype(np.float64)
    z = z - z.max(-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    valid = labels != 255
    one_hot = np.eye(K)[np.where(valid, labels, 0)] * valid[..., None]
    n = max(valid.sum(), 1)
    return -(one_hot * log_p).sum() / n, (np.exp(log_p) * valid[..., None] - one_hot) / n


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_loss_and_gradient_match_float64(scale):
    logits, labels = sample(scale=scale)
    loss, gradient = jax.value_and_grad(cross_entropy)(logits, labels)
    expected, expected_gradient = reference(logits, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
    assert not gradient[labels == 255].any()


def test_logits_are_resized_to_the_labels():
    logits, labels = sample()
    small = logits[:, ::2, ::3]  # 3×3 for labels of 6×7
    resized = np.stack([cv2.resize(x, (7, 6), interpolation=cv2.INTER_LINEAR) for x in small])
    np.testing.assert_allclose(cross_entropy(small, labels), reference(resized, labels)[0], rtol=1e-5)


def test_loss_is_zero_if_all_pixels_are_ignored():
    logits, labels = sample(scale=1e4)
    loss, gradient = jax.value_and_grad(cross_entropy)(logits, np.full_like(labels, 255))
    assert loss == 0
    assert not np.asarray(gradient).any()


def test_shares_of_devices_add_up():
    """Also with different numbers of ignored pixels, and if all pixels of a device are ignored."""
    logits, labels = sample(seed=1)
    labels[0] = 255
    labels[1, :2] = 255
    on_devices = jax.vmap(partial(cross_entropy, axis_name="devices"), axis_name="devices")
    shares = on_devices(logits[:, None], labels[:, None])
    assert shares[0] == 0
    np.testing.assert_allclose(shares.sum(), reference(logits, labels)[0], rtol=1e-5)
