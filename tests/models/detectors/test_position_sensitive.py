"""Position-sensitive RoI pooling against a plain NumPy form and values by hand, with its gradients."""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models.detectors.position_sensitive import ps_roi_pool
from tests.models import gradients
from tests.models.detectors.pooling import BOXES, IMAGES, LEVELS, SCALES, box_by_box, maps


def whole(x, rounding):
    """`x` as a whole number: halves up, or away from 0."""
    x = Fraction(float(x))
    up = math.floor(x + Fraction(1, 2))
    return up if rounding == "release" or x >= 0 else -math.floor(-x + Fraction(1, 2))


def cells(start, end, p, length, scale, bins, rounding):
    """First cell of bin p along one axis, and the cell after its last one."""
    if rounding == "release":
        start, end, smallest = whole(start, rounding) * Fraction(scale), whole(end, rounding) * Fraction(scale), 0.1
    else:
        start, end, smallest = whole(start * scale, rounding), whole(end * scale, rounding), 1
        length -= 1  # torchvision reads neither the last row nor the last column
    size = max(end - start, Fraction(smallest))
    limits = math.floor(start + p * size / bins), math.ceil(start + (p + 1) * size / bins)
    return [min(max(limit, 0), length) for limit in limits]


def plain(map, boxes, scale, bins, groups, rounding):
    map = map.reshape(*map.shape[:2], groups, groups, -1)
    result = np.zeros((len(boxes), bins, bins, map.shape[-1]))
    for r, p, q in np.ndindex(result.shape[:3]):
        left, top, right, bottom = boxes[r]
        first, last = cells(top, bottom, p, map.shape[0], scale, bins, rounding)
        left, right = cells(left, right, q, map.shape[1], scale, bins, rounding)
        window = map[first:last, left:right, p * groups // bins, q * groups // bins]
        if window.size:
            result[r, p, q] = window.mean((0, 1))
    return result


def expected(maps, boxes, images, levels, bins, groups, rounding):
    return box_by_box(
        lambda r, map, scale: plain(map, boxes[r : r + 1], scale, bins, groups, rounding)[0],
        maps,
        boxes,
        images,
        levels,
    )


@functools.cache
def compiled(bins, groups, rounding):
    def pool(maps, boxes, images, levels, lengths=None):
        return ps_roi_pool(maps, boxes, images, levels, SCALES, bins, groups, lengths, rounding)

    return jax.jit(pool)


KINDS = pytest.mark.parametrize("bins, groups, rounding", [(3, 3, "torchvision"), (4, 2, "release"), (3, 2, "release")])


@KINDS
def test_values_and_gradients(bins, groups, rounding):
    gradients.check_against(
        lambda _, m: ps_roi_pool(m, jnp.asarray(BOXES), IMAGES, LEVELS, SCALES, bins, groups, rounding=rounding),
        lambda _, m: expected(m, BOXES, IMAGES, LEVELS, bins, groups, rounding),
        None,
        maps(2 * groups**2),
        params={},
    )


@KINDS
def test_every_box_on_every_map(bins, groups, rounding):
    r = len(BOXES)
    boxes, images, levels = np.tile(BOXES, (6, 1)), np.repeat(np.arange(6) % 2, r), np.repeat(np.arange(6) // 2, r)
    inputs = maps(groups**2)
    actual = compiled(bins, groups, rounding)([m.astype(np.float32) for m in inputs], np.float32(boxes), images, levels)
    correct = expected(inputs, boxes, images, levels, bins, groups, rounding)
    np.testing.assert_allclose(actual, correct, rtol=1e-5, atol=1e-5)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def pool(map, boxes, scale, bins, groups, rounding):
    """Of one map `[h,w,c]`: `[r,bins,bins,c]`."""
    zeros = np.zeros(len(boxes), int)
    return ps_roi_pool([map[None]], boxes, zeros, zeros, [scale], bins, groups, rounding=rounding)


def test_by_hand():
    """Cell (y, x) is 10·y + x + 100·(row of the group) + 1000·(column of the group)."""
    row, column = np.arange(2)[:, None], np.arange(2)
    map = 10 * np.arange(4)[:, None] + np.arange(6)
    map = (map[..., None, None] + 100 * row + 1000 * column).reshape(4, 6, 4).astype(np.float32)
    boxes = np.float32(
        [
            (0, 0, 4, 2),  # rows 0 | 1 and columns 0–1 | 2–3
            (0, 0, 3, 2),  # limits 0, 1½ and 3: column 1 is in both bins
            (2, 1, 3, 2),  # one pixel: both bins are its cell
            (2, 1, 2, 1),  # no area: 0.1 cells, both bins are the cell behind the corner
            (-2, 0, 2, 2),  # the first bin is empty
            (4, 2, 8, 6),  # the second bins are empty
            (7, 0, 9, 2),  # outside
            (1.4, 0.5, 5.5, 3.4),  # (1, 1, 6, 3): rows 1 | 2, columns 1–3 | 3–5
        ]
    )
    rows = [(0, 1), (0, 1), (1, 1), (1, 1), (0, 1), (2.5, None), (0, 1), (1, 2)]
    columns = [(0.5, 2.5), (0.5, 1.5), (2, 2), (2, 2), (None, 0.5), (4.5, None), (None, None), (2, 4)]
    correct = [
        [
            [0 if y is None or x is None else 10 * y + x + 100 * p + 1000 * q for q, x in enumerate(columns[r])]
            for p, y in enumerate(rows[r])
        ]
        for r in range(len(boxes))
    ]
    actual = pool(map, boxes, 1.0, 2, 2, "release")[..., 0]
    np.testing.assert_allclose(actual, correct, rtol=1e-6)


def test_rounding_of_torchvision():
    """Of a map of stride 4: to whole cells, halves away from 0, and at least 1 cell. Row 1 and column 5 are not read."""
    map = np.stack([np.arange(6, dtype=np.float32), np.full(6, np.nan, np.float32)])[..., None]
    boxes = np.float32([(2, 0, 10, 4), (-2, 0, 9, 4), (8, 0, 8, 4), (7, 0, 9, 4), (5.9, 0, 14, 8), (10, 0, 40, 4)])
    # Columns 1–2; −1–1, without −1; 2; 2; 1–3; 3–4.
    np.testing.assert_allclose(pool(map, boxes, 0.25, 1, 1, "torchvision")[:, 0, 0, 0], [1.5, 0.5, 2, 2, 2, 3.5])


@pytest.mark.parametrize("bins, rounding", [(7, "torchvision"), (21, "release")])
def test_limits_are_those_of_exact_numbers(bins, rounding):
    """The means of x and x² tell which cells were read. In float32, 57/7 · 7 is more than 57."""
    length = 70
    rng = np.random.default_rng(0)
    start, size = rng.integers(0, 16 * 20, 400), rng.integers(0, 16 * 40, 400)
    start[:60], size[:60] = 16 * (np.arange(60) % 3), 16 * np.arange(60)
    boxes = np.stack([start, 0 * start, start + size, 0 * start + 16], -1).astype(np.float32)
    x = np.arange(length, dtype=np.float32)
    map = np.stack([x, x**2], -1)[None].repeat(2, 0)
    actual = pool(map, boxes, 1 / 16, bins, 1, rounding)[:, 0]
    correct = np.zeros((len(boxes), bins, 2))
    for r, q in np.ndindex(correct.shape[:2]):
        first, end = cells(boxes[r, 0], boxes[r, 2], q, length, 1 / 16, bins, rounding)
        if first < end:
            correct[r, q] = x[first:end].mean(), (x[first:end] ** 2).mean()
    np.testing.assert_allclose(actual, correct, rtol=1e-5)


def test_bins_as_large_as_the_map():
    map, box = maps(1)[0][0], np.float32([(0, 0, 60, 48)])
    actual = pool(np.float32(map), box, 0.25, 1, 1, "release")
    np.testing.assert_allclose(actual, map.mean((0, 1), keepdims=True)[None], rtol=1e-5)


@pytest.mark.parametrize("rounding", ["torchvision", "release"])
def test_boxes_of_nan(rounding):
    """Every cell that is read or written exists, and the bins are 0."""
    inputs, boxes = [jnp.asarray(m, jnp.float32) for m in maps(4)], jnp.float32(BOXES)
    spoilt = boxes.at[::2].set(np.nan).at[1, 2].set(np.inf).at[3].set(3e38).at[5, 0].set(-np.inf).at[7, 3].set(np.nan)
    kept = np.isin(np.arange(len(BOXES)), (9, 11))[:, None, None, None].astype(np.float32)
    values, pull = jax.vjp(lambda m: compiled(2, 2, rounding)(m, spoilt, IMAGES, LEVELS), inputs)
    usual, pull_usual = jax.vjp(lambda m: compiled(2, 2, rounding)(m, boxes, IMAGES, LEVELS), inputs)
    np.testing.assert_array_equal(values, usual * kept)
    for a, e in zip(pull(jnp.ones_like(values))[0], pull_usual(kept * jnp.ones_like(values))[0], strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_boxes_have_no_gradient():
    inputs = [jnp.asarray(m, jnp.float32) for m in maps(4)]
    gradient = jax.grad(lambda b: compiled(2, 2, "release")(inputs, b, IMAGES, LEVELS).sum())(jnp.float32(BOXES))
    assert (gradient == 0).all()


def test_padding_is_not_read():
    """Maps with padding of NaN have the values and the gradients of the maps alone."""
    alone = [jnp.asarray(m, jnp.float32) for m in maps(4)]
    padded = [jnp.pad(m, ((0, 0), (0, 2), (0, 3), (0, 0)), constant_values=np.nan) for m in alone]
    lengths = np.array([m.shape[1:3] for m in alone])[LEVELS]
    places = jnp.float32(BOXES), IMAGES, LEVELS
    values, pull = jax.vjp(lambda m: compiled(4, 2, "release")(m, *places), alone)
    actual, pull_padded = jax.vjp(lambda m: compiled(4, 2, "release")(m, *places, lengths), padded)
    np.testing.assert_array_equal(actual, values)
    for a, e in zip(pull_padded(values)[0], pull(values)[0], strict=True):
        np.testing.assert_array_equal(a, jnp.pad(e, ((0, 0), (0, 2), (0, 3), (0, 0))))


def test_maps_of_half_precision():
    """The sums are of float32."""
    half = [jnp.asarray(m, jnp.bfloat16) for m in maps(4)]
    full = [m.astype(jnp.float32) for m in half]
    places = np.tile(BOXES, (20, 1)).astype(np.float32), np.tile(IMAGES, 20), np.tile(LEVELS, 20)
    values, pull = jax.vjp(lambda m: compiled(4, 2, "release")(m, *places), half)
    exact, pull_exact = jax.vjp(lambda m: compiled(4, 2, "release")(m, *places), full)
    np.testing.assert_array_equal(values, exact.astype(jnp.bfloat16))
    for a, e in zip(pull(jnp.ones_like(values))[0], pull_exact(jnp.ones_like(exact))[0], strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), e, rtol=0.005, atol=1e-6)


def test_vmap():
    boxes = np.stack([BOXES, BOXES[::-1]]).astype(np.float32)
    inputs = [jnp.asarray(m, jnp.float32) for m in maps(4)]

    def one(boxes):
        values, pull = jax.vjp(lambda m: compiled(4, 2, "release")(m, boxes, IMAGES, LEVELS), inputs)
        return values, pull(values)

    expected = jax.tree.map(lambda *x: jnp.stack(x), *(one(b) for b in boxes))
    for a, e in zip(jax.tree.leaves(jax.vmap(one)(boxes)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_no_boxes():
    inputs = [jnp.asarray(m, jnp.float32) for m in maps(4)]
    none = np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, int)
    values, pull = jax.vjp(lambda m: compiled(2, 2, "release")(m, *none), inputs)
    assert values.shape == (0, 2, 2, 1)
    assert all((g == 0).all() for g in pull(values)[0])
