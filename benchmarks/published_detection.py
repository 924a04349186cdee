"""Records what torchvision's detection operations compute, for the tests of ours and of their NumPy reference.

In an environment with the packages of `benchmarks/requirements-published.txt`:

python benchmarks/published_detection.py

writes tests/references/detection_torch.npz: the inputs and the outputs of every case, in float64, under the names "CASE/ARRAY". The
inputs are in the file, so a test draws nothing. What to compare with them: tests/models/detectors/test_references.py.
"""

import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.references import detection_numpy

# (left, top, right, bottom) in an image of 48×60, which a map of 12×15 covers at stride 4.
BOXES = {
    "inside": (6.0, 9.0, 41.5, 30.25),
    "whole image": (0.0, 0.0, 60.0, 48.0),
    "across the left and upper border": (-9.0, -13.0, 22.0, 17.0),
    "across the right and lower border": (37.0, 30.0, 75.0, 61.0),
    "around the image": (-30.0, -20.0, 90.0, 70.0),
    "outside, near": (61.0, 10.0, 70.0, 20.0),
    "outside, far": (300.0, 200.0, 350.0, 260.0),
    "samples at -1": (-4.0, -4.0, -4.0, -4.0),
    "a point": (20.0, 12.0, 20.0, 12.0),
    "no height": (8.0, 16.0, 40.0, 16.0),
    "less than a cell": (21.0, 13.0, 22.5, 14.0),
    "on cells": (8.0, 8.0, 36.0, 36.0),
    "right left of left": (30.0, 20.0, 18.0, 28.0),
}


def arrays(rng):
    """{"CASE/ARRAY": inputs and outputs}."""
    import torch

    result = {}

    def save(case, **values):
        for key, value in values.items():
            value = value.numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
            result[f"{case}/{key}"] = value
            assert np.isfinite(value).all(), (case, key)

    for record in (record_roi_align, record_nms, record_boxes, record_anchors, record_matcher, record_masks):
        record(save, rng)
    for record in (record_levels, record_losses, record_fpn):
        record(save, rng)
    return result


def tensor(array):
    import torch

    return torch.from_numpy(np.array(array))


def with_index(boxes):
    """boxes [n,4] of one image → [n,5], as torchvision's RoIAlign reads them."""
    return tensor(np.concatenate([np.zeros((len(boxes), 1)), boxes], axis=1))


def record_roi_align(save, rng):
    from torchvision.ops import roi_align

    features, boxes = rng.standard_normal((12, 15, 2)), np.array(list(BOXES.values()))
    save("roi_align", map=features, boxes=boxes, scale=0.25)
    for aligned in (False, True):
        for bins, samples in ((7, 2), (3, 1), (2, -1)):  # -1: by the size of the box, which must not be negative
            rois = with_index(boxes[:-1] if samples < 0 else boxes)
            values = roi_align(tensor(features).permute(2, 0, 1)[None], rois, bins, 0.25, samples, aligned)
            name = f"bins{bins}_samples{samples}_{'aligned' if aligned else 'not_aligned'}"
            save("roi_align", **{name: values.permute(0, 2, 3, 1)})


def record_nms(save, rng):
    from torchvision.ops import batched_nms, nms
    from torchvision.ops.boxes import _batched_nms_vanilla

    corners = rng.integers(0, 30, (60, 2))
    boxes = np.concatenate([corners, corners + rng.integers(5, 25, (60, 2))], axis=1).astype(np.float64)
    boxes[40:50] = boxes[:10]  # equal boxes
    boxes[50] = 7, 7, 7, 7  # no area
    boxes[51] = 7, 7, 7, 7
    scores = np.round(rng.random(60), 1)  # many equal ones
    groups = rng.integers(0, 3, 60)
    save("nms", boxes=boxes, scores=scores, groups=groups, thresholds=(0.3, 0.5, 0.7))
    for threshold in (0.3, 0.5, 0.7):
        kept = nms(tensor(boxes), tensor(scores), threshold)
        by_group = batched_nms(tensor(boxes), tensor(scores), tensor(groups), threshold)
        one_by_one = _batched_nms_vanilla(tensor(boxes), tensor(scores), tensor(groups), threshold)
        assert sorted(by_group.tolist()) == sorted(one_by_one.tolist()), threshold
        save("nms", **{f"kept_{threshold}": kept, f"kept_by_group_{threshold}": by_group})
    # IoU of exactly the threshold: kept.
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 5, 5.0]])
    kept = nms(tensor(boxes), tensor([0.9, 0.8, 0.7]), 0.5)
    save("nms_at_threshold", boxes=boxes, scores=[0.9, 0.8, 0.7], threshold=0.5, kept=kept)


