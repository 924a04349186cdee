"""Scores of predicted labels in float64 NumPy, from their definitions alone: F1, frequency-weighted IoU, boundary IoU, calibration.

An independent and deliberately slow reference for tests: explicit loops that read like the definitions, no code shared with the
package. A confusion matrix is [K,K], with a row for each label and a column for each prediction; ignored pixels are not in it. Labels
are class ids from 0 to K - 1, or 255, which is ignored.
"""

import math

import numpy as np

IGNORE = 255


def _counts(confusion, k):
    """(true positives, false positives, false negatives) of class k."""
    K = len(confusion)
    true = int(confusion[k][k])
    false_positives = sum(int(confusion[j][k]) for j in range(K) if j != k)
    false_negatives = sum(int(confusion[k][j]) for j in range(K) if j != k)
    return true, false_positives, false_negatives


def f1(confusion):
    """F1_k = 2 TP / (2 TP + FP + FN), [K]: also the Dice score. NaN for a class that is neither in labels nor in predictions."""
    result = np.full(len(confusion), np.nan)
    for k in range(len(confusion)):
        tp, fp, fn = _counts(confusion, k)
        if 2 * tp + fp + fn > 0:
            result[k] = 2 * tp / (2 * tp + fp + fn)
    return result


def frequency_weighted_iou(confusion):
    """Σ_k share_k IoU_k, share_k = pixels with label k / all pixels, IoU_k = TP / (TP + FP + FN), a float; NaN without pixels.

    "Frequency weighted IU" of Long et al., Fully Convolutional Networks, CVPR 2015, section 5.
    """
    pixels = sum(int(count) for row in confusion for count in row)
    if pixels == 0:
        return math.nan
    total = 0.0
    for k in range(len(confusion)):
        tp, fp, fn = _counts(confusion, k)
        if tp + fn > 0:  # a class that is not in the labels has share 0
            total += (tp + fn) / pixels * tp / (tp + fp + fn)
    return total


def boundary_width(size, share=0.02):
    """d in pixels: `share` of the diagonal of an image of size (height, width), rounded (Python: halves to even), at least 1."""
    height, width = size
    return max(1, round(share * math.hypot(height, width)))


def erode(mask):
    """The pixels of a bool mask [h,w] whose 3×3 neighbourhood is in the mask. Everything outside the image is outside the mask."""
    height, width = mask.shape
    result = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            result[y, x] = all(
                0 <= v < height and 0 <= u < width and mask[v, u] for v in (y - 1, y, y + 1) for u in (x - 1, x, x + 1)
            )
    return result


def boundary(mask, d):
    """G_d ∩ G: the pixels of a mask [h,w] that d erosions remove."""
    eroded = mask
    for _ in range(d):
        eroded = erode(eroded)
    return mask & ~eroded


def boundary_iou(labels, predictions, K, share=0.02):
    """|(G_d ∩ G) ∩ (P_d ∩ P)| / |(G_d ∩ G) ∪ (P_d ∩ P)| of each class, [K]; NaN for a class in neither labels nor predictions.

    labels, predictions: lists of int [h,w], of images whose sizes may differ. G and P are the masks of a class in both, and d is
    `boundary_width` of the image. The counts of pixels are summed over all images before the division. Cheng et al., Boundary IoU, CVPR
    2021, eq. 3; distance, rounding and the image's border are as in `mask_to_boundary` of their code.

    Where a label is 255, the prediction becomes 255 too, before the masks are made. So ignored pixels are outside of all masks, for
    labels and predictions alike, and a prediction that is right at all other pixels scores 1. The paper says nothing about this.
    """
    intersection, union = np.zeros(K), np.zeros(K)
    for label, prediction in zip(labels, predictions, strict=True):
        label = np.asarray(label)
        prediction = np.where(label == IGNORE, IGNORE, np.asarray(prediction))
        d = boundary_width(label.shape, share)
        for k in range(K):
            true, predicted = boundary(label == k, d), boundary(prediction == k, d)
            intersection[k] += (true & predicted).sum()
            union[k] += (true | predicted).sum()
    result = np.full(K, np.nan)
    for k in range(K):
        if union[k] > 0:
            result[k] = intersection[k] / union[k]
    return result


def calibration(probabilities, labels, bins=15):
    """(ece, accuracy [bins], confidence [bins], count int [bins]): the expected calibration error and the reliability diagram.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2, eqs. 2 and 3. The confidence of a pixel is its largest
    probability, and its prediction is the first class that has it. Bin i has the confidences in (i/bins, (i+1)/bins]; what rounding
    brings above 1 belongs to the last.

        accuracy, confidence    means over the pixels of a bin; NaN in an empty bin
        ece                     Σ over bins of count / n · |accuracy - confidence|; NaN if n = 0

    probabilities [n,K], labels int [n]. Pixels with label 255 are ignored.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    right, confidences, count = np.zeros(bins), np.zeros(bins), np.zeros(bins, np.int64)
    for p, y in zip(probabilities, labels, strict=True):
        if y == IGNORE:
            continue
        prediction = int(np.argmax(p))
        i = 0
        while i < bins - 1 and p[prediction] > (i + 1) / bins:
            i += 1
        count[i] += 1
        right[i] += prediction == y
        confidences[i] += p[prediction]
    accuracy, confidence = np.full(bins, np.nan), np.full(bins, np.nan)
    if count.sum() == 0:
        return math.nan, accuracy, confidence, count
    ece = 0.0
    for i in range(bins):
        if count[i] > 0:
            accuracy[i], confidence[i] = right[i] / count[i], confidences[i] / count[i]
            ece += count[i] / count.sum() * abs(accuracy[i] - confidence[i])
    return ece, accuracy, confidence, count
