"""Asymmetric non-local networks in float64 NumPy (Zhu et al., ICCV 2019), in the form of the authors' published code.

The paper (§3.2 to 3.4, Fig. 2 to 4) says what is attended to, and leaves open where batch norm and ReLU stand. Of the authors' code, with
which mmsegmentation's agrees:

    φ, θ (queries, keys)        1×1 convolution, BN, ReLU; in the pyramid block they are one
    γ (values), W               1×1 convolution with a bias, nothing else
    fusion block, AFNB          BN(1×1 conv [W · context ; high])
    in between                  ReLU(BN(3×3 conv))
    pyramid block, APNB         ReLU(BN(1×1 conv [W · context ; x]))

An independent and slow reference for tests that shares no code with the package. Maps are NHWC. BN is by running statistics.
"""

import numpy as np


def conv_bn(x, params, stats, relu=True):
    """Convolution without a bias, zero outside, (y − mean)/√(var + 1e-5)·scale + bias, and max(·, 0)."""
    y = conv(x, params["conv"]["kernel"])
    mean, var = stats["norm"]["mean"], stats["norm"]["var"]
    y = (y - mean) / np.sqrt(var + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    return np.maximum(y, 0) if relu else y


def conv(x, kernel, bias=0.0):
    """y[b,i,j] = bias + Σ_{m,n} x[b, i+m−⌊k/2⌋, j+n−⌊k/2⌋] · kernel[m,n]."""
    (batch, height, width, _), size = x.shape, kernel.shape[0]
    y = np.zeros((batch, height, width, kernel.shape[-1])) + bias
    for i, j, m, n in np.ndindex(height, width, size, size):
        p, q = i + m - size // 2, j + n - size // 2
        if 0 <= p < height and 0 <= q < width:
            y[:, i, j] += x[:, p, q] @ kernel[m, n]
    return y


def anchors(x, bins):
    """The means over k×k cells for each k of `bins`: `[B,Σk²,C]`. Cell i reaches from ⌊i·n/k⌋ to ⌈(i+1)·n/k⌉."""
    _, height, width, _ = x.shape
    means = []
    for k in bins:
        for i, j in np.ndindex(k, k):
            rows = slice(i * height // k, -(-(i + 1) * height // k))
            columns = slice(j * width // k, -(-(j + 1) * width // k))
            means.append(x[:, rows, columns].mean((1, 2)))
    return np.stack(means, axis=1)


def context(query, key, value, bins):
    """Σ_s softmax_s(q · k_s / √d) v_s, keys and values sampled by the pyramid: `[B,h,w,·]`."""
    keys, values = anchors(key, bins), anchors(value, bins)
    y = np.zeros((*query.shape[:3], value.shape[-1]))
    for b, i, j in np.ndindex(*query.shape[:3]):
        scores = np.array([query[b, i, j] @ k for k in keys[b]]) / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max())
        y[b, i, j] = weights / weights.sum() @ values[b]
    return y


def ann(low, high, params, stats, bins=(1, 3, 6, 8)):
    """The whole context: keys and values of the fusion block come from `low`, everything else from `high`."""

    def normalised(name, x, relu=True):
        return conv_bn(x, params[name], stats[name], relu)

    def plain(name, x):
        return conv(x, params[name]["kernel"], params[name]["bias"])

    query, key = normalised("fusion_query", high), normalised("fusion_key", low)
    y = plain("fusion_project", context(query, key, plain("fusion_value", low), bins))
    x = normalised("fusion_fuse", np.concatenate([y, high], axis=-1), relu=False)
    x = normalised("bottleneck", x)
    shared = normalised("pyramid_query", x)
    y = plain("pyramid_project", context(shared, shared, plain("pyramid_value", x), bins))
    return normalised("pyramid_fuse", np.concatenate([y, x], axis=-1))
