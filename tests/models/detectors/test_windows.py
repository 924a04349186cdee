"""The poolings on devices other than CPUs: all boxes at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models.detectors.deformable_pooling import deformable_roi_pool
from ctxseg.models.detectors.position_sensitive import ps_roi_pool
from tests.models.detectors.pooling import BOXES, IMAGES, LEVELS, SCALES, maps

OFFSETS = 0.1 * np.random.default_rng(1).normal(size=(len(BOXES), 4, 4, 2))
PLACES = jnp.float32(BOXES), IMAGES, LEVELS, SCALES


@pytest.mark.parametrize(
    "pool",
    [
        lambda maps, offsets: deformable_roi_pool(maps, *PLACES, offsets, 4),
        lambda maps, _: deformable_roi_pool(maps, *PLACES, None, 4),
        lambda maps, _: ps_roi_pool(maps, *PLACES, 4, 2, rounding="release"),
    ],
    ids=["deformable", "without offsets", "position-sensitive"],
)
def test_all_boxes_at_once(pool, monkeypatch):
    inputs = [jnp.asarray(m, jnp.float32) for m in maps(4)], jnp.float32(OFFSETS)

    def values_and_gradients():
        def one(inputs):
            values, pull = jax.vjp(pool, *inputs)
            return values, pull(values)

        return jax.tree.leaves(jax.jit(one)(inputs))

    expected = values_and_gradients()
    used = []

    def on_another_device(*args, cpu, default):
        used.append(default)
        return default(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", on_another_device)
    for a, e in zip(values_and_gradients(), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)
    assert {"_sums", "pull"} <= {function.__name__ for function in used}  # the values, and the gradients
