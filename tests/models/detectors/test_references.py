"""The NumPy reference of the detectors' operations, against what torchvision computes (`benchmarks/published_detection.py`)."""

import numpy as np
import pytest

from tests.references import detection_numpy as reference
from tests.references import zigzag_numpy


@pytest.fixture(scope="module")
def recorded():
    return dict(np.load(reference.RECORDED))


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("aligned", (False, True), ids=("not_aligned", "aligned"))
@pytest.mark.parametrize("bins, samples", ((7, 2), (3, 1), (2, -1)))
def test_roi_align(recorded, bins, samples, aligned):
    values = recorded[f"roi_align/bins{bins}_samples{samples}_{'aligned' if aligned else 'not_aligned'}"]
    boxes = recorded["roi_align/boxes"][: len(values)]
    for box, value in zip(boxes, values, strict=True):
        per_bin = samples if samples > 0 else None
        close(reference.roi_align(recorded["roi_align/map"], box, 0.25, bins, per_bin, aligned), value)


@pytest.mark.parametrize("threshold", (0.3, 0.5, 0.7))
def test_nms(recorded, threshold):
    boxes, scores, groups = (recorded[f"nms/{key}"] for key in ("boxes", "scores", "groups"))
    assert len(set(scores)) < len(scores) / 2  # ties
    kept = reference.nms(boxes, scores, threshold)
    np.testing.assert_array_equal(kept, recorded[f"nms/kept_{threshold}"])
    by_group = reference.nms(boxes, scores, threshold, groups)
    np.testing.assert_array_equal(by_group, recorded[f"nms/kept_by_group_{threshold}"])
    assert len(kept) < len(by_group) < len(boxes)


def test_nms_keeps_a_box_at_exactly_the_threshold(recorded):
    case = {key: recorded[f"nms_at_threshold/{key}"] for key in ("boxes", "scores", "threshold", "kept")}
    np.testing.assert_array_equal(reference.nms(case["boxes"], case["scores"], case["threshold"]), case["kept"])
    assert list(case["kept"]) == [0, 1, 2]


def test_nms_without_boxes():
    assert reference.nms(np.zeros((0, 4)), [], 0.5).shape == (0,)


def test_iou_and_clip(recorded):
    close(reference.iou(recorded["iou/a"], recorded["iou/b"]), recorded["iou/iou"])
    close(reference.clip(recorded["clip/boxes"], recorded["clip/size"]), recorded["clip/clipped"])


@pytest.mark.parametrize("weights", ("rpn", "heads"))
def test_box_coding(recorded, weights):
    case = {key.partition("/")[2]: value for key, value in recorded.items() if key.startswith(f"coder_{weights}/")}
    close(reference.encode(case["boxes"], case["anchors"], case["weights"]), case["encoded"])
    close(reference.decode(case["deltas"], case["anchors"], case["weights"]), case["decoded"])
    close(reference.decode(case["encoded"], case["anchors"], case["weights"]), case["boxes"])


def test_anchors(recorded):
    for k, size in enumerate(recorded["anchors/sizes"]):
        base = reference.base_anchors(size, recorded["anchors/ratios"], rounded=True)
        close(base, recorded["anchors/base"][k])
        shape, stride = recorded["anchors/shapes"][k], recorded["anchors/strides"][k]
        close(reference.grid_anchors(shape, stride, base), recorded[f"anchors/level{k}"])


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize(
    "name, high, low, keep_best", (("rpn", 0.7, 0.3, True), ("heads", 0.5, 0.5, False), ("gap", 0.7, 0.3, False))
)
def test_matching(recorded, case, name, high, low, keep_best):
    iou, matched = recorded[f"matcher{case}/iou"], recorded[f"matcher{case}/{name}"]
    np.testing.assert_array_equal(reference.match(iou, np.ones(6, bool), high, low, keep_best), matched)
    padded = np.concatenate([iou, np.ones((len(iou), 3))], axis=1)  # objects that do not exist change nothing
    np.testing.assert_array_equal(reference.match(padded, np.arange(9) < 6, high, low, keep_best), matched)


def test_matching_without_objects():
    assert list(reference.match(np.ones((3, 2)), [False, False], 0.7, 0.3, True)) == [-1] * 3


def test_levels(recorded):
    levels = [reference.level_of(box) for box in recorded["levels/boxes"]]
    np.testing.assert_array_equal(levels, recorded["levels/levels"])
    assert set(levels) == {2, 3, 4, 5}


def test_crops_of_masks(recorded):
    for mask, box, crop in zip(*(recorded[f"crop/{key}"] for key in ("masks", "boxes", "crops")), strict=True):
        close(reference.crop(mask, box, 7, samples=None), crop)


def test_pasted_masks(recorded):
    for mask, box, pasted in zip(*(recorded[f"paste/{key}"] for key in ("masks", "boxes", "pasted")), strict=True):
        close(reference.paste(mask, box, recorded["paste/shape"]), pasted)


def test_losses_of_the_rpn(recorded):
    case = {key.partition("/")[2]: value for key, value in recorded.items() if key.startswith("loss_rpn/")}
    valid, positive = case["labels"] >= 0, case["labels"] == 1
    objectness, box = reference.rpn_losses(case["scores"], case["deltas"], case["targets"], valid, positive)
    close((objectness, box), (case["objectness"], case["box"]))


