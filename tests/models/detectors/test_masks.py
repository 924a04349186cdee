"""Cropping and pasting masks against the NumPy reference and recorded outputs."""

import jax
import numpy as np
import pytest

from ctxseg.models.detectors import masks
from tests.references import detection_numpy as reference

RECORDED = np.load(reference.RECORDED)
BOXES = np.array(
    [
        (6.0, 9.0, 41.5, 30.25),
        (0.0, 0.0, 61.0, 48.0),  # the whole image
        (-9.0, -13.0, 22.0, 17.0),
        (37.0, 30.0, 75.0, 61.0),
        (70.0, 10.0, 90.0, 20.0),  # outside
        (20.0, 12.0, 20.0, 12.0),  # no area
        (9.0, 7.0, 10.0, 8.0),  # one pixel
        (8.0, 6.0, 11.0, 9.0),
        (8.0, 16.0, 40.0, 16.0),
        (59.0, 10.0, 61.0, 20.0),  # samples between the last pixel's centre and the border
    ],
    np.float32,
)


paste = jax.jit(masks.paste, static_argnums=2)


def test_crop():
    rng = np.random.default_rng(0)
    whole = (rng.random((100, 48, 61)) < 0.5).astype(np.uint8)
    whole[1] = 0
    whole[1, 7, 9] = 1  # one pixel
    packed = np.packbits(whole, axis=-1, bitorder="little")
    objects = np.array([0, 99, 50, 3, 4, 5, 1, 1, 2, 6])
    # Images of a batch, each with its size. The second one reaches to the last byte.
    sizes = np.array([[48, 61], [48, 64]])
    batch = jax.jit(jax.vmap(lambda size: masks.crop(packed, BOXES, objects, 5, tuple(size))))(sizes)
    for (_, width), actual in zip(sizes, batch, strict=True):
        padded = np.pad(whole, ((0, 0), (0, 0), (0, width - 61)))
        expected = [reference.crop(padded[i], box, 5, aligned=True) for i, box in zip(objects, BOXES, strict=True)]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(batch[0] - batch[1]).max() > 0.1
    assert 0.5 < batch[0, 6].max() <= 1 and 0 < batch[0, 7].sum() < 25
    whole_shape = jax.jit(masks.crop, static_argnums=3)(packed, BOXES, objects, 5)
    np.testing.assert_allclose(whole_shape, batch[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("radius", [4, 6, 10, 20])
def test_pasting_restores_what_was_cropped(radius):
    """Small objects too: a shift by half a pixel would leave an IoU of 0.8 of the smallest."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:61, :64] + 0.5
    centres = rng.uniform(21, 40, (6, 2))
    discs = np.array([(x - i) ** 2 + (y - j) ** 2 <= radius**2 for i, j in centres])
    corners = [(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in map(np.nonzero, discs)]
    boxes = np.array(corners, np.float32)
    cropped = masks.crop(np.packbits(discs, axis=-1, bitorder="little"), boxes, np.arange(6), 28)
    np.testing.assert_allclose(cropped, cropped.clip(0, 1))
    pasted = paste(cropped, boxes, (61, 64)) >= 0.5
    iou = (pasted & discs).sum((1, 2)) / (pasted | discs).sum((1, 2))
    assert iou.min() > 0.99


def test_paste():
    small = np.random.default_rng(0).random((len(BOXES), 4, 4)).astype(np.float32)
    actual = paste(small, BOXES, (48, 61))
    expected = [reference.paste(mask, box, (48, 61)) for mask, box in zip(small, BOXES, strict=True)]
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert not actual[5].any() and not actual[8].any() and actual[6].any()
    filled = paste(np.ones_like(small), BOXES, (48, 61)) > 0.5  # nothing outside the box
    left, top, right, bottom = BOXES.T[:, :, None, None]
    y, x = np.arange(48)[:, None] + 0.5, np.arange(61) + 0.5
    inside = (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
    assert (filled <= inside).all()
    assert filled[1].mean() > 0.9


def test_paste_is_detectron2s():
    case = {key: RECORDED[f"paste/{key}"] for key in ("masks", "boxes", "shape", "pasted")}
    actual = paste(case["masks"].astype(np.float32), case["boxes"].astype(np.float32), tuple(case["shape"].tolist()))
    np.testing.assert_allclose(actual, case["pasted"], rtol=1e-5, atol=1e-5)
