"""RoIAlign against the NumPy reference and torchvision's, with its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models.detectors import roi_align
from tests.models import gradients
from tests.models.detectors.pooling import BOXES, IMAGES, LEVELS, SCALES, maps
from tests.references import detection_numpy as reference

RECORDED = np.load(reference.RECORDED)


def expected(maps, boxes, images, levels, bins, samples, aligned):
    return np.stack(
        [
            reference.roi_align(maps[level][image], box, SCALES[level], bins, samples, aligned)
            for box, image, level in zip(boxes, images, levels, strict=True)
        ]
    )


@functools.cache
def compiled(bins, samples, aligned):
    return jax.jit(lambda *args: roi_align.roi_align(*args, SCALES, bins, samples, aligned))


@pytest.mark.parametrize("aligned", [False, True])
def test_values_and_gradients(aligned):
    gradients.check_against(
        lambda _, maps: roi_align.roi_align(maps, jnp.asarray(BOXES), IMAGES, LEVELS, SCALES, 3, 2, aligned),
        lambda _, maps: expected(maps, BOXES, IMAGES, LEVELS, 3, 2, aligned),
        None,
        maps(),
        params={},
    )


def test_every_box_on_every_map():
    r = len(BOXES)
    boxes, images, levels = np.tile(BOXES, (6, 1)), np.repeat(np.arange(6) % 2, r), np.repeat(np.arange(6) // 2, r)
    actual = compiled(2, 1, True)([m.astype(np.float32) for m in maps()], boxes.astype(np.float32), images, levels)
    np.testing.assert_allclose(actual, expected(maps(), boxes, images, levels, 2, 1, True), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bins, samples", [(7, 2), (3, 1)])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_is_torchvisions(bins, samples, aligned):
    features, boxes = (RECORDED[f"roi_align/{key}"].astype(np.float32) for key in ("map", "boxes"))
    zeros = np.zeros(len(boxes), int)
    actual = compiled(bins, samples, aligned)([features[None]], boxes, zeros, zeros)
    name = f"roi_align/bins{bins}_samples{samples}_{'aligned' if aligned else 'not_aligned'}"
    np.testing.assert_allclose(actual, RECORDED[name], rtol=1e-5, atol=1e-5)


def test_boxes_have_no_gradient():
    inputs = [jnp.asarray(m, jnp.float32) for m in maps()]
    gradient = jax.grad(lambda boxes: compiled(3, 1, True)(inputs, boxes, IMAGES, LEVELS).sum())(jnp.float32(BOXES))
    assert (gradient == 0).all()


def test_maps_of_half_precision():
    """The sums are of float32; only the maps, the result and the gradient are of bfloat16, which cannot add many boxes."""
    half = [jnp.asarray(m, jnp.bfloat16) for m in maps()]
    full = [m.astype(jnp.float32) for m in half]
    places = np.tile(BOXES, (60, 1)).astype(np.float32), np.tile(IMAGES, 60), np.tile(LEVELS, 60)
    values, pull = jax.vjp(lambda m: compiled(3, 1, True)(m, *places), half)
    exact, pull_exact = jax.vjp(lambda m: compiled(3, 1, True)(m, *places), full)
    np.testing.assert_array_equal(values, exact.astype(jnp.bfloat16))
    for g, e in zip(pull(jnp.ones_like(values))[0], pull_exact(jnp.ones_like(exact))[0], strict=True):
        assert g.dtype == jnp.bfloat16
        np.testing.assert_allclose(g.astype(jnp.float32), e, rtol=0.005, atol=1e-6)


def test_boxes_of_nan():
    """A diverging network proposes them. Every cell that is read or written exists, and nothing is added to the maps' gradient."""
    inputs, boxes = [jnp.asarray(m, jnp.float32) for m in maps()], jnp.float32(BOXES)
    spoilt = boxes.at[::2].set(np.nan).at[1].set(np.inf)
    levels = roi_align.levels_of(spoilt, 2, 4)
    assert ((levels >= 0) & (levels <= 2)).all()
    values, pull = jax.vjp(lambda m: compiled(3, 1, True)(m, spoilt, IMAGES, LEVELS), inputs)
    usual, pull_usual = jax.vjp(lambda m: compiled(3, 1, True)(m, boxes, IMAGES, LEVELS), inputs)
    kept = np.arange(len(BOXES)) % 2 * (np.arange(len(BOXES)) != 1)
    kept = kept[:, None, None, None].astype(np.float32)
    np.testing.assert_array_equal(values, usual * kept)
    for actual, expected in zip(pull(values)[0], pull_usual(values)[0], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_vmap():
    boxes = np.stack([BOXES, BOXES[::-1]]).astype(np.float32)
    inputs = [jnp.asarray(m, jnp.float32) for m in maps()]

    def one(boxes):
        return compiled(3, 1, True)(inputs, boxes, IMAGES, LEVELS)

    np.testing.assert_allclose(jax.vmap(one)(boxes), jnp.stack([one(b) for b in boxes]), rtol=1e-6, atol=1e-6)


def test_levels():
    levels_of = jax.jit(roi_align.levels_of, static_argnums=(1, 2, 3, 4))
    boxes, levels = RECORDED["levels/boxes"], RECORDED["levels/levels"]
    np.testing.assert_array_equal(levels_of(boxes.astype(np.float32), 2, 5), levels - 2)
    assert len(np.unique(levels)) == 4
    boxes = np.array([[0, 0, s, 1.3 * s] for s in np.geomspace(3, 900, 40)])
    expected = [reference.level_of(box, 3, 5, 100, 5) - 3 for box in boxes]
    np.testing.assert_array_equal(levels_of(boxes.astype(np.float32), 3, 5, 100, 5), expected)
