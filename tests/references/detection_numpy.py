"""Detection in float64 NumPy: boxes, anchors, matching, NMS, RoIAlign, masks, losses, necks and COCO's AP (SPEC §9).

An independent and deliberately slow reference for tests: explicit loops that read like the definitions, no code shared with the
package. Sources: Ren et al., Faster R-CNN, NeurIPS 2015 (anchors, box coding, losses); Girshick, Fast R-CNN, ICCV 2015 (smooth-L1);
Lin et al., FPN, CVPR 2017 (levels, neck); He et al., Mask R-CNN, ICCV 2017 (RoIAlign, mask loss); COCO's evaluation. What the papers
leave open is as in torchvision 0.29.1, except where a docstring says otherwise.

A box is (left, top, right, bottom) in pixels, in continuous coordinates: a whole image is (0, 0, width, height), and the pixel of row y
and column x covers (x, y, x+1, y+1). Sizes are (height, width). Maps are [height, width, channels].
"""

import math
from pathlib import Path

import numpy as np

from tests.references.zigzag_numpy import conv2d, zigzag

RECORDED = Path(__file__).with_name(
    "detection_torch.npz"
)  # what torchvision computes: benchmarks/published_detection.py

MAXIMUM_LOG_SCALE = math.log(1000 / 16)  # of dw and dh: a box grows at most to 62.5 times its anchor


def area(box):
    """Width times height of one box; 0 if its right is left of its left, or its bottom above its top."""
    left, top, right, bottom = box
    return max(right - left, 0.0) * max(bottom - top, 0.0)


def intersection(a, b):
    """Area that two boxes share."""
    return area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))


