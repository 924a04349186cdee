"""Attention to scale in float64 NumPy, written from the equations alone (SPEC §3; Chen et al., CVPR 2016, eqs. 1 and 2).

An independent and deliberately slow reference for tests: explicit loops that read like the equations, no sharing of
code with the package. Maps are NHWC. Scores and features come as lists over the scales, and that order is the order of
the last axis of `h` and of the weights, and of the concatenated features. The finest scale is the one whose map is
largest, wherever it stands in the list.
"""

import numpy as np


def conv2d(x, kernel, bias=None):
    """y[b,i,j,o] = bias[o] + Σ_{m,n,c} x[b, i+m-(kh-1)/2, j+n-(kw-1)/2, c] · kernel[m,n,c,o], zero outside.

    x [B,H,W,Cin], kernel [kh,kw,Cin,Cout] of odd sizes (cross-correlation: not flipped), output [B,H,W,Cout].
    """
    x = np.asarray(x, np.float64)
    kernel = np.asarray(kernel, np.float64)
    batch, height, width, channels = x.shape
    kh, kw, cin, cout = kernel.shape
    assert cin == channels and kh % 2 == 1 and kw % 2 == 1, (kernel.shape, x.shape)
    padded = np.zeros((batch, height + kh - 1, width + kw - 1, channels))
    padded[:, (kh - 1) // 2 : (kh - 1) // 2 + height, (kw - 1) // 2 : (kw - 1) // 2 + width] = x
    y = np.zeros((batch, height, width, cout))
    for i in range(height):
        for j in range(width):
            for m in range(kh):
                for n in range(kw):
                    y[:, i, j] += padded[:, i + m, j + n] @ kernel[m, n]
    if bias is not None:
        y += np.asarray(bias, np.float64)
    return y


def source_position(index, n_out, n_in):
    """Half-pixel centres: (index + ½) · n_in / n_out - ½, clamped to [0, n_in - 1]."""
    return min(max((index + 0.5) * n_in / n_out - 0.5, 0.0), n_in - 1.0)


def bilinear_resize(x, height, width):
    """x [B,H,W,C] → [B,height,width,C]: y[i,j] = Σ_{p,q} (1 - |u_i - p|)₊ (1 - |v_j - q|)₊ x[p,q].

    u_i and v_j are the source positions of `source_position`. The triangle has width 1 in source pixels also when
    shrinking (no antialiasing).
    """
    x = np.asarray(x, np.float64)
    batch, h_in, w_in, channels = x.shape
    y = np.zeros((batch, height, width, channels))
    for i in range(height):
        u = source_position(i, height, h_in)
        for j in range(width):
            v = source_position(j, width, w_in)
            for p in range(h_in):
                for q in range(w_in):
                    weight = max(1.0 - abs(u - p), 0.0) * max(1.0 - abs(v - q), 0.0)
                    if weight > 0:
                        y[:, i, j] += weight * x[:, p, q]
    return y


def resize_to_finest(maps):
    """Maps [B,h_s,w_s,C] → maps [B,H,W,C] of the largest one's size, in the same order."""
    maps = [np.asarray(m, np.float64) for m in maps]
    height = max(m.shape[1] for m in maps)
    width = max(m.shape[2] for m in maps)
    assert any(m.shape[1:3] == (height, width) for m in maps), [m.shape for m in maps]
    return [bilinear_resize(m, height, width) for m in maps]


def attention_head(features, W1, b1, W2, b2):
    """h [B,H,W,S] = W2 * ReLU( W1 * [f^1 ; … ; f^S] + b1 ) + b2.

    features: S maps [B,h_s,w_s,C], resized to the finest one's [B,H,W,C] and concatenated in the list's order (so input
    channel s·C + c of W1 is channel c of scale s, from 0). W1 [3,3,S·C,F], b1 [F]; W2 [1,1,F,S], b2 [S]; zero padding.
    """
    stacked = np.concatenate(resize_to_finest(features), axis=-1)
    return conv2d(np.maximum(conv2d(stacked, W1, b1), 0.0), W2, b2)


def scale_weights(h):
    """w^s[i] = exp(h^s[i]) / Σ_t exp(h^t[i]); h and w [B,H,W,S]."""
    h = np.asarray(h, np.float64)
    e = np.exp(h - h.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def merge(scores, heads, kind):
    """(g [B,H,W,K], w [B,H,W,S]): scores, a list of S maps [B,h_s,w_s,K], merged at the finest one's resolution H×W.

    attention:  g[i,c] = Σ_s w^s[i] · f^s[i,c],   w = softmax over s of heads = h [B,H,W,S]
    average:    the same with w^s = 1/S
    max:        g[i,c] = max_s f^s[i,c], each class by itself; w^s = 1, as the paper puts it
    The last two do not read heads. f are scores before any softmax over classes.
    """
    assert kind in ("attention", "average", "max"), kind
    resized = resize_to_finest(scores)
    batch, height, width, _ = resized[0].shape
    S = len(resized)
    if kind == "attention":
        w = scale_weights(heads)
        assert w.shape == (batch, height, width, S), (w.shape, (batch, height, width, S))
    elif kind == "average":
        w = np.full((batch, height, width, S), 1.0 / S)
    else:
        w = np.ones((batch, height, width, S))

    weighted = [w[..., s : s + 1] * resized[s] for s in range(S)]
    g = weighted[0]
    for s in range(1, S):
        g = np.maximum(g, weighted[s]) if kind == "max" else g + weighted[s]
    return g, w
