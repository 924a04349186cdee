"""Boxes against the NumPy reference and against what torchvision computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models.detectors import boxes
from tests.models import gradients
from tests.references import detection_numpy as reference

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
RECORDED = np.load(reference.RECORDED)


def random_boxes(n, seed=0):
    start, size = np.random.default_rng(seed).uniform((-20, 1), (50, 40), (2, n, 2)).transpose(2, 0, 1).reshape(2, n, 2)
    return np.concatenate([start, start + size], -1).astype(np.float32)


def recorded(case):
    return {key.split("/")[1]: value.astype(np.float32) for key, value in RECORDED.items() if key.split("/")[0] == case}


def test_iou():
    a, b = random_boxes(100), random_boxes(7, seed=1)
    a[0] = a[1]
    a[2] = b[0]
    a[3, 2] = a[3, 0]  # no width
    a[4] = b[1] = 5  # no area
    iou = jax.jit(boxes.iou)(a, b)
    np.testing.assert_allclose(iou, reference.iou(a, b), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(boxes.area(a), [reference.area(box) for box in a], rtol=1e-5)
    assert iou[2, 0] == 1 and iou[4, 1] == 0
    case = recorded("iou")
    np.testing.assert_allclose(boxes.iou(case["a"], case["b"]), case["iou"], rtol=1e-5, atol=1e-6)


def test_coding():
    a, b = random_boxes(30), random_boxes(30, seed=1)
    deltas = boxes.encode(a, b, WEIGHTS)
    np.testing.assert_allclose(deltas, reference.encode(a, b, WEIGHTS), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(boxes.decode(deltas, b, WEIGHTS), a, rtol=1e-5, atol=1e-4)
    batched = jax.vmap(jax.vmap(lambda a, b: boxes.encode(a, b, WEIGHTS)))(a.reshape(5, 6, 4), b.reshape(5, 6, 4))
    np.testing.assert_allclose(batched.reshape(30, 4), deltas, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["coder_rpn", "coder_heads"])
def test_coding_is_torchvisions(name):
    case = recorded(name)
    weights = tuple(case["weights"])
    encoded = boxes.encode(case["boxes"], case["anchors"], weights)
    np.testing.assert_allclose(encoded, case["encoded"], rtol=1e-5, atol=1e-5)
    decoded = boxes.decode(case["deltas"], case["anchors"], weights)
    np.testing.assert_allclose(decoded, case["decoded"], rtol=1e-5, atol=1e-4)


def test_gradients_of_the_coding():
    deltas = np.random.default_rng(0).normal(0, 2, (6, 4))
    deltas[0, 2] = 30  # above the limit: 100 widths of the anchor
    anchors = random_boxes(6).astype(np.float64)
    for ours, theirs in ((boxes.decode, reference.decode), (lambda a, b, w: boxes.encode(b + a, b, w), encode_moved)):
        gradients.check_against(
            lambda _, x, ours=ours: ours(x, anchors, WEIGHTS),
            lambda _, x, theirs=theirs: theirs(x, anchors, WEIGHTS),
            None,
            deltas / 10 if theirs is encode_moved else deltas,
            params={},
        )


def encode_moved(moves, anchors, weights):
    return reference.encode(anchors + moves, anchors, weights)


def test_coding_of_boxes_without_area_is_finite():
    """Padding is boxes of zeros. Neither its deltas nor their gradients may be infinite: 0 · ∞ is no 0."""
    a, b = random_boxes(4), random_boxes(4, seed=1)
    a[0] = 0
    b[1] = 0
    a[2, 2] = a[2, 0]
    a[3, 3] = a[3, 1]

    def loss(a, b):
        deltas = boxes.encode(a, b, WEIGHTS)
        return (deltas * jnp.arange(1, 17).reshape(4, 4)).sum(), deltas

    (_, deltas), gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(a, b)
    assert (deltas[:2] == 0).all() and (deltas[2, ::2] == 0).all() and (deltas[3, 1::2] == 0).all()
    assert (deltas[2, 1::2] != 0).all() and (deltas[3, ::2] != 0).all()
    assert all(np.isfinite(g).all() for g in gradient)


def test_clip():
    case = recorded("clip")
    np.testing.assert_allclose(boxes.clip(case["boxes"], (48, 60)), case["clipped"], rtol=1e-6)
    outside = np.float32([[-9, -9, -2, -3], [70, 5, 90, 9], [-5, -5, 100, 100]])
    size = jnp.array([48, 60])
    clipped = jax.jit(boxes.clip)(outside, size)  # sizes of images are traced
    np.testing.assert_array_equal(clipped, reference.clip(outside, (48, 60)))
    np.testing.assert_array_equal(boxes.area(clipped), [0, 0, 48 * 60])
