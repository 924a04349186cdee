"""NMS against the NumPy reference and torchvision's."""

import functools

import jax
import numpy as np
import pytest

from ctxseg.models.detectors.nms import nms
from tests.references import detection_numpy as reference

RECORDED = np.load(reference.RECORDED)


def kept(indices, valid):
    """The valid indices, after checking that they come first."""
    valid = np.asarray(valid)
    assert (np.sort(valid)[::-1] == valid).all()
    return np.asarray(indices)[valid].tolist()


def clustered(n, seed=0):
    """Boxes of which many overlap much, many scores equal, some boxes equal or without area."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, 100, (5, 2))[rng.integers(0, 5, n)] + rng.normal(0, 6, (n, 2))
    half = rng.uniform(8, 16, (n, 2))
    boxes = np.concatenate([centre - half, centre + half], -1).astype(np.float32)
    boxes[1] = boxes[0]
    boxes[2:4] = 50
    return boxes, np.round(rng.random(n), 1).astype(np.float32)


@functools.cache
def compiled(threshold, count):
    return jax.jit(jax.vmap(lambda b, s, v, g: nms(b, s, threshold, count, v, g)))


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms(threshold):
    n = 300
    boxes, scores = (np.stack(x) for x in zip(*(clustered(n, seed) for seed in range(4)), strict=True))
    groups = np.random.default_rng(9).integers(0, 3, (4, n))
    groups[0] = 0
    valid = np.random.default_rng(8).random((4, n)) < 0.7
    valid[1] = True
    valid[2] = False
    results = compiled(threshold, n)(boxes, scores, valid, groups)
    for indices, exists, b, s, v, g in zip(*results, boxes, scores, valid, groups, strict=True):
        original = np.flatnonzero(v)
        expected = reference.nms(b[v], s[v], threshold, g[v])
        assert kept(indices, exists) == original[expected].tolist()
        assert 0.02 * v.sum() <= len(expected) <= 0.9 * v.sum() or not v.any()


def test_best_few():
    boxes, scores = clustered(300)
    expected = reference.nms(boxes, scores, 0.5)
    assert len(expected) > 8
    assert kept(*jax.jit(lambda b, s: nms(b, s, 0.5, 8))(boxes, scores)) == expected[:8].tolist()
    indices, valid = jax.jit(lambda b, s: nms(b, s, 0.5, 12))(boxes[:10], scores[:10])  # more than there are
    assert indices.shape == valid.shape == (12,)
    assert kept(indices, valid) == reference.nms(boxes[:10], scores[:10], 0.5).tolist()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_is_torchvisions(threshold):
    boxes, scores, groups = (RECORDED[f"nms/{key}"] for key in ("boxes", "scores", "groups"))
    boxes, scores = boxes.astype(np.float32), scores.astype(np.float32)
    both = [x[None].repeat(2, 0) for x in (boxes, scores, np.ones(len(boxes), bool))]
    indices, valid = compiled(threshold, 60)(*both, np.stack([0 * groups, groups]))
    # torchvision's order of equal scores is not defined.
    for row, name in enumerate(("kept", "kept_by_group")):
        expected = RECORDED[f"nms/{name}_{threshold}"]
        assert sorted(kept(indices[row], valid[row])) == sorted(expected.tolist())
        np.testing.assert_array_equal(scores[kept(indices[row], valid[row])], scores[expected])


def test_overlap_of_the_threshold_is_kept():
    boxes, scores = (RECORDED[f"nms_at_threshold/{key}"].astype(np.float32) for key in ("boxes", "scores"))
    assert kept(*jax.jit(lambda b, s: nms(b, s, 0.5, 3))(boxes, scores)) == RECORDED["nms_at_threshold/kept"].tolist()


def test_chain():
    """Each box overlaps the next one too much: every other one is kept."""
    n = 300
    left = 4.0 * np.arange(n)
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 10], -1).astype(np.float32)
    four = [np.stack([x] * 4) for x in (boxes, -np.arange(n, dtype=np.float32), np.ones(n, bool), np.zeros(n, int))]
    indices, valid = compiled(0.3, n)(*four)
    assert kept(indices[0], valid[0]) == list(range(0, n, 2))
