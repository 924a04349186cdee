"""ZigZagNet's context module in float64 NumPy, written from the equations alone (SPEC section 5; paper 003, eqs. 1-6).

An independent and deliberately slow reference for tests: explicit loops that read like the equations, no
normalisation anywhere (`norm='none'`), no sharing of code with the package. Maps are NHWC, levels run finest first.

Parameters of `zigzag`, for L levels and T stages (1-based stage numbers as in the equations, 0-based level indices):

    params[t]['down'][i] = {'fuse': {'kernel': [kh,kw,C,C], 'bias': [C] or absent/None},   W^{i,d}_t
                            'rce':  {K': branch, ...}}                                     R^{i,d}_t = RCE(F^{i,d}_t)
    params[t]['up'][i]   = the same with W^{i,u}_t and R^{i,u}_t
    branch = {'conv':   {'kernel': [3,3,C,C],     'bias': [C]},
              'encode': {'kernel': [K',K',C,C],   'bias': [C]},
              'decode': {'kernel': [K',K',C,C'],  'bias': [C']}}                            (C' = C, as Q is added to F)

What is read, and so what has to be there (more is ignored):
    'fuse', down: t = 2 … T+1, every level (T+1 is the final fused P);   'fuse', up: t = 2 … T, every level
    'rce',  down: t = 1 … T, levels 2 … L (1-based);                     'rce',  up: t = 1 … T, levels 1 … L-1
With `dense=False` the same 'rce' entries are read. Passing one and the same object for several t, levels or directions
shares its weights. Any 'bias' may be absent or None.
"""

import numpy as np


def relu(x):
    return np.maximum(x, 0.0)


def conv2d(x, kernel, bias=None):
    """y[b,h,w,o] = bias[o] + Σ_{i,j,c} x[b, h+i-⌊(kh-1)/2⌋, w+j-⌊(kw-1)/2⌋, c] · kernel[i,j,c,o], zero outside.

    x [B,H,W,Cin], kernel [kh,kw,Cin,Cout] (cross-correlation: not flipped), stride 1, output [B,H,W,Cout].
    """
    x = np.asarray(x, np.float64)
    kernel = np.asarray(kernel, np.float64)
    batch, height, width, channels = x.shape
    kh, kw, cin, cout = kernel.shape
    assert cin == channels, (cin, channels)
    top, left = (kh - 1) // 2, (kw - 1) // 2
    y = np.zeros((batch, height, width, cout))
    for h in range(height):
        for w in range(width):
            for i in range(kh):
                for j in range(kw):
                    source_h, source_w = h + i - top, w + j - left
                    if 0 <= source_h < height and 0 <= source_w < width:
                        y[:, h, w] += x[:, source_h, source_w] @ kernel[i, j]
    if bias is not None:
        y += np.asarray(bias, np.float64)
    return y


def _bilinear_taps(n_out, n_in):
    """For each output index: (lower source index, upper source index, weight of the upper)."""
    taps = []
    for o in range(n_out):
        position = (o + 0.5) * n_in / n_out - 0.5  # half-pixel centres
        position = min(max(position, 0.0), n_in - 1.0)  # edge clamped
        lower = int(np.floor(position))
        upper = min(lower + 1, n_in - 1)
        taps.append((lower, upper, position - lower))
    return taps


def bilinear_resize(x, height, width):
    """[B,H,W,C] → [B,height,width,C]: two taps per axis also when shrinking (no antialiasing), edges clamped."""
    x = np.asarray(x, np.float64)
    batch, h_in, w_in, channels = x.shape
    y = np.zeros((batch, height, width, channels))
    for h, (top, bottom, a) in enumerate(_bilinear_taps(height, h_in)):
        for w, (left, right, b) in enumerate(_bilinear_taps(width, w_in)):
            y[:, h, w] = (
                (1 - a) * (1 - b) * x[:, top, left]
                + (1 - a) * b * x[:, top, right]
                + a * (1 - b) * x[:, bottom, left]
                + a * b * x[:, bottom, right]
            )
    return y