def test_losses_of_the_heads(recorded):
    case = {key.partition("/")[2]: value for key, value in recorded.items() if key.startswith("loss_heads/")}
    deltas, valid = case["deltas"][:, 1:], np.ones(16, bool)  # torchvision has deltas of the background too
    losses = reference.box_losses(case["logits"], deltas, case["labels"], case["targets"], valid, beta=1 / 9)
    close(losses, (case["classes"], case["box"]))
    # What is not valid changes nothing, in any axis.
    double = {key: np.stack([case[key], case[key]]) for key in ("logits", "labels", "targets")}
    half = np.stack([valid, ~valid])
    again = reference.box_losses(
        double["logits"], np.stack([deltas, deltas]), double["labels"], double["targets"], half, 1 / 9
    )
    close(again, losses)


def test_loss_of_masks(recorded):
    case = {key.partition("/")[2]: value for key, value in recorded.items() if key.startswith("loss_mask/")}
    classes, valid = case["labels"] - 1, np.ones(3, bool)
    close(reference.mask_loss(case["logits"][..., 1:], case["targets"], classes, valid), case["mask"])
    # Of two classes, the softmax is the sigmoid of the difference of their logits.
    pair = case["logits"][..., :2]
    softmax = reference.mask_loss(pair, case["targets"], [0, 0, 0], valid, "softmax")
    close(softmax, reference.mask_loss(pair[..., 1:] - pair[..., :1], case["targets"], [0, 0, 0], valid))


def test_smooth_l1():
    assert [reference.smooth_l1(d, 0.5) for d in (0, 0.25, -0.5, 2)] == [0, 0.0625, 0.25, 1.75]
    assert [reference.smooth_l1(d, 0) for d in (0, -0.25, 2)] == [0, 0.25, 2]


def test_losses_of_nothing():
    none, four = np.zeros(3, bool), np.ones((3, 4))
    assert reference.rpn_losses(np.ones(3), four, four, none, none) == (0, 0)
    assert reference.box_losses(np.ones((3, 3)), np.ones((3, 2, 4)), [1, 2, 0], four, none) == (0, 0)
    assert reference.mask_loss(np.ones((3, 2, 2, 2)), np.ones((3, 2, 2)), [0, 1, 0], none) == 0


def test_fpn(recorded):
    weights = {
        kind: [{key: recorded[f"fpn/{kind}{k}/{key}"] for key in ("kernel", "bias")} for k in range(4)]
        for kind in ("lateral", "output")
    }
    pyramid = reference.fpn([recorded[f"fpn/map{k}"][None] for k in range(4)], weights)
    for k, level in enumerate([*pyramid, reference.coarsest(pyramid[-1])]):
        close(level[0], recorded[f"fpn/level{k}"])


def test_the_pyramid_of_zigzag():
    """Two levels of one cell and T = 2, with R = F + q and fusing by the factor w: every map is one number."""
    b1, b2, q, w = 0.3, 0.2, 0.1, 0.5
    down1, down2 = b1 + (b2 + q), b2
    up1, up2 = down1, down2 + (down1 + q)
    p1, p2 = w * (down1 + up1), w * (down2 + up2)
    down1, down2 = p1 + (p2 + q), p2
    fused1, fused2 = w * (down1 + up1), w * (down2 + up2)
    up1, up2 = fused1, fused2 + (fused1 + q)
    expected = w * (down1 + up1), w * (down2 + up2)

    kernel = np.ones((3, 3, 1, 1))
    branch = {"conv": {"kernel": kernel}, "encode": {"kernel": kernel}, "decode": {"kernel": 0 * kernel, "bias": [q]}}
    level = {"fuse": {"kernel": np.full((1, 1, 1, 1), w)}, "rce": {3: branch}}
    params = {t: {"down": [level, level], "up": [level, level]} for t in (1, 2, 3)}
    maps = [np.full((1, 1, 1, 1), value) for value in (b1, b2)]
    pyramid = reference.zigzag_pyramid(maps, params, stages=2, subdivisions=(3,))
    close([level.item() for level in pyramid], expected)


def test_the_pyramid_of_zigzag_has_the_last_bottom_up_pass_of_every_level():
    rng, sizes = np.random.default_rng(0), ((8, 6), (4, 3), (2, 2))
    maps = [rng.uniform(-0.4, 0.4, (1, *size, 3)) for size in sizes]
    params = zigzag_numpy.random_params(rng, 3, 3, stages=2, subdivisions=(3,))
    pyramid = reference.zigzag_pyramid(maps, params, stages=2, subdivisions=(3,))
    assert [level.shape for level in pyramid] == [(1, *size, 3) for size in sizes]
    trace = zigzag_numpy.zigzag_trace(maps, params, 2, subdivisions=(3,))
    for i in range(3):
        kernel, bias = (params[3]["down"][i]["fuse"][key] for key in ("kernel", "bias"))
        total = trace["F_d"][2][i] + trace["F_u"][2][i]
        close(pyramid[i], np.maximum(zigzag_numpy.conv2d(total, kernel, bias), 0))
        assert not np.allclose(trace["F_u"][2][i], trace["P_u"][2][i]) or i == 0