def iou(a, b):
    """a [n,4], b [m,4] → [n,m]: intersection over union of each pair; 0 where the union is 0."""
    a, b = np.asarray(a, np.float64).reshape(-1, 4), np.asarray(b, np.float64).reshape(-1, 4)
    result = np.zeros((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            shared = intersection(a[i], b[j])
            union = area(a[i]) + area(b[j]) - shared
            if union > 0:
                result[i, j] = shared / union
    return result


def _centre_and_size(box):
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def encode(boxes, anchors, weights=(1, 1, 1, 1)):
    """boxes [n,4], anchors [n,4] → deltas [n,4] = (wx·dx, wy·dy, ww·dw, wh·dh) (Faster R-CNN, section 3.1.2, eq. 2).

    dx = (x - xa) / wa,  dy = (y - ya) / ha,  dw = log(w / wa),  dh = log(h / ha), with (x, y) the centre and (w, h) the size. Both
    boxes must have an area.
    """
    boxes, anchors = np.asarray(boxes, np.float64), np.asarray(anchors, np.float64)
    deltas = np.zeros((len(boxes), 4))
    for i in range(len(boxes)):
        x, y, w, h = _centre_and_size(boxes[i])
        xa, ya, wa, ha = _centre_and_size(anchors[i])
        deltas[i, 0] = weights[0] * (x - xa) / wa
        deltas[i, 1] = weights[1] * (y - ya) / ha
        deltas[i, 2] = weights[2] * math.log(w / wa)
        deltas[i, 3] = weights[3] * math.log(h / ha)
    return deltas


def decode(deltas, anchors, weights=(1, 1, 1, 1)):
    """deltas [n,4], anchors [n,4] → boxes [n,4]: the inverse of `encode`; dw and dh are at most log(1000/16)."""
    deltas, anchors = np.asarray(deltas, np.float64), np.asarray(anchors, np.float64)
    boxes = np.zeros((len(deltas), 4))
    for i in range(len(deltas)):
        xa, ya, wa, ha = _centre_and_size(anchors[i])
        dx, dy, dw, dh = (deltas[i, k] / weights[k] for k in range(4))
        x, y = xa + dx * wa, ya + dy * ha
        w, h = wa * math.exp(min(dw, MAXIMUM_LOG_SCALE)), ha * math.exp(min(dh, MAXIMUM_LOG_SCALE))
        boxes[i] = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return boxes


def clip(boxes, size):
    """boxes [n,4] within an image of size (height, width): every coordinate moved to the nearest one inside."""
    height, width = size
    result = np.array(boxes, np.float64)
    for box in result:
        for k, limit in enumerate((width, height, width, height)):
            box[k] = min(max(box[k], 0.0), limit)
    return result


def base_anchors(size, ratios=(0.5, 1.0, 2.0), rounded=False):
    """[len(ratios),4]: anchors with their centre at 0, area size² and height/width = ratio.

    Rounded: each coordinate to an integer, halves to the even one, as torchvision does.
    """
    anchors = np.zeros((len(ratios), 4))
    for k, ratio in enumerate(ratios):
        width, height = size / math.sqrt(ratio), size * math.sqrt(ratio)
        anchors[k] = -width / 2, -height / 2, width / 2, height / 2
    return np.round(anchors) if rounded else anchors


def grid_anchors(shape, stride, base):
    """[height·width·A,4]: the A base anchors at every position of a map, row by row, the anchors of a position together.

    Args:
        shape: (height, width) of the map.
        stride: (vertical, horizontal) pixels of the image between two positions.
        base: [A,4], see `base_anchors`.

    The centre at row y and column x is (x·horizontal, y·vertical): the corner of the cell, not its middle, as in torchvision.
    """
    anchors = []
    for y in range(shape[0]):
        for x in range(shape[1]):
            for left, top, right, bottom in np.asarray(base, np.float64):
                cx, cy = x * stride[1], y * stride[0]
                anchors.append((left + cx, top + cy, right + cx, bottom + cy))
    return np.array(anchors, np.float64).reshape(-1, 4)


def match(iou, valid, high, low, keep_best=False):
    """iou [n,m] of n boxes with m objects, valid [m] → int [n]: index of the object of each box, -1 negative, -2 neither.

    The object of a box is the one of largest IoU, the first if several are equal. IoU ≥ high: positive. IoU < low: negative. Between:
    neither. Without a valid object every box is negative.

    keep_best: for each object, the boxes whose IoU with it is the largest that it has with any box, ties included, are positive too.
    Such a box takes *its own* best object, which can be another one (torchvision's and detectron2's `set_low_quality_matches_`). As
    there, an object without overlap with any box has its largest IoU, 0, with all of them: every box that does not touch it
    becomes positive. Objects of no area must not be among the valid ones.
    """
    n, m = np.shape(iou)
    objects = [j for j in range(m) if valid[j]]
    result = np.full(n, -1)
    if not objects:
        return result
    best = [max(objects, key=lambda j, i=i: (iou[i][j], -j)) for i in range(n)]
    for i in range(n):
        if iou[i][best[i]] >= high:
            result[i] = best[i]
        elif iou[i][best[i]] >= low:
            result[i] = -2
    if keep_best:
        for j in objects:
            largest = max((iou[i][j] for i in range(n)), default=0.0)
            for i in range(n):
                if iou[i][j] == largest:
                    result[i] = best[i]
    return result


def nms(boxes, scores, threshold, groups=None):
    """Indices kept by greedy non-maximum suppression, best score first, of equal scores the lower index first.

    boxes [n,4], scores [n], groups [n] or None. A box is removed if its IoU with a kept box of the same group, of higher rank, is
    *above* the threshold.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept = []
    for i in order:
        rivals = [j for j in kept if groups is None or groups[i] == groups[j]]
        if all(iou(boxes[i : i + 1], boxes[j : j + 1])[0, 0] <= threshold for j in rivals):
            kept.append(i)
    return np.array(kept, int)


def bilinear(map, y, x):
    """Value [C] of a map [h,w,C] at the continuous position (y, x), where (0, 0) is the centre of the first cell.

    Outside of [-1, h] × [-1, w] it is 0; within, coordinates are moved to [0, h-1] × [0, w-1].
    """
    height, width = map.shape[:2]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(map.shape[2])
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    a, b = y - top, x - left
    return (
        (1 - a) * (1 - b) * map[top, left]
        + (1 - a) * b * map[top, right]
        + a * (1 - b) * map[bottom, left]
        + a * b * map[bottom, right]
    )


def roi_align(map, box, scale, bins, samples=2, aligned=False):
    """map [h,w,C], one box [4] in pixels of the image → [bins,bins,C] (Mask R-CNN, section 3).

    Args:
        map: features.
        box: in pixels of the image; may reach out of it.
        scale: cells of the map per pixel of the image, such as 1/4.
        bins: bins on either axis.
        samples: samples per axis of a bin, regularly placed; their mean is the value. None: as many as a bin has cells on that axis,
            rounded up (torchvision's sampling_ratio=-1).
        aligned: subtract half a cell, so that the centre of a cell is at its middle. Without it, boxes are at least one cell wide
            and high.
    """
    map = np.asarray(map, np.float64)
    left, top, right, bottom = (float(c) * scale - (0.5 if aligned else 0.0) for c in box)
    width, height = right - left, bottom - top
    if not aligned:
        width, height = max(width, 1.0), max(height, 1.0)
    rows = math.ceil(height / bins) if samples is None else samples
    columns = math.ceil(width / bins) if samples is None else samples
    result = np.zeros((bins, bins, map.shape[2]))
    for i in range(bins):
        for j in range(bins):
            for p in range(rows):
                for q in range(columns):
                    y = top + (i + (p + 0.5) / rows) * height / bins
                    x = left + (j + (q + 0.5) / columns) * width / bins
                    result[i, j] += bilinear(map, y, x)
            result[i, j] /= max(rows * columns, 1)
    return result


def level_of(box, lowest=2, highest=5, canonical_size=224, canonical_level=4):
    """The level of the pyramid that a box reads, 2 … 5: ⌊4 + log₂(√(wh) / 224) + 10⁻⁶⌋, clamped (FPN, eq. 1).

    The 10⁻⁶ is torchvision's, against rounding in float32. A box of no area reads the lowest level.
    """
    if area(box) == 0:
        return lowest
    level = math.floor(canonical_level + math.log2(math.sqrt(area(box)) / canonical_size) + 1e-6)
    return min(max(level, lowest), highest)


def crop(mask, box, size, samples=2, aligned=False):
    """mask [H,W] of 0 and 1, one box [4] → [size,size] in 0 … 1: the part of the mask in the box, by RoIAlign.

    torchvision's `project_masks_on_boxes` is the same with samples=None.
    """
    return roi_align(np.asarray(mask, np.float64)[:, :, None], box, 1.0, size, samples, aligned)[:, :, 0]


def paste(mask, box, shape):
    """mask [m,m], one box [4] → [H,W]: the mask stretched over the box, bilinear at the centres of the pixels of an image (H, W).

    The centre of pixel (r, c) is (r + ½, c + ½), and that of cell (i, j) of the mask is at ((i + ½)/m, (j + ½)/m) of the box. Beyond
    its cells the mask continues with zeros, so values fall to 0 over one cell across the border of the box, half of it
    outside (detectron2: grid_sample with padding_mode='zeros', align_corners=False). A box of no area: 0 everywhere.
    """
    mask = np.asarray(mask, np.float64)
    m = len(mask)
    left, top, right, bottom = (float(c) for c in box)
    result = np.zeros(shape)
    if right <= left or bottom <= top:
        return result

    def cell(i, j):
        return mask[i, j] if 0 <= i < m and 0 <= j < m else 0.0

    for r in range(shape[0]):
        for c in range(shape[1]):
            y = (r + 0.5 - top) / (bottom - top) * m - 0.5
            x = (c + 0.5 - left) / (right - left) * m - 0.5
            i, j = math.floor(y), math.floor(x)
            a, b = y - i, x - j
            result[r, c] = (
                (1 - a) * (1 - b) * cell(i, j)
                + (1 - a) * b * cell(i, j + 1)
                + a * (1 - b) * cell(i + 1, j)
                + a * b * cell(i + 1, j + 1)
            )
    return result


def log_softmax(logits):
    """[C] → [C]: logit minus log Σ exp(logits)."""
    shifted = np.asarray(logits, np.float64) - np.max(logits)
    return shifted - math.log(np.exp(shifted).sum())


def binary_cross_entropy(logit, target):
    """-t·log σ(s) - (1-t)·log(1 - σ(s)) of one logit s and a target t in 0 … 1."""
    return target * math.log1p(math.exp(-logit)) + (1 - target) * math.log1p(math.exp(logit))


def smooth_l1(difference, beta):
    """½d²/β if |d| < β, else |d| - β/2 (Fast R-CNN, eq. 3, with its corner at β); β = 0: |d|."""
    d = abs(difference)
    return 0.5 * d * d / beta if d < beta else d - beta / 2


def rpn_losses(scores, deltas, targets, valid, positive, beta=1 / 9):
    """(objectness, box) of the sampled anchors of all images (Faster R-CNN, section 3.1.2, eq. 1).

    scores [n], deltas and targets [n,4], valid [n] (was sampled), positive [n]; or with more axes in front. Binary cross-entropy
    of the valid anchors, smooth-L1 of the positive ones: both sums are divided by the number of valid anchors. Nothing valid: 0.
    """
    scores, valid, positive = (np.asarray(a).reshape(-1) for a in (scores, valid, positive))
    deltas, targets = (np.asarray(a, np.float64).reshape(-1, 4) for a in (deltas, targets))
    objectness = box = 0.0
    for i in range(len(scores)):
        if valid[i]:
            objectness += binary_cross_entropy(float(scores[i]), float(positive[i]))
            if positive[i]:
                box += sum(smooth_l1(deltas[i, k] - targets[i, k], beta) for k in range(4))
    count = max(int(valid.sum()), 1)
    return objectness / count, box / count


def box_losses(logits, deltas, classes, targets, valid, beta=1.0):
    """(class, box) of the sampled RoIs of all images (Fast R-CNN, section 2.3).

    logits [R,K+1], the background first; deltas [R,K,4], of each class; classes [R], 0 the background, k+1 the class k; targets [R,4];
    valid [R]; or with more axes in front. Softmax cross-entropy of the valid RoIs, smooth-L1 of the positive ones' own class: both sums
    are divided by the number of valid RoIs. Nothing valid: 0.
    """
    logits, deltas = np.asarray(logits, np.float64), np.asarray(deltas, np.float64)
    logits, deltas = logits.reshape(-1, logits.shape[-1]), deltas.reshape(-1, *deltas.shape[-2:])
    classes, valid = np.asarray(classes).reshape(-1), np.asarray(valid).reshape(-1)
    targets = np.asarray(targets, np.float64).reshape(-1, 4)
    entropy = box = 0.0
    for i in range(len(logits)):
        if valid[i]:
            entropy -= log_softmax(logits[i])[classes[i]]
            if classes[i] > 0:
                box += sum(smooth_l1(deltas[i, classes[i] - 1, k] - targets[i, k], beta) for k in range(4))
    count = max(int(valid.sum()), 1)
    return entropy / count, box / count


def mask_loss(logits, targets, classes, valid, kind="sigmoid"):
    """Mean over the pixels of all valid masks. Nothing valid: 0.

    logits [P,m,m,K], or [P,m,m,K+1] with the background first if kind='softmax'; targets [P,m,m] in 0 … 1; classes [P], 0 … K-1; valid
    [P]; or with more axes in front.
        'sigmoid'  binary cross-entropy of the class's own logit; other classes take no part (Mask R-CNN, section 3)
        'softmax'  cross-entropy over the classes and the background: -t·log p(class) - (1-t)·log p(background)
    """
    assert kind in ("sigmoid", "softmax"), kind
    logits, targets = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    logits, targets = logits.reshape(-1, *logits.shape[-3:]), targets.reshape(-1, *targets.shape[-2:])
    classes, valid = np.asarray(classes).reshape(-1), np.asarray(valid).reshape(-1)
    total, pixels = 0.0, 0
    for i in range(len(logits)):
        if not valid[i]:
            continue
        for r in range(targets.shape[1]):
            for c in range(targets.shape[2]):
                t = targets[i, r, c]
                if kind == "sigmoid":
                    total += binary_cross_entropy(logits[i, r, c, classes[i]], t)
                else:
                    logs = log_softmax(logits[i, r, c])
                    total -= t * logs[classes[i] + 1] + (1 - t) * logs[0]
                pixels += 1
    return total / max(pixels, 1)


def fpn(maps, weights):
    """The pyramid of FPN (section 3), finest first: M^i = lateral_i(C^i) + nearest(M^{i+1}),  P^i = output_i(M^i), all linear.

    Args:
        maps: [B,H_i,W_i,C_i], finest first; the coarsest has no map above it: M^L = lateral_L(C^L).
        weights: {'lateral': layers, 'output': layers}, one {'kernel', 'bias'} per level: 1×1, C_i → C, and 3×3, C → C.
    """
    coarser, pyramid = None, []
    for level in reversed(range(len(maps))):
        lateral, output = weights["lateral"][level], weights["output"][level]
        merged = conv2d(maps[level], lateral["kernel"], lateral.get("bias"))
        if coarser is not None:
            height, width = merged.shape[1:3]
            for y in range(height):
                for x in range(width):
                    merged[:, y, x] += coarser[:, y * coarser.shape[1] // height, x * coarser.shape[2] // width]
        pyramid.insert(0, conv2d(merged, output["kernel"], output.get("bias")))
        coarser = merged
    return pyramid


def coarsest(map):
    """[B,H,W,C] → [B,⌈H/2⌉,⌈W/2⌉,C]: every second position, the level of stride 64 that the RPN alone reads (FPN, section 4.1)."""
    return map[:, ::2, ::2]


def zigzag_pyramid(maps, params, **options):
    """P^{i,d}_{T+1} of all levels, finest first (SPEC §5 and §9). Parameters and options: `zigzag_numpy.zigzag`.

    P^{i,d}_{T+1} = ReLU( W^{i,d}_{T+1} * (F^{i,d}_T + F^{i,u}_T) ) reads the last bottom-up pass at every level i, and has a fusing
    convolution of its own, params[T+1]['down'][i]['fuse'].
    """
    return zigzag(maps, params, **options)


AREAS = {"all": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}  # both ends belong to the range


def coco_overlap(detected, truth, crowd):
    """IoU of two boxes; with a crowd the part of the detection that lies in it: intersection over the *detection's* area."""
    if crowd:
        return intersection(detected, truth) / area(detected) if area(detected) > 0 else 0.0
    return iou([detected], [truth])[0, 0]


def match_image(detections, truths, category, threshold, areas, limit):
    """One image, one class, one threshold: ([(score, 'true', 'false' or 'ignored')], best score first; number of objects).

    COCO's rules. An object is ignored if it is a crowd or its area is outside of the range `areas`. The detections of the class, best score
    first (equal scores: as listed), at most `limit` of them, are matched one after the other, each with the free object of largest
    IoU ≥ threshold (equal IoU: the last). Ignored objects are matched only if no other object can be. A crowd stays free. A detection
    is ignored if its object is, or if it has none and its own box is outside of the range.
    """
    detected = [i for i in range(len(detections["boxes"])) if detections["classes"][i] == category]
    detected = sorted(detected, key=lambda i: -detections["scores"][i])[:limit]  # stable
    present = [j for j in range(len(truths["boxes"])) if truths["classes"][j] == category]
    outside = {j: not areas[0] <= truths["areas"][j] <= areas[1] for j in present}
    ignored = {j: bool(truths["crowd"][j]) or outside[j] for j in present}

    taken, outcome = set(), []
    for i in detected:
        best = None
        for among_ignored in (False, True):
            largest = threshold
            for j in present:
                if ignored[j] == among_ignored and (j not in taken or truths["crowd"][j]):
                    overlap = coco_overlap(detections["boxes"][i], truths["boxes"][j], truths["crowd"][j])
                    if overlap >= largest:
                        best, largest = j, overlap
            if best is not None:
                break
        if best is not None:
            taken.add(best)
            kind = "ignored" if ignored[best] else "true"
        else:
            kind = "false" if areas[0] <= area(detections["boxes"][i]) <= areas[1] else "ignored"
        outcome.append((detections["scores"][i], kind))
    return outcome, sum(not ignored[j] for j in present)


def precision_and_recall(detections, truths, category, threshold, areas=AREAS["all"], limit=100):
    """(precision at recalls 0, 0.01, … 1 [101], largest recall) of one class over all images; None if it has no object."""
    outcomes, objects = [], 0
    for detected, present in zip(detections, truths, strict=True):
        outcome, count = match_image(detected, present, category, threshold, areas, limit)
        outcomes, objects = outcomes + outcome, objects + count
    if objects == 0:
        return None
    curve, true, false = [], 0, 0  # (recall, precision) after each detection
    for _, kind in sorted(outcomes, key=lambda pair: -pair[0]):  # stable: equal scores in the order of the images
        true, false = true + (kind == "true"), false + (kind == "false")
        curve.append((true / objects, true / (true + false) if true + false else 0.0))
    precision = np.zeros(101)
    for k, recall in enumerate(np.linspace(0, 1, 101)):
        precision[k] = max((p for r, p in curve if r >= recall), default=0.0)  # the best at this recall or a larger one
    return precision, true / objects


def average_precision(detections, truths, categories):
    """COCO's figures for boxes: {'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl'}, in 0 … 1.

    Args:
        detections: per image {'boxes' [n,4], 'scores' [n], 'classes' [n]}.
        truths: per image {'boxes' [m,4], 'classes' [m], 'crowd' [m], 'areas' [m]}; the areas are those of the masks.
        categories: the classes.

    AP is the mean precision over 101 recalls, the classes with objects, and the IoU thresholds 0.5, 0.55, … 0.95; AR the mean of the
    largest recall over these classes and thresholds, with at most 1, 10 or 100 detections per image *and class*. -1: no class has
    objects (of this size).
    """
    thresholds = np.linspace(0.5, 0.95, 10)

    def mean(kind, thresholds=thresholds, areas="all", limit=100):
        curves = [
            precision_and_recall(detections, truths, category, t, AREAS[areas], limit)
            for category in categories
            for t in thresholds
        ]
        values = [np.mean(curve[kind]) for curve in curves if curve is not None]
        return float(np.mean(values)) if values else -1.0

    precision, recall = 0, 1
    result = {"AP": mean(precision), "AP50": mean(precision, thresholds[:1]), "AP75": mean(precision, thresholds[5:6])}
    result |= {f"AP{size}": mean(precision, areas=size) for size in "sml"}
    result |= {f"AR{limit}": mean(recall, limit=limit) for limit in (1, 10, 100)}
    return result | {f"AR{size}": mean(recall, areas=size) for size in "sml"}
