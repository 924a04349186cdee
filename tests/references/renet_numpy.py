"""ReNet layers in float64 NumPy, written from the equations alone (SPEC §2; Yan et al., 2016, eq. 1, §3 and §4.2).

An independent and deliberately slow reference for tests: explicit loops that read like the equations, no sharing of
code with the package. Maps are NHWC. Weights of one sweep, for patch vectors of n = s·t·C values and d units:

    cell     'input'    'recurrent'    'bias'    blocks of the last axis, in this order
    lstm     [n,4d]     [d,4d]         [4d]      i (input gate), f (forget gate), o (output gate), g (candidate)
    gru      [n,3d]     [d,3d]         [3d]      r (reset gate), z (update gate), n (candidate)
    irnn     [n,d]      [d,d]          [d]       one block

Vectors are rows: x @ input + h @ recurrent + bias. No peepholes; all states start at zero.
"""

import math

import numpy as np


def sigmoid(x):
    """1 / (1 + exp(-x)), written with tanh so that nothing overflows."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def to_patches(x, patch):
    """[B,H,W,C] → [B,h,w,s·t·C], h = ⌈H/s⌉, w = ⌈W/t⌉: the grid of patches of s rows and t columns, each flattened.

    A vector runs over (row in patch, column in patch, channel), the channel fastest. Where s or t does not divide, the
    last row and column of the image are repeated at the bottom and the right (edge padding).
    """
    x = np.asarray(x, np.float64)
    batch, height, width, channels = x.shape
    s, t = patch
    h, w = math.ceil(height / s), math.ceil(width / t)
    grid = np.zeros((batch, h, w, s * t * channels))
    for y in range(h):
        for z in range(w):
            values = []
            for row in range(s):
                for column in range(t):
                    values.append(x[:, min(y * s + row, height - 1), min(z * t + column, width - 1)])
            grid[:, y, z] = np.concatenate(values, axis=-1)
    return grid


def lstm_step(x, state, weights):
    """x [B,n], state (h [B,d], c [B,d]) → the next state.

    i, f, o = σ(W x + U h + b);  g = tanh(W_g x + U_g h + b_g);  c' = f ⊙ c + i ⊙ g;  h' = o ⊙ tanh(c')
    """
    h, c = state
    d = h.shape[-1]
    a = x @ weights["input"] + h @ weights["recurrent"] + weights["bias"]
    i = sigmoid(a[:, 0 * d : 1 * d])
    f = sigmoid(a[:, 1 * d : 2 * d])
    o = sigmoid(a[:, 2 * d : 3 * d])
    g = np.tanh(a[:, 3 * d : 4 * d])
    c = f * c + i * g
    return o * np.tanh(c), c


def gru_step(x, state, weights):
    """x [B,n], state (h [B,d],) → the next state.

    r, z = σ(W x + U h + b);  n = tanh(W_n x + b_n + r ⊙ (U_n h));  h' = (1 - z) ⊙ n + z ⊙ h
    """
    (h,) = state
    d = h.shape[-1]
    a = x @ weights["input"] + weights["bias"]
    u = h @ weights["recurrent"]
    r = sigmoid(a[:, 0 * d : 1 * d] + u[:, 0 * d : 1 * d])
    z = sigmoid(a[:, 1 * d : 2 * d] + u[:, 1 * d : 2 * d])
    n = np.tanh(a[:, 2 * d : 3 * d] + r * u[:, 2 * d : 3 * d])
    return ((1.0 - z) * n + z * h,)


def irnn_step(x, state, weights):
    """x [B,n], state (h [B,d],) → the next state: h' = ReLU(W x + U h + b)."""
    (h,) = state
    return (np.maximum(x @ weights["input"] + h @ weights["recurrent"] + weights["bias"], 0.0),)


STEPS = {"lstm": lstm_step, "gru": gru_step, "irnn": irnn_step}
STATES = {"lstm": 2, "gru": 1, "irnn": 1}  # h, and the LSTM's c
BLOCKS = {"lstm": 4, "gru": 3, "irnn": 1}


def sweep(vectors, weights, cell, reverse):
    """One 1-D sweep: vectors [B,length,n] → the hidden states h [B,length,d], h[k] from vectors[≤ k].

    reverse: from the end to the start, so that h[k] is made of vectors[≥ k]; the output keeps the input's order.
    """
    weights = {name: np.asarray(weights[name], np.float64) for name in ("input", "recurrent", "bias")}
    batch, length, n = vectors.shape
    d = weights["recurrent"].shape[0]
    assert weights["input"].shape == (n, BLOCKS[cell] * d), (weights["input"].shape, n, d)
    assert weights["recurrent"].shape == (d, BLOCKS[cell] * d), (weights["recurrent"].shape, d)
    assert weights["bias"].shape == (BLOCKS[cell] * d,), (weights["bias"].shape, d)
    state = tuple(np.zeros((batch, d)) for _ in range(STATES[cell]))
    output = np.zeros((batch, length, d))
    for k in reversed(range(length)) if reverse else range(length):
        state = STEPS[cell](vectors[:, k], state, weights)
        output[:, k] = state[0]
    return output


def renet_layer(x, weights_forward, weights_backward, patch=(1, 1), direction="vertical", cell="lstm"):
    """x [B,H,W,C] → [B,⌈H/s⌉,⌈W/t⌉,2d]: two sweeps of the grid of patches (s,t), the forward one's states first.

    vertical (every column x of the grid by itself):
        (h^F[y,x], c^F[y,x]) = LSTM^F(I[y,x], h^F[y-1,x], c^F[y-1,x])     y = 1 … h, from the top
        (h^B[y,x], c^B[y,x]) = LSTM^B(I[y,x], h^B[y+1,x], c^B[y+1,x])     y = h … 1, from the bottom
        output[y,x] = [h^F[y,x] ; h^B[y,x]]
    horizontal: the same along every row y, forward from the left, backward from the right.
    """
    assert direction in ("vertical", "horizontal"), direction
    grid = to_patches(x, patch)
    batch, h, w, _ = grid.shape
    d = np.asarray(weights_forward["recurrent"]).shape[0]
    assert np.asarray(weights_backward["recurrent"]).shape[0] == d
    output = np.zeros((batch, h, w, 2 * d))
    if direction == "vertical":
        for column in range(w):
            output[:, :, column, :d] = sweep(grid[:, :, column], weights_forward, cell, reverse=False)
            output[:, :, column, d:] = sweep(grid[:, :, column], weights_backward, cell, reverse=True)
    else:
        for row in range(h):
            output[:, row, :, :d] = sweep(grid[:, row], weights_forward, cell, reverse=False)
            output[:, row, :, d:] = sweep(grid[:, row], weights_backward, cell, reverse=True)
    return output


def renet_group(x, vertical, horizontal, patch=(1, 1), cell="lstm"):
    """x [B,H,W,C] → [B,⌈H/s⌉,⌈W/t⌉,2d]: a vertical layer on patches (s,t), then a horizontal one on patches (1,1).

    vertical and horizontal: (weights_forward, weights_backward) each; the horizontal layer reads the 2d values of the
    vertical one, so its 'input' has 2d rows.
    """
    y = renet_layer(x, vertical[0], vertical[1], patch, "vertical", cell)
    return renet_layer(y, horizontal[0], horizontal[1], (1, 1), "horizontal", cell)


def l2_normalise(x, scale):
    """x [B,H,W,C] → λ · x[b] / √(Σ_{y,x,c} x[b,y,x,c]²): the whole map of an image has norm λ = scale.

    A map of zeros stays zeros. No epsilon.
    """
    x = np.asarray(x, np.float64)
    y = np.zeros_like(x)
    for b in range(len(x)):
        norm = np.sqrt(np.sum(x[b] ** 2))
        if norm > 0:
            y[b] = scale * x[b] / norm
    return y
