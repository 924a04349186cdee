"""The NumPy reference of Deformable R-CNN's and FCIS's operations, against torchvision or values computed by hand.

`benchmarks/published_deformable.py` records what torchvision computes.
"""

import math

import numpy as np
import pytest

from tests.references import deformable as reference
from tests.references import published_deformable as published


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def convolve(case, x, offsets, kernel):
    """The reference on a batch."""
    return np.stack(
        [
            reference.deformable_convolve(*image, kernel, case.stride, case.dilation)
            for image in zip(x, offsets, strict=True)
        ]
    )


@pytest.mark.parametrize("name", published.CONVOLUTIONS)
def test_deformable_convolution(name):
    """Values; gradients of the input and the kernel, in which the output is linear; and that of the offsets by a difference."""
    case, recorded = published.CONVOLUTIONS[name], published.recorded_convolution(name)
    x, offsets, kernel, cotangent = (value.astype(np.float64) for value in published.convolution(name).values())
    output = convolve(case, x, offsets, kernel)
    close(output, recorded["output"])
    rng = np.random.default_rng(0)
    other = rng.standard_normal(x.shape)
    close(np.vdot(other, recorded["x"]), np.vdot(cotangent, convolve(case, other, offsets, kernel)))
    other = rng.standard_normal(kernel.shape)
    close(np.vdot(other, recorded["kernel"]), np.vdot(cotangent, convolve(case, x, offsets, other)))
    # At an integer position torchvision's gradient is the right derivative, so all offsets increase.
    other = rng.uniform(0.1, 1, offsets.shape)
    change = (convolve(case, x, offsets + 1e-6 * other, kernel) - output) / 1e-6
    close(np.vdot(other, recorded["offsets"]), np.vdot(cotangent, change))


def test_offsets_may_have_any_size():
    """The sample of a huge or infinite offset is 0."""
    x, kernel = np.ones((3, 3, 1)), np.ones((1, 1, 1, 1))
    for offset in (1e30, -1e30, np.inf, -np.inf):
        offsets = np.zeros((3, 3, 1, 1, 1, 2))
        offsets[1, 2, 0, 0, 0, 1] = offset
        value = reference.deformable_convolve(x, offsets, kernel)
        assert value[1, 2] == 0 and value.sum() == 8


def pool(maps, boxes, images):
    each = [
        reference.ps_roi_pool(maps[image], box, published.SCALE, published.BINS, published.BINS)
        for box, image in zip(boxes, images, strict=True)
    ]
    return np.concatenate(each)


def test_position_sensitive_pooling():
    inputs, recorded = published.pooling(), published.recorded_pooling()
    maps, boxes, images, cotangent = inputs.values()
    output = pool(maps, boxes, images)
    close(output, recorded["output_of_larger_maps"])
    close(pool(maps[:, :-1, :-1], boxes, images), recorded["output"])  # the last row and column are not read
    rng = np.random.default_rng(0)
    for _ in range(4):
        other = rng.standard_normal(maps.shape)
        close(np.vdot(other, recorded["maps"]), np.vdot(cotangent, pool(other, boxes, images)))
    names = list(published.BOXES)
    empty = [name for name in names if not output[names.index(name)].any()]
    assert empty == ["outside, near", "outside, far", "outside, left"]


def test_both_roundings_of_position_sensitive_pooling_agree_on_whole_cells():
    map, boxes = published.draw("map", (9, 8, 18)), [(0, 4, 20, 28), (8, 12, 12, 36), (-8, -4, 16, 60)]
    release, torchvision = (
        reference.ps_roi_pool(map, boxes, 0.25, 3, 3, rounding) for rounding in ("release", "torchvision")
    )
    close(release, torchvision)


