"""Matching against the NumPy reference and torchvision's; sampling by its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models.detectors import matching
from tests.references import detection_numpy as reference

RECORDED = np.load(reference.RECORDED)
RULES = {"rpn": (0.7, 0.3, True), "heads": (0.5, 0.5, False), "gap": (0.7, 0.3, False)}
match = jax.jit(matching.match, static_argnums=(2, 3, 4))
sample = jax.jit(matching.sample, static_argnums=(2, 3))


@pytest.mark.parametrize("rule", RULES)
def test_match(rule):
    iou = np.round(np.random.default_rng(0).random((2, 50, 100)), 1).astype(np.float32)  # many equal ones
    iou[0] *= 0.8
    iou[1] *= np.linspace(0, 1, 50)[:, None]
    valid = np.random.default_rng(1).random((2, 100)) < [[0.03], [0.9]]
    valid[0, 0] = False
    matched = jax.vmap(lambda iou, valid: match(iou, valid, *RULES[rule]))(iou, valid)
    for one, expected_iou, exists in zip(matched, iou, valid, strict=True):
        np.testing.assert_array_equal(one, reference.match(expected_iou, exists, *RULES[rule]))
    assert len(np.unique(matched)) > 3


@pytest.mark.parametrize("case", [0, 1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_match_is_torchvisions(case, rule):
    iou = RECORDED[f"matcher{case}/iou"]
    valid, expected = np.ones(iou.shape[1], bool), RECORDED[f"matcher{case}/{rule}"]
    if case == 2 and rule == "rpn":
        # Object 1 overlaps no box. torchvision matches all boxes that do not touch it.
        assert (expected >= 0).all()
        expected = reference.match(iou, np.arange(6) != 1, *RULES[rule])
    np.testing.assert_array_equal(match(iou.astype(np.float32), valid, *RULES[rule]), expected)


def test_image_without_objects():
    matched = match(np.ones((5, 3), np.float32), np.zeros(3, bool), *RULES["rpn"])
    np.testing.assert_array_equal(matched, [-1] * 5)
    np.testing.assert_array_equal(match(np.ones((5, 3), np.float32), np.zeros(3, bool), 0.5, 0.0, False), [-1] * 5)
    indices, valid, positive = sample(jax.random.key(0), matched, 4, 0.5)
    assert len(set(indices.tolist())) == 4 and valid.all() and not positive.any()


MATCHED = np.repeat([3, -1, 0, -2, -1], [5, 4, 3, 6, 10])  # 8 positives, 14 negatives, 6 neither


@pytest.mark.parametrize(
    "count, share, positives, negatives",
    [(8, 0.25, 2, 6), (20, 0.5, 8, 12), (24, 0.25, 6, 14), (40, 0.3, 8, 14), (6, 1, 6, 0)],
)
def test_sample(count, share, positives, negatives):
    for seed in range(3):
        indices, valid, positive = map(np.asarray, sample(jax.random.key(seed), MATCHED, count, share))
        assert indices.shape == (count,) and ((0 <= indices) & (indices < len(MATCHED))).all()
        np.testing.assert_array_equal(positive, np.arange(count) < positives)
        np.testing.assert_array_equal(valid, np.arange(count) < positives + negatives)
        assert (MATCHED[indices[positive]] >= 0).all() and (MATCHED[indices[valid & ~positive]] == -1).all()
        assert len(set(indices[valid].tolist())) == valid.sum()


def test_samples_are_uniform():
    keys = jax.random.split(jax.random.key(0), 4000)
    indices, valid, _ = jax.vmap(lambda key: matching.sample(key, jnp.asarray(MATCHED), 8, 0.25))(keys)
    assert valid.all()
    shares = np.bincount(indices.reshape(-1), minlength=len(MATCHED)) / len(keys)
    expected = np.select([MATCHED >= 0, MATCHED == -1], [2 / 8, 6 / 14])
    np.testing.assert_allclose(shares, expected, atol=0.035)  # over four standard deviations
