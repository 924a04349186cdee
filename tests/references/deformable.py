"""Deformable R-CNN's and FCIS's operations in float64 NumPy (SPEC §9): sampling, pooling, hard examples, soft-NMS, merged masks.

An independent and deliberately slow reference for tests: explicit loops that read like the definitions, no code shared with the
package. Sources: Dai et al., Deformable Convolutional Networks, ICCV 2017, with the release (github.com/msracver/Deformable-ConvNets);
Li et al., Fully Convolutional Instance-aware Semantic Segmentation (FCIS), CVPR 2017, with the release (github.com/msracver/FCIS); Dai et
al., R-FCN, NeurIPS 2016; Bodla et al., Soft-NMS, ICCV 2017; Shrivastava et al., OHEM, CVPR 2016.

One image at a time: a map is [height, width, channels]. A box is (left, top, right, bottom) in pixels of the image, in continuous
coordinates: a whole image is (0, 0, width, height). The releases' right and lower coordinates are ours minus 1, because they name the
last pixel of a box. `scale` is the number of cells of the map per pixel of the image, such as 1/16.

`test_deformable_references.py` checks the functions against torchvision, or by hand where torchvision has no such operation.
"""

import math

import numpy as np

from tests.references.detection_numpy import iou


def deformable_convolve(x, offsets, kernel, stride=1, dilation=1):
    """x [h,w,C], offsets [h',w',G,k,l,2], kernel [k,l,C,O] → [h',w',O]: deformable convolution, version 1 (section 2.1, eq. 2).

    Tap (i, j) of the output at (y, x) reads the input at (y·stride - pad + i·dilation + dy, x·stride - pad + j·dilation + dx), where
    pad = dilation·⌊k/2⌋ vertically and dilation·⌊l/2⌋ horizontally, and (dy, dx) = offsets[y, x, g, i, j]. Channel c belongs to group
    g = ⌊c / (C/G)⌋. No bias.

    Values between the cells are bilinear (eq. 3 and 4). Cells outside of the map are 0, so a value falls to 0 over one cell beyond the
    border, as in torchvision's `deform_conv2d`. (The release reads 0 at every position outside of [0, h) × [0, w). From h - 1 to h and
    from w - 1 to w it repeats the last row and column.)
    """
    x, offsets, kernel = (np.asarray(a, np.float64) for a in (x, offsets, kernel))
    height, width, channels = x.shape
    rows, columns, groups = offsets.shape[:3]
    k, l = kernel.shape[:2]  # noqa: E741
    assert offsets.shape == (rows, columns, groups, k, l, 2) and channels % groups == 0
    pads = dilation * (k // 2), dilation * (l // 2)
    for cells, outputs, taps, pad in zip((height, width), (rows, columns), (k, l), pads, strict=True):
        assert outputs == (cells + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
    per_group = channels // groups
    result = np.zeros((rows, columns, kernel.shape[3]))
    for r in range(rows):
        for c in range(columns):
            for g in range(groups):
                part = slice(g * per_group, (g + 1) * per_group)
                for i in range(k):
                    for j in range(l):
                        dy, dx = offsets[r, c, g, i, j]
                        row = r * stride - pads[0] + i * dilation + dy
                        column = c * stride - pads[1] + j * dilation + dx
                        result[r, c] += bilinear_or_zero(x[:, :, part], row, column) @ kernel[i, j, part]
    return result


def bilinear_or_zero(map, y, x):
    """Value [C] of a map [h,w,C] at the position (y, x), where (0, 0) is the centre of the first cell. Cells outside of the map are 0."""
    height, width = map.shape[:2]
    value = np.zeros(map.shape[2])
    if not (-1 < y < height and -1 < x < width):
        return value  # all four corners are outside
    top, left = math.floor(y), math.floor(x)
    for row, a in ((top, top + 1 - y), (top + 1, y - top)):
        for column, b in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= row < height and 0 <= column < width:
                value += a * b * map[row, column]
    return value


def round_half_up(value):
    """The nearest integer, the larger of two equally near ones. The releases' rounding, if coordinates are not negative."""
    return math.floor(value + 0.5)


def round_half_away(value):
    """The nearest integer, the one of larger magnitude of two equally near ones, as C's `round`: 2.5 → 3 and -2.5 → -3."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def deformable_roi_pool(map, boxes, scale, offsets, bins, samples=4):
    """map [h,w,c], boxes [r,4], offsets [r,bins,bins,2] or None → [r,bins,bins,c]: deformable RoI pooling (section 2.2, eq. 6).

    As DeformablePSROIPooling of the release with group_size=1 and part_size=bins. On each axis
        start = round(left)·scale - ½,  end = round(right)·scale - ½,  size = max(end - start, 0.1),
    and sample i of bin p is at start + p·size/bins + offset·size + i·size/(bins·samples), i = 0 … samples-1. So a sample is at the
    beginning of its part of the bin, not in the middle. On an axis of n cells, a sample outside of [-½, n - ½] does not count. The
    others are moved to [0, n - 1] and read bilinearly. The value of a bin is the mean of the samples that count, 0 if none does.

    offsets: (dy, dx) of each bin in units of the box's height and width. They include the release's factor 0.1. (The release stores dx
    first.) None: 0 everywhere.
    """
    map, boxes = np.asarray(map, np.float64), np.asarray(boxes, np.float64).reshape(-1, 4)
    cells = map.shape[:2]
    offsets = np.zeros((len(boxes), bins, bins, 2)) if offsets is None else np.asarray(offsets, np.float64)
    assert offsets.shape == (len(boxes), bins, bins, 2)
    result = np.zeros((len(boxes), bins, bins, map.shape[2]))
    for n, (left, top, right, bottom) in enumerate(boxes):
        starts = [round_half_up(c) * scale - 0.5 for c in (top, left)]
        ends = [round_half_up(c) * scale - 0.5 for c in (bottom, right)]
        sizes = [max(end - start, 0.1) for start, end in zip(starts, ends, strict=True)]
        for p in range(bins):
            for q in range(bins):
                values = []
                for i in range(samples):
                    for j in range(samples):
                        position = [
                            starts[axis]
                            + bin * sizes[axis] / bins
                            + offsets[n, p, q, axis] * sizes[axis]
                            + sample * sizes[axis] / (bins * samples)
                            for axis, bin, sample in ((0, p, i), (1, q, j))
                        ]
                        if all(-0.5 <= position[axis] <= cells[axis] - 0.5 for axis in (0, 1)):
                            y, x = (min(max(position[axis], 0.0), cells[axis] - 1.0) for axis in (0, 1))
                            values.append(bilinear_or_zero(map, y, x))
                if values:
                    result[n, p, q] = sum(values) / len(values)
    return result


def ps_roi_pool(map, boxes, scale, bins, groups, rounding="torchvision"):
    """map [h,w,groups·groups·c], boxes [r,4] → [r,bins,bins,c]: position-sensitive RoI pooling (R-FCN, section 2, eq. 1).

    The channels of the map are in the order [groups, groups, c]: row group, column group, channel. Bin (p, q) reads row group
    ⌊p·groups/bins⌋ and column group ⌊q·groups/bins⌋. Its value is the mean over its cells, 0 if it has none.

    On an axis of n cells, bin p has the cells from ⌊start + p·size/bins⌋ to ⌈start + (p+1)·size/bins⌉ (exclusive). Both ends are clipped
    to [0, n].
        'release'      start = round(left)·scale, end = round(right)·scale, size = max(end - start, 0.1)  (PSROIPooling of FCIS's release)
        'torchvision'  start = round(left·scale), end = round(right·scale), size = max(end - start, 1)    (`ps_roi_pool`, bins = groups)

    torchvision's output clips to [0, n - 1] instead, so it never reads the last row and column of a map. Its gradient clips to [0, n].
    """
    assert rounding in ("release", "torchvision"), rounding
    map, boxes = np.asarray(map, np.float64), np.asarray(boxes, np.float64).reshape(-1, 4)
    height, width = map.shape[:2]
    map = map.reshape(height, width, groups, groups, -1)
    result = np.zeros((len(boxes), bins, bins, map.shape[4]))
    for n, (left, top, right, bottom) in enumerate(boxes):
        rows = _cells_of_bins(top, bottom, scale, bins, height, rounding)
        columns = _cells_of_bins(left, right, scale, bins, width, rounding)
        for p in range(bins):
            for q in range(bins):
                group = map[:, :, p * groups // bins, q * groups // bins]
                values = [group[y, x] for y in rows[p] for x in columns[q]]
                if values:
                    result[n, p, q] = sum(values) / len(values)
    return result


def _cells_of_bins(low, high, scale, bins, cells, rounding):
    """The rows or columns of each bin, a list of ranges."""
    if rounding == "release":
        start, end, minimum = round_half_up(low) * scale, round_half_up(high) * scale, 0.1
    else:
        start, end, minimum = round_half_away(low * scale), round_half_away(high * scale), 1
    size = max(end - start, minimum)
    # Multiplying first keeps an edge at the border of a cell exact.
    edges = [start + p * size / bins for p in range(bins + 1)]
    return [
        range(min(max(math.floor(edges[p]), 0), cells), min(max(math.ceil(edges[p + 1]), 0), cells))
        for p in range(bins)
    ]


def hardest(losses, valid, count):
    """losses [n], valid [n] → bool [n]: the `count` valid boxes with the largest losses (OHEM, section 4).

    All valid ones if there are fewer. Of equal losses the lower index comes first.
    """
    order = sorted((i for i in range(len(losses)) if valid[i]), key=lambda i: (-losses[i], i))
    result = np.zeros(len(losses), bool)
    for i in order[:count]:
        result[i] = True
    return result


def soft_nms(boxes, scores, threshold, kind, count):
    """boxes [n,4] and scores [n] of one class → (indices [m], decayed scores [m]), m = min(n, count), in the order of choice.

    The box with the largest score is chosen. Then the scores of the boxes not yet chosen decay by their IoU with it, and so on (Soft-NMS,
    section 3). Of equal scores the lower index comes first. No box is removed, however small its score.
        'linear'    score·(1 - IoU) where IoU > threshold; ≥ in the paper
        'gaussian'  score·exp(-IoU²/threshold); σ in the paper is the threshold
    """
    assert kind in ("linear", "gaussian"), kind
    boxes, scores = np.asarray(boxes, np.float64).reshape(-1, 4), np.array(scores, np.float64)
    remaining, chosen, decayed = list(range(len(boxes))), [], []
    while remaining and len(chosen) < count:
        best = max(remaining, key=lambda i: (scores[i], -i))
        remaining.remove(best)
        chosen.append(best)
        decayed.append(scores[best])
        for i in remaining:
            overlap = iou(boxes[best], boxes[i])[0, 0]
            if kind == "gaussian":
                scores[i] *= math.exp(-(overlap**2) / threshold)
            elif overlap > threshold:
                scores[i] *= 1 - overlap
    return np.array(chosen, int), np.array(decayed)


def fcis_scores(pooled):
    """pooled [r,s,s,2,K+1] → (class logits [r,K+1], inside probabilities [r,s,s,K+1]) (FCIS, section 2.2).

    The axis of 2 is (outside, inside). Class 0 is the background. The logit of a class is the mean over the cells of max(inside, outside).
    The probability that a cell is inside an object of a class is the softmax of inside against outside.
    """
    pooled = np.asarray(pooled, np.float64)
    boxes, size, _, two, classes = pooled.shape
    assert pooled.shape[2] == size and two == 2
    logits, probabilities = np.zeros((boxes, classes)), np.zeros((boxes, size, size, classes))
    for n in range(boxes):
        for k in range(classes):
            for i in range(size):
                for j in range(size):
                    outside, inside = pooled[n, i, j, :, k]
                    largest = max(outside, inside)
                    logits[n, k] += largest / size**2
                    total = math.exp(outside - largest) + math.exp(inside - largest)
                    probabilities[n, i, j, k] = math.exp(inside - largest) / total
    return logits, probabilities


def merge_masks(masks, boxes, scores, kept, merge, threshold, y, x):
    """[p,q] in 0 … 1: the merged mask of box `kept` at the points (y[i], x[j]) of the image (FCIS, section 2.3, "mask voting").

    It is a weighted mean over the boxes with IoU ≥ merge with box `kept`, which is one of them. The mean is of 1 where the mask of a box
    is ≥ threshold and 0 elsewhere. The weights are the boxes' scores divided by their sum. If the sum is 0, the result is 0 everywhere.

    Args:
        masks: [n,m,m], probabilities.
        boxes: [n,4].
        scores: [n], of the class of the detection, not negative.
        kept: index of a box.
        merge: smallest IoU, 0.5 in the release.
        threshold: of the masks, 0.4 in the release, which applies the same one to the result.
        y: [p], vertical positions.
        x: [q], horizontal positions. The centre of the pixel of row r and column c is (r + ½, c + ½).

    The centre of cell (i, j) of a mask is at (top + (i + ½)·height/m, left + (j + ½)·width/m), with top, left, height and width of its
    box. Masks are bilinear between the centres, and constant from the outermost centres to the border of the box. Outside of its box a
    mask counts 0. A point on the border is inside.
    """
    masks, boxes = np.asarray(masks, np.float64), np.asarray(boxes, np.float64)
    overlapping = [n for n in range(len(boxes)) if iou(boxes[kept], boxes[n])[0, 0] >= merge]
    total = sum(float(scores[n]) for n in overlapping)
    result = np.zeros((len(y), len(x)))
    for n in overlapping if total > 0 else ():
        for i in range(len(y)):
            for j in range(len(x)):
                if _mask_at(masks[n], boxes[n], y[i], x[j]) >= threshold:
                    result[i, j] += scores[n] / total
    return result


def _mask_at(mask, box, y, x):
    left, top, right, bottom = box
    if not (top <= y <= bottom and left <= x <= right):
        return 0.0
    size = len(mask)
    row, column = (y - top) / (bottom - top) * size - 0.5, (x - left) / (right - left) * size - 0.5
    row, column = (min(max(c, 0.0), size - 1.0) for c in (row, column))
    return bilinear_or_zero(mask[:, :, None], row, column)[0]