def test_position_sensitive_pooling_of_the_release():
    """On a map whose first row holds the column of each cell, plus 100 times its column group."""
    map = np.zeros((2, 30, 7, 7, 1))
    map[0] = np.arange(30)[:, None, None, None] + 100 * np.arange(7)[None, None, :, None]
    # round(15.5) = 16 and round(351.6) = 352: cells 1 to 22, one for each of 21 bins. The lower bins are outside of the map.
    value = reference.ps_roi_pool(map.reshape(2, 30, -1), [(15.5, 0, 351.6, 336)], 1 / 16, 21, 7, "release")[0, ..., 0]
    close(value[0], [1 + q + 100 * (q // 3) for q in range(21)])
    assert not value[2:].any()
    # From 16 to 64: cells 1 to 4, a seventh of a cell for each bin. No bin is in two cells.
    value = reference.ps_roi_pool(map.reshape(2, 30, -1), [(16, 0, 64, 48)], 1 / 16, 21, 7, "release")[0, ..., 0]
    close(value[0], [1 + q // 7 + 100 * (q // 3) for q in range(21)])
    value = reference.ps_roi_pool(map.reshape(2, 30, -1), [(24, 0, 56, 32)], 1 / 16, 3, 1, "release")[0, ..., 0]
    close(value[0], [(1 + 2) / 2, 2, (2 + 3) / 2])  # 1.5 to 2.17, 2.17 to 2.83, 2.83 to 3.5
    # A box of no width has 0.1 of a cell, from 24 / 16 = 1.5.
    value = reference.ps_roi_pool(map.reshape(2, 30, -1), [(24, 0, 24, 16)], 1 / 16, 3, 1, "release")[0, ..., 0]
    close(value[0], [1, 1, 1])


def test_deformable_pooling():
    """On a map whose channels are its coordinates, the value of a bin is the mean position of its samples."""
    y, x = np.mgrid[:20, :30].astype(float)
    map = np.stack([y, x], axis=-1)
    box = [(15.5, 32, 48.4, 160)]  # rounded: 16, 32, 48, 160, so 1.5 to 9.5 vertically and 0.5 to 2.5 horizontally
    value = reference.deformable_roi_pool(map, box, 1 / 16, None, 4)[0]
    # Samples at 0, ¼, ½ and ¾ of a bin, of 2 cells and of ½.
    close(value[:, 0, 0], [1.5 + 2 * p + 0.75 for p in range(4)])
    close(value[0, :, 1], [0.5 + 0.5 * q + 0.1875 for q in range(4)])
    # Offsets are in units of the height, 8, and the width, 2; dy first.
    offsets = np.zeros((1, 4, 4, 2))
    offsets[0, 1, 2] = 0.25, 0.5
    moved = reference.deformable_roi_pool(map, box, 1 / 16, offsets, 4)[0]
    close(moved[1, 2] - value[1, 2], [2, 1])
    moved[1, 2] = value[1, 2]
    close(moved, value)


def test_samples_of_deformable_pooling_at_the_border():
    map = np.arange(1.0, 4.0)[None, :, None]  # 1, 2, 3
    # Horizontally from -½ to 2½, two bins of two samples: at -½, ¼ and at 1, 1¾. The sample at -½ reads the first cell.
    value = reference.deformable_roi_pool(map, [(0, 0, 3, 1)], 1, None, 2, 2)[0, ..., 0]
    close(value, [[(1 + 1.25) / 2, (2 + 2.75) / 2]] * 2)
    # 0.8 of a cell to the right: at 0.3, 1.05 and at 1.8, 2.55. The last one is outside and does not count.
    offsets = np.zeros((1, 2, 2, 2))
    offsets[..., 1] = 0.8 / 3
    value = reference.deformable_roi_pool(map, [(0, 0, 3, 1)], 1, offsets, 2, 2)[0, ..., 0]
    close(value, [[(1.3 + 2.05) / 2, 2.8]] * 2)
    offsets[..., 1] = 2
    assert not reference.deformable_roi_pool(map, [(0, 0, 3, 1)], 1, offsets, 2, 2).any()
    # A box of no width has 0.1 of a cell: samples at 0.5, 0.525 and at 0.55, 0.575.
    value = reference.deformable_roi_pool(map, [(1, 0, 1, 1)], 1, None, 2, 2)[0, ..., 0]
    close(value, [[1.5125, 1.5625]] * 2)


def test_hardest():
    losses, valid = [0.5, 3, 1, 9, 1, 0], [True, True, True, False, True, True]
    assert list(reference.hardest(losses, valid, 2)) == [
        False,
        True,
        True,
        False,
        False,
        False,
    ]  # the first of two equal ones
    assert list(reference.hardest(losses, valid, 3)) == [False, True, True, False, True, False]
    assert list(reference.hardest(losses, valid, 9)) == valid
    assert not reference.hardest(losses, [False] * 6, 2).any()


def test_soft_nms():
    # IoU of boxes 0 and 1: 0.5; 0 and 2: 0.25; 1 and 2: 0.5. Box 3 overlaps none.
    boxes, scores = [(0, 0, 4, 4), (0, 0, 4, 2), (0, 0, 2, 2), (9, 9, 10, 10)], [0.9, 0.8, 0.6, 0.41]
    chosen, decayed = reference.soft_nms(boxes, scores, 0.3, "linear", 9)
    assert list(chosen) == [0, 2, 3, 1]
    close(decayed, [0.9, 0.6, 0.41, 0.8 * 0.5 * 0.5])
    chosen, decayed = reference.soft_nms(boxes, scores, 0.5, "linear", 3)  # at the threshold nothing decays
    assert list(chosen) == [0, 1, 2]
    close(decayed, scores[:3])
    chosen, decayed = reference.soft_nms(boxes, scores, 0.5, "gaussian", 9)
    half, quarter = math.exp(-0.5), math.exp(-0.125)
    assert list(chosen) == [0, 2, 3, 1]
    close(decayed, [0.9, 0.6 * quarter, 0.41, 0.8 * half * half])
    chosen, decayed = reference.soft_nms([boxes[0]] * 3, [0.5] * 3, 0.3, "linear", 9)
    assert list(chosen) == [0, 1, 2] and list(decayed) == [0.5, 0, 0]
    assert [len(a) for a in reference.soft_nms(np.zeros((0, 4)), [], 0.3, "linear", 9)] == [0, 0]


def test_scores_of_fcis():
    pooled = np.zeros((1, 2, 2, 2, 3))
    pooled[0, 0, 0, :, 1] = 3, 1  # outside, inside
    pooled[0, 0, 1, :, 1] = -2, 5
    pooled[0, 1, 1, :, 2] = -1000, -2000
    logits, inside = reference.fcis_scores(pooled)
    close(logits, [[0, (3 + 5) / 4, -1000 / 4]])
    expected = np.full((1, 2, 2, 3), 0.5)
    expected[0, 0, 0, 1] = 1 / (1 + math.exp(2))
    expected[0, 0, 1, 1] = 1 / (1 + math.exp(-7))
    expected[0, 1, 1, 2] = 0
    close(inside, expected)


def test_merged_masks():
    # IoU of boxes 0 and 1: 0.5; 0 and 2: 0.25; 1 and 2: 0.
    boxes, scores = [(0, 0, 8, 8), (0, 0, 8, 4), (4, 4, 8, 8)], [0.6, 0.2, 0.9]
    masks = np.array([[[1, 0], [1, 0]], [[1, 1], [1, 1]], [[1, 1], [1, 1]]])
    # The centres of box 0's cells are at x = 2 and 6. Between them its mask is 1 - (x - 2)/4, which is ≥ 0.4 up to x = 4.4.
    y, x = [0.5, 3.9, 4.1, 8, 8.5], [0.5, 4.3, 4.5, 7.5]
    merged = reference.merge_masks(masks, boxes, scores, 0, 0.5, 0.4, y, x)
    both, box_0_alone = [1, 1, 0.25, 0.25], [0.75, 0.75, 0, 0]
    close(merged, [both, both, box_0_alone, box_0_alone, [0] * 4])
    flipped = [box[1::-1] + box[:1:-1] for box in boxes]  # the axes exchanged
    close(reference.merge_masks(masks.transpose(0, 2, 1), flipped, scores, 0, 0.5, 0.4, x, y), merged.T)
    # Box 1 has the same two boxes. Box 2 has itself alone, and with a smaller IoU box 0 too.
    close(reference.merge_masks(masks, boxes, scores, 1, 0.5, 0.4, y, x), merged)
    close(reference.merge_masks(masks, boxes, scores, 2, 0.5, 0.4, y, x)[2], [0, 1, 1, 1])
    close(reference.merge_masks(masks, boxes, scores, 2, 0.2, 0.4, y, x)[2], [0.4, 1, 0.6, 0.6])
    assert not reference.merge_masks(masks, boxes, [0, 0, 0.9], 0, 0.5, 0.4, y, x).any()
    assert not reference.merge_masks(masks[:1], [(3, 3, 3, 3)], [1], 0, 0.5, 0.4, [3], [3]).any()  # of no area
