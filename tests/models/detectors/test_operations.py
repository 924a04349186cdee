"""Pooling of regions and soft-NMS against references that were written without looking at them, and torchvision's recorded outputs."""

import functools

import jax
import numpy as np
import pytest

from ctxseg.models.detectors.deformable_pooling import deformable_roi_pool
from ctxseg.models.detectors.heads import detect
from ctxseg.models.detectors.position_sensitive import ps_roi_pool
from tests.models.detectors import pooling
from tests.references import deformable as reference
from tests.references import published_deformable as published

pytestmark = pytest.mark.usefixtures("plain_convolutions")


def test_position_sensitive_pooling_equals_torchvisions():
    """Values, and the gradient of the maps. torchvision's gradient also has the last row and column, which its values do not read."""
    case, recorded = published.pooling(), published.recorded_pooling()
    boxes, images = case["boxes"], case["images"]

    def pool(maps):
        levels = np.zeros_like(images)
        return ps_roi_pool([maps], boxes, images, levels, [published.SCALE], published.BINS, published.BINS)

    @jax.jit
    def both(maps, cotangent):
        output, pull = jax.vjp(pool, maps)
        return output, pull(cotangent)[0]

    output, _ = both(case["maps"], case["cotangent"])
    np.testing.assert_allclose(output, recorded["output"], rtol=1e-5, atol=1e-5)
    larger = np.pad(case["maps"], ((0, 0), (0, 1), (0, 1), (0, 0)))
    output, gradient = both(larger, case["cotangent"])
    np.testing.assert_allclose(output, recorded["output_of_larger_maps"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient[:, :-1, :-1], recorded["maps"], rtol=1e-5, atol=1e-5)
    assert not np.asarray(gradient)[:, -1].any() and not np.asarray(gradient)[:, :, -1].any()


@pytest.mark.parametrize("bins, groups", [(6, 2), (3, 3)])
def test_position_sensitive_pooling_of_the_release(bins, groups):
    maps = pooling.maps(2 * groups**2)
    places = pooling.BOXES, pooling.IMAGES, pooling.LEVELS
    pool = functools.partial(ps_roi_pool, bins=bins, groups=groups, rounding="release", scales=pooling.SCALES)
    actual = jax.jit(lambda maps: pool(maps, *places))([np.float32(x) for x in maps])

    def one(r, map, scale):
        return reference.ps_roi_pool(map, pooling.BOXES[r : r + 1], scale, bins, groups, "release")[0]

    np.testing.assert_allclose(actual, pooling.box_by_box(one, maps, *places), atol=1e-5)


@pytest.mark.parametrize("bins, samples, shifted", [(7, 4, True), (3, 2, True), (7, 4, False)])
def test_deformable_pooling(bins, samples, shifted):
    maps = pooling.maps()
    places = pooling.BOXES, pooling.IMAGES, pooling.LEVELS
    offsets = np.random.default_rng(1).normal(0, 0.3, (len(pooling.BOXES), bins, bins, 2)) if shifted else None
    pool = functools.partial(deformable_roi_pool, bins=bins, samples=samples, scales=pooling.SCALES)
    actual = jax.jit(lambda maps, offsets: pool(maps, *places, offsets=offsets))(
        [np.float32(x) for x in maps], None if offsets is None else np.float32(offsets)
    )

    def one(r, map, scale):
        own = None if offsets is None else offsets[r : r + 1]
        return reference.deformable_roi_pool(map, pooling.BOXES[r : r + 1], scale, own, bins, samples)[0]

    np.testing.assert_allclose(actual, pooling.box_by_box(one, maps, *places), atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
def test_soft_nms(kind):
    rng = np.random.default_rng(3)
    corner, size = rng.uniform(0, 30, (40, 2)), rng.uniform(10, 20, (40, 2))
    boxes, scores = np.float32(np.concatenate([corner, corner + size], 1)), np.float32(rng.uniform(0.1, 1, 40))
    _, actual, _, rows, _ = jax.jit(lambda *inputs: detect(*inputs, 0.0, 0.5, 20, kind))(
        scores[:, None], boxes[:, None], np.ones(40, bool)
    )
    expected_rows, expected = reference.soft_nms(boxes, scores, 0.5, kind, 20)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
