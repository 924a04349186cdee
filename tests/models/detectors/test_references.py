"""The NumPy reference of the detectors' operations, against what torchvision computes (`benchmarks/published_detection.py`)."""

import numpy as np
import pytest

from tests.references import detection_numpy as reference


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