def record_boxes(save, rng):
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.ops import box_iou, clip_boxes_to_image

    corners = rng.uniform(-20, 60, (2, 20, 2))
    a, b = np.concatenate([corners, corners + rng.uniform(0.5, 50, corners.shape)], axis=2)
    save("iou", a=a, b=b, iou=box_iou(tensor(a), tensor(b)))
    save("clip", boxes=a, size=(48, 60), clipped=clip_boxes_to_image(tensor(a), (48, 60)))
    for name, weights in (("rpn", (1.0, 1.0, 1.0, 1.0)), ("heads", (10.0, 10.0, 5.0, 5.0))):
        coder = BoxCoder(weights)
        deltas = rng.standard_normal((20, 4)) * weights
        deltas[:3, 2:] = 30.0, -30.0  # beyond what dw may be
        deltas[3, 3] = 1000.0
        save(
            f"coder_{name}",
            weights=weights,
            boxes=a,
            anchors=b,
            encoded=coder.encode_single(tensor(a), tensor(b)),
            deltas=deltas,
            decoded=coder.decode_single(tensor(deltas), tensor(b)),
        )


def record_anchors(save, rng):
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    sizes, ratios = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0)
    generator = AnchorGenerator(tuple((size,) for size in sizes), (ratios,) * 5)
    shapes, strides = ((4, 6), (2, 3), (1, 2), (1, 1), (1, 1)), ((4, 4), (8, 8), (16, 16), (32, 33), (64, 61))
    grids = generator.grid_anchors(shapes, strides)
    save("anchors", sizes=sizes, ratios=ratios, shapes=shapes, strides=strides)
    save("anchors", base=np.stack([a.double().numpy() for a in generator.cell_anchors]))
    save("anchors", **{f"level{k}": grid.double() for k, grid in enumerate(grids)})


def record_matcher(save, rng):
    from torchvision.models.detection._utils import Matcher

    iou = np.round(rng.random((3, 40, 6)), 1)  # [case, box, object], many equal ones, also at the thresholds
    iou[1, :, 2] *= 0.25  # an object that no box overlaps enough
    iou[2, :, 1] = 0.0  # an object that no box overlaps
    iou[2] *= 0.7
    for case, values in enumerate(iou):
        save(f"matcher{case}", iou=values)
        for name, high, low, keep_best in (
            ("rpn", 0.7, 0.3, True),
            ("heads", 0.5, 0.5, False),
            ("gap", 0.7, 0.3, False),
        ):
            matched = Matcher(high, low, allow_low_quality_matches=keep_best)(tensor(values.T))
            save(f"matcher{case}", **{name: matched})


def record_masks(save, rng):
    import torch
    import torch.nn.functional as F
    from torchvision.models.detection.roi_heads import project_masks_on_boxes

    y, x = np.mgrid[:48, :60]
    masks = np.stack([(y - 20) ** 2 + (x - 25) ** 2 < 150, (y + x) % 3 == 0, np.zeros((48, 60)), (y == 7) & (x == 9)])
    names = ("inside", "whole image", "across the left and upper border", "around the image", "less than a cell")
    boxes = np.array([BOXES[name] for name in names] + [(9.0, 7.0, 10.0, 8.0), (10.5, 8.0, 39.0, 36.0)])
    masks = masks[[0, 1, 0, 0, 1, 3, 0]].astype(np.uint8)
    crops = project_masks_on_boxes(tensor(masks), tensor(boxes), torch.arange(len(boxes)), 7)
    save("crop", masks=masks, boxes=boxes, crops=crops)

    # As detectron2 pastes: grid_sample at the centres of the pixels, in coordinates from -1 to 1 over the box.
    small, pasted = rng.random((len(boxes), 5, 5)), []
    for mask, (left, top, right, bottom) in zip(small, boxes, strict=True):
        gy = (torch.arange(48).double() + 0.5 - top) / (bottom - top) * 2 - 1
        gx = (torch.arange(60).double() + 0.5 - left) / (right - left) * 2 - 1
        grid = torch.stack([gx[None].expand(48, 60), gy[:, None].expand(48, 60)], dim=-1)
        pasted.append(F.grid_sample(tensor(mask)[None, None], grid[None], align_corners=False)[0, 0])
    save("paste", masks=small, boxes=boxes, shape=(48, 60), pasted=torch.stack(pasted).float())


