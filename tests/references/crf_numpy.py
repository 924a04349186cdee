"""Mean field of a fully connected CRF in float64 NumPy with the exact N×N kernels (SPEC §2; Krähenbühl & Koltun, NIPS 2011).

An independent and deliberately slow reference for tests, for images of a thousand pixels.
"""

import numpy as np


def kernel(features):
    """k[i,j] = exp(-|f_i - f_j|² / 2) for features [N,d], already divided by their standard deviations: [N,N]."""
    n = len(features)
    k = np.zeros((n, n))
    for i in range(n):
        difference = features - features[i]
        k[i] = np.exp(-0.5 * (difference**2).sum(axis=1))
    return k


def messages(k):
    """D^-1/2 K D^-1/2 with D_i = Σ_j K_ij, and then no message of a pixel to itself: [N,N]."""
    d = k.sum(axis=1)
    normalised = k / np.sqrt(d[:, None] * d[None, :])
    np.fill_diagonal(normalised, 0.0)
    return normalised


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def mean_field(
    probabilities, image, *, iterations, spatial_weight, spatial_sigma, bilateral_weight, bilateral_sigma, colour_sigma
):
    """Q after `iterations` synchronous updates from Q = p:  Q_i(l) ∝ p_i(l) · exp( Σ_m w_m Σ_{j≠i} K̂^m_ij Q_j(l) ).

    probabilities [H,W,K], clipped below at 1e-8; image [H,W,3], 0..255; distances in pixels. Potts compatibility: a
    pixel's label costs w_m K̂ for every other label, Σ_{l'≠l} Q_j(l') = 1 - Q_j(l), whose 1 is the same for all labels.
    """
    height, width, classes = probabilities.shape
    y, x = np.mgrid[:height, :width].reshape(2, -1).astype(np.float64)
    colour = np.asarray(image, np.float64).reshape(-1, 3)
    position = np.stack([y, x], axis=1)
    spatial = messages(kernel(position / spatial_sigma))
    bilateral = messages(kernel(np.concatenate([position / bilateral_sigma, colour / colour_sigma], axis=1)))
    log_p = np.log(np.clip(np.asarray(probabilities, np.float64).reshape(-1, classes), 1e-8, None))
    q = softmax(log_p)
    for _ in range(iterations):
        q = softmax(log_p + spatial_weight * (spatial @ q) + bilateral_weight * (bilateral @ q))
    return q.reshape(height, width, classes)
