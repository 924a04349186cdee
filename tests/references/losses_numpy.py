"""The segmenter's losses in float64 NumPy, from their definitions alone.

An independent and deliberately slow reference for tests: explicit loops that read like the definitions, no code shared with the
package. In all functions, `scores` [n,K] are the logits of the n pixels of a whole batch, and `labels` int [n] are class ids from 0 to
K - 1, or 255. Pixels with label 255 are ignored: they are in no sum, no mean and no ranking. p_k is the softmax of a pixel's scores.
Every loss is a float, and 0 if all pixels are ignored.
"""

import math

import numpy as np

IGNORE = 255


def _pixels(scores, labels):
    """(scores [K], label) of each pixel that is not ignored."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    assert scores.ndim == 2 and labels.shape == scores.shape[:1], (scores.shape, labels.shape)
    return [(s, int(y)) for s, y in zip(scores, labels, strict=True) if y != IGNORE]


def log_softmax(s):
    """log p of one pixel, s [K] → [K]."""
    largest = max(s)
    return s - (largest + math.log(sum(math.exp(value - largest) for value in s)))


def softmax(s):
    """p of one pixel, s [K] → [K]."""
    return np.array([math.exp(value) for value in log_softmax(s)])


def _weighted_mean(values, labels, weights):
    """Σ_i w[y_i] v_i / Σ_i w[y_i]; w = 1 without weights; 0 if the sum of the weights is 0."""
    total = weight_sum = 0.0
    for value, y in zip(values, labels, strict=True):
        w = 1.0 if weights is None else float(weights[y])
        total += w * value
        weight_sum += w
    return total / weight_sum if weight_sum > 0 else 0.0


def cross_entropy(scores, labels, weights=None, smoothing=0.0):
    """Σ_i w[y_i] ce_i / Σ_i w[y_i],  ce_i = -Σ_k q_ik log p_ik,  q_ik = (1 - ε) [k = y_i] + ε / K.

    Label smoothing: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016, section 7, with ε =
    `smoothing` and a uniform distribution of labels. `weights` [K] ≥ 0: all of ce_i has the weight of the pixel's label. (In PyTorch each
    term k has the weight of class k, so the two differ if there are both weights and smoothing.) If all weights that occur are 0, the
    loss is 0.
    """
    values, chosen = [], []
    for s, y in _pixels(scores, labels):
        log_p, K = log_softmax(s), len(s)
        ce = 0.0
        for k in range(K):
            q = (1 - smoothing) * (k == y) + smoothing / K
            ce -= q * log_p[k]
        values.append(ce)
        chosen.append(y)
    return _weighted_mean(values, chosen, weights)


def focal(scores, labels, gamma=2.0, weights=None):
    """Σ_i w[y_i] (1 - p_y)^γ (-log p_y) / Σ_i w[y_i], p_y of pixel i.

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 4, and eq. 5 with the class weights in place of α. The paper has
    sigmoids and divides by the number of matched anchors. Here p is a softmax, and the loss is a mean over pixels.
    """
    values, chosen = [], []
    for s, y in _pixels(scores, labels):
        log_p = log_softmax(s)[y]
        values.append((1 - math.exp(log_p)) ** gamma * -log_p)
        chosen.append(y)
    return _weighted_mean(values, chosen, weights)


def dice(scores, labels):
    """1 - mean over the classes k that occur in the labels of  2 Σ_i p_ik t_ik / (Σ_i p_ik + Σ_i t_ik),  t_ik = [y_i = k].

    Milletari et al., V-Net, 3DV 2016, section 3, has squares in the denominator. The linear form is that of Sudre et al., Generalised
    Dice overlap, DLMIA 2017, without their class weights. Both papers have one or two classes; the mean over classes is ours.
    """
    pixels = _pixels(scores, labels)
    if not pixels:
        return 0.0
    p = [softmax(s) for s, _ in pixels]
    terms = []
    for k in sorted({y for _, y in pixels}):
        both = predicted = true = 0.0
        for (_, y), p_i in zip(pixels, p, strict=True):
            t = 1.0 if y == k else 0.0
            both += p_i[k] * t
            predicted += p_i[k]
            true += t
        terms.append(2 * both / (predicted + true))
    return 1 - sum(terms) / len(terms)


def lovasz(scores, labels):
    """Mean over the classes k that occur in the labels of  Σ_j e_(j) (J_j - J_(j-1)).

    Berman et al., The Lovász-Softmax Loss, CVPR 2018, section 3 and Algorithm 1, classes "present", over all pixels of the batch.

        e_i    |[y_i = k] - p_ik|, the error of pixel i; e_(1) ≥ e_(2) ≥ … in decreasing order
        J_j    Jaccard loss of class k if exactly the pixels (1) to (j) are wrong: 1 - |G \\ wrong| / |G ∪ wrong|; J_0 = 0
        G      pixels with label k

    The order of pixels with the same error does not change the sum.
    """
    pixels = _pixels(scores, labels)
    if not pixels:
        return 0.0
    p = [softmax(s) for s, _ in pixels]
    terms = []
    for k in sorted({y for _, y in pixels}):
        truth = [y == k for _, y in pixels]
        errors = [1 - p_i[k] if t else p_i[k] for p_i, t in zip(p, truth, strict=True)]
        intersection = union = sum(truth)
        previous = term = 0.0
        for i in sorted(range(len(pixels)), key=lambda i: -errors[i]):
            if truth[i]:
                intersection -= 1
            else:
                union += 1
            jaccard = 1 - intersection / union
            term += errors[i] * (jaccard - previous)
            previous = jaccard
        terms.append(term)
    return sum(terms) / len(terms)


def ohem(scores, labels, threshold=0.7, least=100_000):
    """Mean of -log p_y over the hard pixels, those with p_y ≤ `threshold`.

    If there are fewer than `least` (1 or more), it is the mean over the `least` pixels with the largest loss, with all pixels that have
    the same loss as the last of them, or over all pixels if there are no more than `least`.

    Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining, CVPR 2016; for pixels, `OhemCrossEntropy`
    in the code of HRNet and OCRNet (thres=0.7, min_kept=100000). At a tie their code differs: it leaves out all pixels that have the
    probability of the one after the last, and pixels with p_y = `threshold`.
    """
    assert least >= 1, least
    hard, losses = [], []
    for s, y in _pixels(scores, labels):
        loss = -log_softmax(s)[y]
        losses.append(loss)
        if softmax(s)[y] <= threshold:
            hard.append(loss)
    if not losses:
        return 0.0
    if len(hard) < least:
        limit = sorted(losses, reverse=True)[min(least, len(losses)) - 1]
        hard = [loss for loss in losses if loss >= limit]
    return sum(hard) / len(hard)


def median_frequency(pixels_of_class_per_image):
    """Class weights w [K]: w_k = median(f) / f_k, the median over the classes that occur; 0 for a class that never occurs.

        f_k = pixels of class k / pixels that are not ignored, of the images that have class k

    `pixels_of_class_per_image`: int [n,K], of n images. Median frequency balancing: Eigen & Fergus, Predicting Depth, Surface Normals and
    Semantic Labels, ICCV 2015, section 6.3.2. The median of an even number of classes is the mean of the two in the middle. If no class
    occurs, all weights are 0.
    """
    counts = np.asarray(pixels_of_class_per_image)
    images, K = counts.shape
    frequencies = {}
    for k in range(K):
        of_class = all_pixels = 0
        for i in range(images):
            if counts[i, k] > 0:
                of_class += int(counts[i, k])
                all_pixels += sum(int(count) for count in counts[i])
        if of_class > 0:
            frequencies[k] = of_class / all_pixels
    weights = np.zeros(K)
    if not frequencies:
        return weights
    ordered = sorted(frequencies.values())
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    for k, frequency in frequencies.items():
        weights[k] = median / frequency
    return weights
