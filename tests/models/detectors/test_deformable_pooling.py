"""Deformable RoI pooling against a plain NumPy form and values by hand, with its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models.detectors.deformable_pooling import deformable_roi_pool
from tests.models import gradients
from tests.models.detectors.pooling import BOXES, IMAGES, LEVELS, SCALES, box_by_box, maps


def weights(start, end, offset, p, length, scale, bins, samples):
    """Weights of the cells along one axis of bin p, or None if no sample counts."""
    start, end = (np.floor(x + 0.5) * scale - 0.5 for x in (start, end))
    size = max(end - start, 0.1)
    at = start + p * size / bins + offset * size + np.arange(samples) * size / bins / samples
    at = np.clip(at[(at >= -0.5) & (at <= length - 0.5)], 0, length - 1)
    return np.maximum(0, 1 - abs(at[:, None] - np.arange(length))).mean(0) if len(at) else None


def plain(map, boxes, scale, offsets, bins, samples):
    result = np.zeros((len(boxes), bins, bins, map.shape[-1]))
    for r, p, q in np.ndindex(result.shape[:3]):
        left, top, right, bottom = boxes[r]
        dy, dx = offsets[r, p, q]
        rows = weights(top, bottom, dy, p, map.shape[0], scale, bins, samples)
        columns = weights(left, right, dx, q, map.shape[1], scale, bins, samples)
        if rows is not None and columns is not None:
            result[r, p, q] = np.einsum("y,x,yxc->c", rows, columns, map)
    return result


def offsets(bins, scale=0.1, seed=1):
    return scale * np.random.default_rng(seed).normal(size=(len(BOXES), bins, bins, 2))


def expected(maps, offsets, bins, samples):
    return box_by_box(
        lambda r, map, scale: plain(map, BOXES[r : r + 1], scale, offsets[r : r + 1], bins, samples)[0],
        maps,
        BOXES,
        IMAGES,
        LEVELS,
    )


@functools.cache
def compiled(bins, samples):
    def pool(maps, boxes, images, levels, offsets=None, lengths=None):
        return deformable_roi_pool(maps, boxes, images, levels, SCALES, offsets, bins, samples, lengths)

    return jax.jit(pool)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def pool(map, boxes, offsets, bins, samples, scale=1.0):
    """Of one map `[h,w]`: `[r,bins,bins]`."""
    zeros = np.zeros(len(boxes), int)
    return deformable_roi_pool([map[None, ..., None]], boxes, zeros, zeros, [scale], offsets, bins, samples)[..., 0]


# 1 bin: the samples are several cells apart. 6 bins: most of them are within the same cells.
@pytest.mark.parametrize("bins, samples, scale", [(1, 4, 0.1), (3, 2, 0.5), (6, 3, 0.1)])
def test_values_and_gradients(bins, samples, scale):
    gradients.check_against(
        lambda o, m: deformable_roi_pool(m, jnp.asarray(BOXES), IMAGES, LEVELS, SCALES, o, bins, samples),
        lambda o, m: expected(m, o, bins, samples),
        None,
        maps(),
        params=offsets(bins, scale),
    )


def test_no_offsets():
    inputs = [jnp.asarray(m, jnp.float32) for m in maps()]
    args = inputs, jnp.float32(BOXES), IMAGES, LEVELS
    values, pull = jax.vjp(lambda m: compiled(3, 2)(m, *args[1:]), inputs)
    zeros, pull_zeros = jax.vjp(lambda m: compiled(3, 2)(m, *args[1:], jnp.zeros((len(BOXES), 3, 3, 2))), inputs)
    np.testing.assert_allclose(values, expected(maps(), np.zeros((len(BOXES), 3, 3, 2)), 3, 2), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values, zeros, rtol=1e-6, atol=1e-6)
    for actual, other in zip(pull(values)[0], pull_zeros(values)[0], strict=True):
        np.testing.assert_allclose(actual, other, rtol=1e-5, atol=1e-5)


def test_by_hand():
    """Cell (y, x) of the map is 10·y + x, so the result is 10 times the mean of the rows plus the mean of the columns."""
    map = np.float32(10 * np.arange(5)[:, None] + np.arange(6))
    cases = (  # offset (dy, dx), mean of the rows, mean of the columns
        ((0, 0), 0.75, 0.75),  # samples at −½, which is moved to 0, and at 1½
        ((0.25, 0), 1.5, 0.75),  # rows ½ and 2½
        ((0, 0.25), 0.75, 1.5),
        ((0, -0.5), 0.75, 0),  # column −2½ does not count; column −½ does
        ((0, 1.5), 0.75, 5),  # column 5½ counts and is moved to 5; column 7½ does not
        ((1.5, 0), 0, 0),  # no row counts
    )
    offsets, rows, columns = (np.float32(x) for x in zip(*cases, strict=True))
    boxes = np.tile(np.float32((0, 0, 4, 4)), (len(cases), 1))
    actual = pool(map, boxes, offsets[:, None, None], 1, 2)[:, 0, 0]
    np.testing.assert_allclose(actual, (10 * rows + columns) * (rows > 0), rtol=1e-6)


def test_edges_are_rounded_to_whole_pixels():
    """Halves up: the box is (1, 2, 3, 4). Rows 1½, 2, 2½ and 3, and columns ½, 1, 1½ and 2."""
    map = np.float32(10 * np.arange(5)[:, None] + np.arange(6))
    actual = pool(map, np.float32([(0.5, 1.5, 3.4, 4.4)]), np.zeros((1, 2, 2, 2), np.float32), 2, 2)
    np.testing.assert_allclose(actual, [[[18.25, 19.25], [28.25, 29.25]]], rtol=1e-6)


@pytest.mark.parametrize(
    "scale, row, column",
    [
        (1.0, 2.875, 0.875),  # rows 2½, 2¾, 3 and 3¼, columns ½, ¾, 1 and 1¼
        (0.5, 1.1875, 0.1875),  # rows 1, 1⅛, 1¼ and 1⅜, columns 0, ⅛, ¼ and ⅜
    ],
)
def test_box_of_one_pixel(scale, row, column):
    map = np.float32(10 * np.arange(5)[:, None] + np.arange(6))
    actual = pool(map, np.float32([(1, 3, 2, 4)]), np.zeros((1, 1, 1, 2), np.float32), 1, 4, scale)
    np.testing.assert_allclose(actual, [[[10 * row + column]]], rtol=1e-6)


def test_gradient_at_the_centre_of_a_cell():
    """It is the slope to the right, 7 − 2, times the width of the box. The slope to the left is 2 − 1."""
    map, box = np.float32([[1, 2, 7]]), np.float32([(0, 0, 3, 1)])
    gradient = jax.grad(lambda o: pool(map, box, o, 1, 1).sum())(jnp.array([[[[0, 0.5]]]]))
    np.testing.assert_allclose(gradient, [[[[0, 15]]]], atol=1e-5)


@pytest.mark.parametrize("value", [1e3, -1e9, np.inf, -np.inf, np.nan])
def test_offsets_that_leave_the_map(value):
    """The bin is 0 and has no gradient; the others do not change."""
    inputs, moved = [jnp.asarray(m, jnp.float32) for m in maps()], jnp.float32(offsets(3))
    far = moved.at[:, 1, 2, 0].set(value)
    places = jnp.float32(BOXES), IMAGES, LEVELS
    values, pull = jax.vjp(lambda m, o: compiled(3, 2)(m, *places, o), inputs, far)
    usual, pull_usual = jax.vjp(lambda m, o: compiled(3, 2)(m, *places, o), inputs, moved)
    np.testing.assert_array_equal(values, usual.at[:, 1, 2].set(0))
    actual, expected = pull(usual), pull_usual(values)
    for a, e in zip(actual[0], expected[0], strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)
    assert (actual[1][:, 1, 2] == 0).all()
    kept = np.ones((3, 3, 1), bool)
    kept[1, 2] = False
    np.testing.assert_allclose(actual[1], jnp.where(kept, expected[1], 0), rtol=1e-5, atol=1e-5)


def test_boxes_of_nan():
    """Every cell that is read or written exists, the bins are 0, and all gradients are finite."""
    inputs, moved = [jnp.asarray(m, jnp.float32) for m in maps()], jnp.float32(offsets(3))
    boxes = jnp.float32(BOXES)
    spoilt = boxes.at[::2].set(np.nan).at[1, 2].set(np.inf).at[3].set(3e38).at[5, 0].set(-np.inf).at[7, 3].set(np.nan)
    kept = np.isin(np.arange(len(BOXES)), (9, 11))
    values, pull = jax.vjp(lambda m, o: compiled(3, 2)(m, spoilt, IMAGES, LEVELS, o), inputs, moved)
    usual, pull_usual = jax.vjp(lambda m, o: compiled(3, 2)(m, boxes, IMAGES, LEVELS, o), inputs, moved)
    kept = kept[:, None, None, None].astype(np.float32)
    np.testing.assert_array_equal(values, usual * kept)
    actual, expected = pull(jnp.ones_like(values)), pull_usual(kept * jnp.ones_like(values))
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_boxes_have_no_gradient():
    inputs = [jnp.asarray(m, jnp.float32) for m in maps()]
    gradient = jax.grad(lambda b: compiled(3, 2)(inputs, b, IMAGES, LEVELS, jnp.float32(offsets(3))).sum())(
        jnp.float32(BOXES)
    )
    assert (gradient == 0).all()


def test_padding_is_not_read():
    """Maps with padding of NaN have the values and the gradients of the maps alone."""
    alone = [jnp.asarray(m, jnp.float32) for m in maps()]
    padded = [jnp.pad(m, ((0, 0), (0, 2), (0, 3), (0, 0)), constant_values=np.nan) for m in alone]
    lengths = np.array([m.shape[1:3] for m in alone])[LEVELS]
    places, moved = (jnp.float32(BOXES), IMAGES, LEVELS), jnp.float32(offsets(3, 0.5))
    values, pull = jax.vjp(lambda m, o: compiled(3, 2)(m, *places, o), alone, moved)
    actual, pull_padded = jax.vjp(lambda m, o: compiled(3, 2)(m, *places, o, lengths), padded, moved)
    np.testing.assert_array_equal(actual, values)
    (of_maps, of_offsets), (of_padded, of_same_offsets) = pull(values), pull_padded(values)
    np.testing.assert_array_equal(of_same_offsets, of_offsets)
    for a, e in zip(of_padded, of_maps, strict=True):
        np.testing.assert_array_equal(a, jnp.pad(e, ((0, 0), (0, 2), (0, 3), (0, 0))))


def test_maps_of_half_precision():
    """The sums and the gradients of the offsets are of float32."""
    half = [jnp.asarray(m, jnp.bfloat16) for m in maps()]
    full = [m.astype(jnp.float32) for m in half]
    places, moved = (jnp.float32(BOXES), IMAGES, LEVELS), jnp.float32(offsets(3))
    values, pull = jax.vjp(lambda m, o: compiled(3, 2)(m, *places, o), half, moved)
    exact, pull_exact = jax.vjp(lambda m, o: compiled(3, 2)(m, *places, o), full, moved)
    np.testing.assert_array_equal(values, exact.astype(jnp.bfloat16))
    actual, expected = pull(jnp.ones_like(values)), pull_exact(jnp.ones_like(exact))
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-5, atol=1e-5)
    for a, e in zip(actual[0], expected[0], strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), e, rtol=0.005, atol=1e-6)


def test_vmap():
    boxes, moved = np.stack([BOXES, BOXES[::-1]]).astype(np.float32), jnp.float32([offsets(3), offsets(3, 0.3)])
    inputs = [jnp.asarray(m, jnp.float32) for m in maps()]

    def one(boxes, moved):
        values, pull = jax.vjp(lambda m, o: compiled(3, 2)(m, boxes, IMAGES, LEVELS, o), inputs, moved)
        return values, pull(values)

    both = [one(*args) for args in zip(boxes, moved, strict=True)]
    expected = jax.tree.map(lambda *x: jnp.stack(x), *both)
    for a, e in zip(jax.tree.leaves(jax.vmap(one)(boxes, moved)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_no_boxes():
    inputs = [jnp.asarray(m, jnp.float32) for m in maps()]
    none = np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3, 3, 2), np.float32)
    values, pull = jax.vjp(lambda m: compiled(3, 2)(m, *none), inputs)
    assert values.shape == (0, 3, 3, 2)
    assert all((g == 0).all() for g in pull(values)[0])