def record_levels(save, rng):
    from torchvision.ops.poolers import LevelMapper

    sides = np.array([0.0, 1, 20, 111.9, 112, 112.1, 223.9, 224, 224.1, 447.9, 448, 448.1, 896, 5000])
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    boxes = np.concatenate([boxes, [[10, 20, 458, 132], [5, 5, 5, 900.0]]])
    save("levels", boxes=boxes, levels=LevelMapper(2, 5)([tensor(boxes)]) + 2)


def record_losses(save, rng):
    from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
    from torchvision.models.detection.roi_heads import fastrcnn_loss, maskrcnn_loss, project_masks_on_boxes
    from torchvision.models.detection.rpn import RegionProposalNetwork

    scores, deltas, targets = 3 * rng.standard_normal(30), rng.standard_normal((30, 4)), rng.standard_normal((30, 4))
    targets[:9] = deltas[:9] + 0.2 * rng.standard_normal((9, 4))  # on both sides of smooth-L1's corner, 1/9
    labels = np.repeat([1.0, 0.0, -1.0], (12, 13, 5))  # positive, negative, not sampled
    everything = SimpleNamespace(fg_bg_sampler=BalancedPositiveNegativeSampler(30, 1.0))
    objectness, box = RegionProposalNetwork.compute_loss(
        everything, tensor(scores), tensor(deltas), [tensor(labels)], [tensor(targets)]
    )
    save("loss_rpn", scores=scores, deltas=deltas, targets=targets, labels=labels, objectness=objectness, box=box)

    logits, deltas, targets = (
        rng.standard_normal((16, 5)),
        rng.standard_normal((16, 5, 4)),
        rng.standard_normal((16, 4)),
    )
    labels = np.repeat([3, 0, 1, 4], (2, 9, 4, 1))
    targets[:2] = deltas[:2, 3] + 0.05
    classes, box = fastrcnn_loss(tensor(logits), tensor(deltas.reshape(16, 20)), [tensor(labels)], [tensor(targets)])
    save("loss_heads", logits=logits, deltas=deltas, targets=targets, labels=labels, classes=classes, box=box)

    # Crops of masks, so the targets are between 0 and 1.
    logits, masks, labels = rng.standard_normal((3, 6, 6, 5)), rng.random((3, 8, 8)) < 0.4, np.array([2, 4, 1])
    boxes, each = tensor(np.tile([0.0, 0, 8, 8], (3, 1))), tensor(np.arange(3))
    targets = project_masks_on_boxes(tensor(masks), boxes, each, 6)
    mask = maskrcnn_loss(tensor(logits).permute(0, 3, 1, 2), [boxes], [tensor(masks)], [tensor(labels)], [each])
    save("loss_mask", logits=logits, targets=targets, labels=labels, mask=mask)


def record_fpn(save, rng):
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

    shapes, channels = ((9, 13), (5, 7), (3, 4), (2, 2)), (2, 3, 4, 5)
    network = FeaturePyramidNetwork(channels, 3, LastLevelMaxPool()).double()
    maps = [rng.standard_normal((*shape, c)) for shape, c in zip(shapes, channels, strict=True)]
    for parameter in network.parameters():
        parameter.data.copy_(tensor(rng.standard_normal(tuple(parameter.shape))))
    pyramid = network(OrderedDict((str(k), tensor(m).permute(2, 0, 1)[None]) for k, m in enumerate(maps)))
    for k, (inner, outer) in enumerate(zip(network.inner_blocks, network.layer_blocks, strict=True)):
        for name, convolution in (("lateral", inner[0]), ("output", outer[0])):
            kernel, bias = convolution.weight.detach().permute(2, 3, 1, 0), convolution.bias.detach()
            save("fpn", **{f"{name}{k}/kernel": kernel, f"{name}{k}/bias": bias})
        save("fpn", **{f"map{k}": maps[k]})
    for k, level in enumerate(pyramid.values()):
        save("fpn", **{f"level{k}": level[0].detach().permute(1, 2, 0)})


def main():
    path = detection_numpy.RECORDED
    np.savez_compressed(path, **arrays(np.random.default_rng(17)))
    print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