def partition_indices(size, k):
    """The cell of each of `size` rows (or columns) among k: ⌊h·k/size⌋. Disjoint; cells may be empty if size < k."""
    return [(h * k) // size for h in range(size)]


def region_pool(x, k, pool="sum"):
    """M[b,x,y,c] = Σ_{(h,w) ∈ S(x,y)} x[b,h,w,c] (eq. 5), x the row and y the column of the cell; or the mean.

    An empty cell gives 0 either way.
    """
    assert pool in ("sum", "mean"), pool
    x = np.asarray(x, np.float64)
    batch, height, width, channels = x.shape
    rows, columns = partition_indices(height, k), partition_indices(width, k)
    total = np.zeros((batch, k, k, channels))
    count = np.zeros((k, k))
    for h in range(height):
        for w in range(width):
            total[:, rows[h], columns[w]] += x[:, h, w]
            count[rows[h], columns[w]] += 1
    if pool == "mean":
        for r in range(k):
            for c in range(k):
                if count[r, c] > 0:
                    total[:, r, c] /= count[r, c]
    return total


def _bias(layer, channels):
    bias = layer.get("bias")
    return np.zeros(channels) if bias is None else np.asarray(bias, np.float64)


def rce(F, params, subdivisions=(3, 5, 7), pool="sum"):
    """Region context encoding (eqs. 5 and 6): R(h,w) = F(h,w) + Σ_{K'} Q_{K'}(x,y), (h,w) ∈ S(x,y).

    params[K'] = {'conv', 'encode', 'decode'}, each {'kernel', 'bias'}, as in the module's docstring. Per branch:
        G = conv3x3(F)                                              linear: neither SPEC nor paper names an activation
        M[x,y,c] = sum or mean of G over the cell (x,y)
        g[c'] = ReLU( Σ_{x,y,c} M[x,y,c] · E[x,y,c,c'] + b[c'] )    K'×K' convolution, no padding: one position
        Q[x,y,c'] = Σ_c g[c] · D[x,y,c,c'] + b[c']                  K'×K' deconvolution of one position, linear
    """
    F = np.asarray(F, np.float64)
    batch, height, width, _ = F.shape
    R = F.copy()
    for k in subdivisions:
        branch = params[k]
        G = conv2d(F, branch["conv"]["kernel"], branch["conv"].get("bias"))
        M = region_pool(G, k, pool)

        encode = np.asarray(branch["encode"]["kernel"], np.float64)
        g = np.zeros((batch, encode.shape[-1]))
        for x in range(k):
            for y in range(k):
                g += M[:, x, y] @ encode[x, y]
        g = relu(g + _bias(branch["encode"], encode.shape[-1]))

        decode = np.asarray(branch["decode"]["kernel"], np.float64)
        assert encode.shape[:2] == decode.shape[:2] == (k, k), (encode.shape, decode.shape, k)
        Q = np.zeros((batch, k, k, decode.shape[-1]))
        for x in range(k):
            for y in range(k):
                Q[:, x, y] = g @ decode[x, y] + _bias(branch["decode"], decode.shape[-1])

        rows, columns = partition_indices(height, k), partition_indices(width, k)
        for h in range(height):
            for w in range(width):
                R[:, h, w] += Q[:, rows[h], columns[w]]
    return R


def fuse(a, b, params):
    """ReLU( W * (a + b) ), the second line of eqs. 2 and 4."""
    return relu(conv2d(a + b, params["kernel"], params.get("bias")))


def _add_context(P, contexts, combine):
    """P + Π contexts (eqs. 1 and 3), or P + Σ contexts ("SCF"). Without contexts there is no term at all: P."""
    assert combine in ("product", "sum"), combine
    if not contexts:
        return P
    height, width = P.shape[1:3]
    term = None
    for R in contexts:
        R = bilinear_resize(R, height, width)
        if term is None:
            term = R
        elif combine == "product":
            term = term * R
        else:
            term = term + R
    return P + term


def zigzag_trace(B_levels, params, stages=3, combine="product", dense=True, subdivisions=(3, 5, 7), pool="sum"):
    """Every map of the full recurrence: {'P_d', 'F_d', 'P_u', 'F_u'}: {t: [L maps]}.

    t = 1 … T; 'P_d' also has T+1. With 1-based stages, and F_0 taking no part because t = 1 is its own case:
        P^{i,d}_t = B^i if t = 1, else ReLU( W^{i,d}_t * (F^{i,d}_{t-1} + F^{i,u}_{t-1}) )
        F^{i,d}_t = P^{i,d}_t + Π_{j=i+1…L} R^{j,d}_t                          i = L … 1
        P^{j,u}_t = F^{j,d}_t if t = 1, else ReLU( W^{j,u}_t * (F^{j,d}_t + F^{j,u}_{t-1}) )
        F^{j,u}_t = P^{j,u}_t + Π_{i=1…j-1} R^{i,u}_t                          j = 1 … L
    R = RCE(F) at F's own resolution, then resized to the receiver's. `dense=False`: j = i+1 only, and i = j-1 only.
    """
    assert stages >= 1, stages
    B_levels = [np.asarray(B, np.float64) for B in B_levels]
    L = len(B_levels)
    P_d, F_d, P_u, F_u = {}, {}, {}, {}

    def fused_down(t):
        return [fuse(F_d[t - 1][i], F_u[t - 1][i], params[t]["down"][i]["fuse"]) for i in range(L)]

    for t in range(1, stages + 1):
        # Top-down, from the coarsest level L to level 1.
        P_d[t] = B_levels if t == 1 else fused_down(t)
        F_d[t] = [None] * L
        R_d = [None] * L
        for i in reversed(range(L)):
            sources = range(i + 1, L) if dense else range(i + 1, min(i + 2, L))
            F_d[t][i] = _add_context(P_d[t][i], [R_d[j] for j in sources], combine)
            if i > 0:  # level 1 sends nothing down
                R_d[i] = rce(F_d[t][i], params[t]["down"][i]["rce"], subdivisions, pool)

        # Bottom-up, from level 1 to the coarsest level L.
        P_u[t] = []
        for j in range(L):
            if t == 1:
                P_u[t].append(F_d[t][j])
            else:
                P_u[t].append(fuse(F_d[t][j], F_u[t - 1][j], params[t]["up"][j]["fuse"]))
        F_u[t] = [None] * L
        R_u = [None] * L
        for j in range(L):
            sources = range(0, j) if dense else range(max(j - 1, 0), j)
            F_u[t][j] = _add_context(P_u[t][j], [R_u[i] for i in sources], combine)
            if j < L - 1:  # level L sends nothing up
                R_u[j] = rce(F_u[t][j], params[t]["up"][j]["rce"], subdivisions, pool)

    if stages + 1 in params:
        P_d[stages + 1] = fused_down(stages + 1)
    return {"P_d": P_d, "F_d": F_d, "P_u": P_u, "F_u": F_u}


def zigzag(
    B_levels,
    params,
    stages=3,
    combine="product",
    exchange=True,
    fusion=True,
    dense=True,
    subdivisions=(3, 5, 7),
    pool="sum",
):
    """The L output maps, finest first: P^{i,d}_{T+1} of the full system; other maps for two of Table 1's ablations.

    B_levels: L maps [B,H_i,W_i,C], finest first, already projected to C. `params`: see the module's docstring.

    Ablations (Table 1 and section 6.1 of the paper). Its rows' check marks are (exchange, fusion, dense) =
    (-,-,-) 82.5, (x,-,x) 83.6, (-,x,x) 84.2, (x,x,-) 84.9, (x,x,x) 86.0, by their number and the text. Reading:
      exchange  the iteration: what the two networks made is fed to the next stage. Without it there is one stage
                ("one pass of top-down and bottom-up context propagation"), T = 1 whatever `stages` says.
      fusion    ReLU(W * (· + ·)) of the two networks' maps. Every later stage begins with it, so without it there is
                again "only one pass", and the final P_{T+1} goes too.
      dense     contexts from all levels above (below); without it, RCE's context of the adjacent level alone.
        exchange  fusion  returned   computed by
        True      True    P^d_{T+1}  T stages
        False     True    P^d_2      one stage, then fused once
        True      False   F^u_1      one stage: top-down, then bottom-up on its maps
        False     False   F^d_1      the top-down network alone: no bottom-up network (row 1 has dense=False too)
    The last row keeps RCE on its one pathway per level (the paper does not say).
    """
    if not (exchange and fusion):
        stages = 1
    if fusion:
        assert stages + 1 in params, f"the final fusion needs params[{stages + 1}]['down']"
    options = {"combine": combine, "dense": dense, "subdivisions": subdivisions, "pool": pool}
    if fusion:
        return zigzag_trace(B_levels, params, stages, **options)["P_d"][stages + 1]
    if exchange:
        return zigzag_trace(B_levels, {1: params[1]}, 1, **options)["F_u"][1]
    return _top_down_alone(B_levels, params[1]["down"], **options)


def _top_down_alone(B_levels, params, combine, dense, subdivisions, pool):
    """F^{i,d}_1 for every level, reading no bottom-up parameters."""
    L = len(B_levels)
    F, R = [None] * L, [None] * L
    for i in reversed(range(L)):
        sources = range(i + 1, L) if dense else range(i + 1, min(i + 2, L))
        F[i] = _add_context(np.asarray(B_levels[i], np.float64), [R[j] for j in sources], combine)
        if i > 0:
            R[i] = rce(F[i], params[i]["rce"], subdivisions, pool)
    return F


def random_params(rng, levels, channels, stages=3, subdivisions=(3, 5, 7), fuse_size=3, gain=0.5):
    """Random parameters with every entry that any setting of `zigzag` reads (t = 1 … T+1, both directions).

    Kernels have standard deviation gain / √fan-in, biases gain / 4. The products raise the degree in B with every
    stage (4 levels: up to 16, 256 and 4096 after stages 1, 2 and 3), so maps much above 1 overflow and maps much below
    it leave no context to test. The default gain suits B uniform in ±0.4 for T = 3 (unit-variance B overflows
    float64); look at `zigzag_trace` before trusting a comparison elsewhere.
    """

    def layer(size, n):
        return {
            "kernel": gain / np.sqrt(size * size * n) * rng.standard_normal((size, size, n, n)),
            "bias": gain / 4 * rng.standard_normal(n),
        }

    def level():
        branches = {}
        for k in subdivisions:
            branches[k] = {"conv": layer(3, channels), "encode": layer(k, channels), "decode": layer(k, channels)}
        return {"fuse": layer(fuse_size, channels), "rce": branches}

    def stage():
        return {"down": [level() for _ in range(levels)], "up": [level() for _ in range(levels)]}

    return {t: stage() for t in range(1, stages + 2)}


def _constant_params(levels, stages, q, fuse_weight):
    """One channel, K' = 3, D = 0, so that R = F + q whatever F is; 1×1 fuse kernels of one weight, no biases."""

    def level():
        branch = {
            "conv": {"kernel": np.ones((3, 3, 1, 1))},
            "encode": {"kernel": np.ones((3, 3, 1, 1))},
            "decode": {"kernel": np.zeros((3, 3, 1, 1)), "bias": np.array([q])},
        }
        return {"fuse": {"kernel": np.full((1, 1, 1, 1), fuse_weight)}, "rce": {3: branch}}

    return {t: {d: [level() for _ in range(levels)] for d in ("down", "up")} for t in range(1, stages + 2)}


def self_check():
    """Cases worked out by hand."""
    close = np.testing.assert_allclose

    # A delta image through a 3×3 kernel shows the kernel turned by 180° (cross-correlation), cut at the border.
    kernel = np.arange(1.0, 10.0).reshape(3, 3, 1, 1)
    delta = np.zeros((1, 5, 5, 1))
    delta[0, 2, 2, 0] = 1
    close(conv2d(delta, kernel)[0, 1:4, 1:4, 0], [[9, 8, 7], [6, 5, 4], [3, 2, 1]])
    corner = np.zeros((1, 3, 3, 1))
    corner[0, 0, 0, 0] = 1
    close(conv2d(corner, kernel, np.array([10.0]))[0, :, :, 0], [[15, 14, 10], [12, 11, 10], [10, 10, 10]])
    mix = np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])  # [1,1,Cin,Cout]: rows are inputs
    close(conv2d(np.array([[[[1.0, 10.0]]]]), mix)[0, 0, 0], [41, 52, 63])

    # Resizing 2 → 4: positions -0.25, 0.25, 0.75, 1.25; 4 → 2: 0.5, 2.5; 5 → 2: 0.75, 3.25 (two taps, no blur).
    line = np.array([0.0, 4.0]).reshape(1, 1, 2, 1)
    close(bilinear_resize(line, 1, 4)[0, 0, :, 0], [0, 1, 3, 4])
    close(bilinear_resize(line.transpose(0, 2, 1, 3), 4, 1)[0, :, 0, 0], [0, 1, 3, 4])
    close(bilinear_resize(np.array([0.0, 2, 10, 20]).reshape(1, 1, 4, 1), 1, 2)[0, 0, :, 0], [1, 15])
    close(bilinear_resize(np.array([0.0, 4, 0, 8, 16]).reshape(1, 1, 5, 1), 1, 2)[0, 0, :, 0], [3, 10])
    close(bilinear_resize(delta, 5, 5), delta)

    assert partition_indices(7, 3) == [0, 0, 0, 1, 1, 2, 2]
    assert partition_indices(5, 5) == [0, 1, 2, 3, 4]
    assert partition_indices(2, 3) == [0, 1]  # cell 2 is empty
    assert partition_indices(3, 5) == [0, 1, 3]  # cells 2 and 4 are empty

    # Cells of a 4×4 map under K' = 3 have 2, 1, 1 rows and columns.
    ones = np.ones((1, 4, 4, 1))
    close(region_pool(ones, 3)[0, :, :, 0], [[4, 2, 2], [2, 1, 1], [2, 1, 1]])
    close(region_pool(ones, 3, "mean")[0, :, :, 0], np.ones((3, 3)))
    close(region_pool(ones[:, :2, :2], 3, "mean")[0, :, :, 0], [[1, 1, 0], [1, 1, 0], [0, 0, 0]])

    # RCE: identity conv, a delta at row 3, column 0 of 4×4 lies in cell (2, 0); E there is 5, so g = ReLU(5 - 2) = 3;
    # D is 1 at cell (0, 2), so rows 0-1 of column 3 get 3; the bias 0.5 goes to every neuron.
    identity = np.zeros((3, 3, 1, 1))
    identity[1, 1] = 1
    encode, decode = np.zeros((3, 3, 1, 1)), np.zeros((3, 3, 1, 1))
    encode[2, 0] = 5
    decode[0, 2] = 1
    branch = {
        "conv": {"kernel": identity},
        "encode": {"kernel": encode, "bias": np.array([-2.0])},
        "decode": {"kernel": decode, "bias": np.array([0.5])},
    }
    image = np.zeros((1, 4, 4, 1))
    image[0, 3, 0, 0] = 1
    expected = [[0.5, 0.5, 0.5, 3.5], [0.5, 0.5, 0.5, 3.5], [0.5] * 4, [1.5, 0.5, 0.5, 0.5]]
    close(rce(image, {3: branch}, (3,))[0, :, :, 0], expected)
    # The cell (2, 0) has 1×2 neurons (row 3; columns 0, 1), so its mean is 1/2: g = ReLU(2.5 - 2) = 0.5.
    close(rce(image, {3: branch}, (3,), "mean")[0, 0, 3, 0], 0.5 + 0.5)
    close(rce(-image, {3: branch}, (3,))[0, 0, 3, 0], 0.5)  # g = ReLU(-5 - 2) = 0
    # A second branch adds its Q, here its decode bias; only the branches in `subdivisions` are read.
    other = {
        "conv": {"kernel": identity},
        "encode": {"kernel": np.ones((5, 5, 1, 1))},
        "decode": {"kernel": np.zeros((5, 5, 1, 1)), "bias": np.array([7.0])},
    }
    close(rce(image, {3: branch, 5: other}, (3, 5))[0, :, :, 0], np.array(expected) + 7)
    close(rce(image, {3: branch, 5: other}, (3,))[0, :, :, 0], expected)
    # The channels of encode and decode run [in, out].
    two = {
        "conv": {"kernel": np.zeros((3, 3, 2, 2)), "bias": np.array([1.0, 0.0])},
        "encode": {"kernel": np.tile(np.array([[1.0, 10.0], [0.0, 0.0]]), (3, 3, 1, 1))},
        "decode": {"kernel": np.tile(np.array([[1.0, 0.0], [2.0, 0.0]]), (3, 3, 1, 1))},
    }
    # M = (count, 0), g = (16, 160) on a 4×4 map, Q = (16 + 320, 0).
    close(rce(np.zeros((1, 4, 4, 2)), {3: two}, (3,))[0, 2, 2], [336, 0])

    # Zigzag on constant maps B = (2, 3, 4), levels 4×4, 2×2, 1×1, R = F + 1, fuse = half the sum, T = 1:
    #   down: F3 = 4, R3 = 5; F2 = 3+5 = 8, R2 = 9; F1 = 2 + 9·5 = 47
    #   up:   F1 = 47, R1 = 48; F2 = 8+48 = 56, R2 = 57; F3 = 4 + 48·57 = 2740;  P_2 = half of the sums
    B = [np.full((1, n, n, 1), v) for n, v in ((4, 2.0), (2, 3.0), (1, 4.0))]
    params = _constant_params(3, 3, 1.0, 0.5)

    def values(maps):
        for m, b in zip(maps, B, strict=True):
            assert m.shape == b.shape
            close(m, np.full(b.shape, m.flat[0]))
        return [m.flat[0] for m in maps]

    common = {"subdivisions": (3,)}
    close(values(zigzag(B, params, 1, **common)), [47, 32, 1372])
    close(values(zigzag(B, params, 3, exchange=False, **common)), [47, 32, 1372])
    close(values(zigzag(B, params, 3, fusion=False, **common)), [47, 56, 2740])
    close(values(zigzag(B, params, 3, exchange=False, fusion=False, **common)), [47, 8, 4])
    # Adjacent only: F1 = 2+9 = 11 down; up: F1 = 11, F2 = 8+12 = 20, F3 = 4+21 = 25.
    close(values(zigzag(B, params, 1, dense=False, **common)), [11, 14, 14.5])
    close(values(zigzag(B, params, 1, dense=False, combine="sum", **common)), [11, 14, 14.5])
    # Sum: F1 = 2+9+5 = 16 down; up: F1 = 16, F2 = 8+17 = 25, F3 = 4+17+26 = 47.
    close(values(zigzag(B, params, 1, combine="sum", **common)), [16, 16.5, 25.5])
    # Two stages, adjacent only. Stage 2 down: P = (11, 14, 14.5), F3 = 14.5, F2 = 14+15.5 = 29.5, F1 = 11+30.5 = 41.5;
    # up: P = half of ((41.5, 29.5, 14.5) + (11, 20, 25)) = (26.25, 24.75, 19.75),
    # F1 = 26.25, F2 = 24.75+27.25 = 52, F3 = 19.75+53 = 72.75.
    close(values(zigzag(B, params, 2, dense=False, **common)), [33.875, 40.75, 43.625])

    # The fusion's ReLU, and the final fusion reading params[T+1]: a negative weight there gives zeros.
    params[2]["down"][0]["fuse"] = {"kernel": np.full((1, 1, 1, 1), -1.0)}
    close(values(zigzag(B, params, 1, **common)), [0, 32, 1372])

    # Random weights, odd sizes: runs and keeps shapes; P_2 does not depend on T; L = 2 has nothing to multiply.
    rng = np.random.default_rng(0)
    shapes = ((9, 11), (5, 6), (3, 3), (2, 3))
    B = [rng.uniform(-0.4, 0.4, (2, h, w, 3)) for h, w in shapes]
    params = random_params(rng, 4, 3, 3)
    trace = zigzag_trace(B, params, 3)
    for maps in (zigzag(B, params, 3), zigzag(B, params, 3, fusion=False), zigzag(B, params, 3, dense=False)):
        assert [m.shape for m in maps] == [b.shape for b in B] and all(np.isfinite(m).all() for m in maps)
    for a, b, c, d in zip(
        zigzag(B, params, 1),
        trace["P_d"][2],
        zigzag(B, params, exchange=False, fusion=False),
        trace["F_d"][1],
        strict=True,
    ):
        close(a, b)
        close(c, d)
    for a, b in zip(zigzag(B[:2], params, 2), zigzag(B[:2], params, 2, combine="sum", dense=False), strict=True):
        close(a, b)


if __name__ == "__main__":
    self_check()
    print("zigzag_numpy: all checks pass")
