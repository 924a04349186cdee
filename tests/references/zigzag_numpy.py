"""ZigZagNet's context module in float64 NumPy, written from the equations alone (SPEC §5; Lin et al., CVPR 2019, eqs. 1-6).

An independent and deliberately slow reference for tests: explicit loops that read like the equations, no sharing of
code with the package. Maps are NHWC, levels run finest first. Without any 'norm' among the parameters it is what
`norm='none'` and `context_norm='none'` compute.

Parameters of `zigzag`, for L levels and T stages (1-based stage numbers as in the equations, 0-based level indices):

    params[t]['down'][i] = {'fuse': {'kernel': [kh,kw,C,C], 'bias': [C], 'norm': norm},    W^{i,d}_t
                            'rce':  {K': branch, ...}}                                     R^{i,d}_t = RCE(F^{i,d}_t)
    params[t]['up'][j]   = the same with W^{j,u}_t and R^{j,u}_t, and
                           'bring': {i: [layer, ...]}           from level i < j: one layer for every halving, in order
    branch = {'conv':   {'kernel': [3,3,C,C],     'bias': [C],  'norm': norm},
              'encode': {'kernel': [K',K',C,C],   'bias': [C]},
              'decode': {'kernel': [K',K',C,C'],  'bias': [C']}}                            (C' = C, as Q is added to F)
    layer  = {'kernel': [3,3,C,C], 'bias': [C], 'norm': norm}
    norm   = {'scale': [C], 'bias': [C], 'mean': [C], 'var': [C]}                           see `normalise`

What is read, and so what has to be there (more is ignored):
    'fuse', down: t = 2 … T+1, every level (T+1 is the final fused P);   'fuse', up: t = 2 … T, every level
    'rce',  down: t = 1 … T, levels 2 … L (1-based);                     'rce',  up: t = 1 … T, levels 1 … L-1
    'bring', up only: t = 1 … T, levels 2 … L, with `bring='strided'`, where level i is larger than level j
    with `readout='up'` also, of t = T+1: 'rce', down, levels 2 … L;  'fuse', up, every level
With `dense=False` the same 'rce' entries are read, and of 'bring' those of the adjacent levels. With
`region_context='none'` no 'rce' is read. Passing one and the same object for several t, levels or directions shares its
weights. Any 'bias' of a convolution and any 'norm' may be absent or None.
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


def normalise(x, norm):
    """Batch normalisation: scale · (x - mean) / √(var + ε) + bias per channel; x itself if norm is None.

    norm = {'scale', 'bias', 'mean', 'var'}, each [C], and 'epsilon' (1e-5 if absent). Without 'mean' and 'var' they are
    x's own over batch, rows and columns, the variance biased: what training computes. A plain affine transform is
    mean 0, var 1 and epsilon 0.
    """
    if norm is None:
        return x
    assert ("mean" in norm) == ("var" in norm), sorted(norm)
    if "mean" in norm:
        mean, var = np.asarray(norm["mean"], np.float64), np.asarray(norm["var"], np.float64)
    else:
        mean = x.mean((0, 1, 2))
        var = ((x - mean) ** 2).mean((0, 1, 2))
    scale, bias = np.asarray(norm["scale"], np.float64), np.asarray(norm["bias"], np.float64)
    return scale * (x - mean) / np.sqrt(var + norm.get("epsilon", 1e-5)) + bias


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


def average_resize(x, height, width):
    """[B,H,W,C] → [B,height,width,C], no larger: the mean over adaptive bins.

    Per axis, target cell i of m covers the source cells ⌊i·n/m⌋ … ⌈(i+1)·n/m⌉ - 1 of n; bins may overlap.
    """
    x = np.asarray(x, np.float64)
    batch, h_in, w_in, channels = x.shape
    assert height <= h_in and width <= w_in, (x.shape, height, width)
    y = np.zeros((batch, height, width, channels))
    for h in range(height):
        for w in range(width):
            rows = range((h * h_in) // height, -((-(h + 1) * h_in) // height))
            columns = range((w * w_in) // width, -((-(w + 1) * w_in) // width))
            for r in rows:
                for c in columns:
                    y[:, h, w] += x[:, r, c]
            y[:, h, w] /= len(rows) * len(columns)
    return y


def halvings(source, target):
    """How many times (height, width) = source has to be halved, rounded up, to become target; 0 if they are equal."""
    (height, width), k = source, 0
    while (height, width) != tuple(target):
        assert height >= target[0] and width >= target[1] and height * width > 1, (source, target)
        height, width, k = (height + 1) // 2, (width + 1) // 2, k + 1
    return k


def strided_convolutions(x, layers):
    """A chain of 3×3 convolutions of stride 2, each with its normalisation, all but the last with ReLU.

    y[b,h,w] = bias + Σ_{i,j} x[b, 2h+i-1, 2w+j-1] · kernel[i,j], i, j = 0, 1, 2, zero outside; each makes n positions
    ⌈n/2⌉, whatever n's parity. No layers: x itself.
    """
    for number, layer in enumerate(layers, 1):
        assert layer["kernel"].shape[:2] == (3, 3), layer["kernel"].shape
        x = conv2d(x, layer["kernel"], layer.get("bias"))[:, ::2, ::2]  # conv2d is centred: every second position
        x = normalise(x, layer.get("norm"))
        if number < len(layers):
            x = relu(x)
    return x


def bring_to(R, height, width, bring="bilinear", layers=None):
    """R [B,H,W,C] at the resolution of the level that receives it, [B,height,width,C].

    Upwards (to a finer level) always bilinear; R itself where the sizes are equal. Downwards (to a coarser level):
        'bilinear'  two taps per axis, no antialiasing
        'average'   `average_resize`
        'strided'   `strided_convolutions` by `layers`, as many as `halvings` says
    """
    assert bring in ("bilinear", "average", "strided"), bring
    H, W = R.shape[1:3]
    if (H, W) == (height, width):
        return R
    if height >= H and width >= W:
        return bilinear_resize(R, height, width)
    assert height <= H and width <= W, (R.shape, height, width)
    if bring == "bilinear":
        return bilinear_resize(R, height, width)
    if bring == "average":
        return average_resize(R, height, width)
    assert len(layers) == halvings((H, W), (height, width)), (len(layers), R.shape, height, width)
    return strided_convolutions(R, layers)


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
        G = conv3x3(F), normalised if 'conv' has a 'norm'           linear: the paper names no activation (SPEC §5)
        M[x,y,c] = sum or mean of G over the cell (x,y)
        g[c'] = ReLU( Σ_{x,y,c} M[x,y,c] · E[x,y,c,c'] + b[c'] )    K'×K' convolution, no padding: one position
        Q[x,y,c'] = Σ_c g[c] · D[x,y,c,c'] + b[c']                  K'×K' deconvolution of one position, linear
    """
    F = np.asarray(F, np.float64)
    batch, height, width, _ = F.shape
    R = F.copy()
    for k in subdivisions:
        branch = params[k]
        G = normalise(conv2d(F, branch["conv"]["kernel"], branch["conv"].get("bias")), branch["conv"].get("norm"))
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


def fused(a, b, params, order="conv_norm_relu"):
    """ReLU( W * (a + b) ), the second line of eqs. 2 and 4, with BN where `order` says. BN is the identity without a 'norm'.

    With x = a + b, and W * including the bias of the convolution if there is one:
        'conv_norm_relu'  ReLU( BN( W * x ) )
        'norm_conv_relu'  ReLU( W * BN(x) )
        'norm_relu_conv'  W * ReLU( BN(x) )
    The convolution's zeros at the border stand for what it reads: BN(x) in the second, ReLU(BN(x)) in the third.
    """
    assert order in ("conv_norm_relu", "norm_conv_relu", "norm_relu_conv"), order
    x, kernel, bias, norm = a + b, params["kernel"], params.get("bias"), params.get("norm")
    if order == "conv_norm_relu":
        return relu(normalise(conv2d(x, kernel, bias), norm))
    if order == "norm_conv_relu":
        return relu(conv2d(normalise(x, norm), kernel, bias))
    return conv2d(relu(normalise(x, norm)), kernel, bias)


def _region_context(F, params, region_context, subdivisions, pool):
    """R of F: RCE(F), or F itself ('none': no parameters are read)."""
    assert region_context in ("rce", "none"), region_context
    return F if region_context == "none" else rce(F, params["rce"], subdivisions, pool)


def _add_context(P, contexts, combine):
    """P + Π contexts (eqs. 1 and 3), or P + Σ contexts ("SCF"). Without contexts there is no term at all: P."""
    assert combine in ("product", "sum"), combine
    if not contexts:
        return P
    term = None
    for R in contexts:
        if term is None:
            term = R
        elif combine == "product":
            term = term * R
        else:
            term = term + R
    return P + term


def _top_down(P, params, combine, dense, region_context, subdivisions, pool):
    """F^{i,d} = P^i + Π_{j=i+1…L} R^{j,d} (eq. 1), from the coarsest level L to level 1. params: params[t]['down']."""
    L = len(P)
    F, R = [None] * L, [None] * L
    for i in reversed(range(L)):
        sources = range(i + 1, L) if dense else range(i + 1, min(i + 2, L))
        F[i] = _add_context(P[i], [bring_to(R[j], *P[i].shape[1:3]) for j in sources], combine)
        if i > 0:  # level 1 sends nothing down
            R[i] = _region_context(F[i], params[i], region_context, subdivisions, pool)
    return F


def _bottom_up(P, params, combine, dense, region_context, subdivisions, pool, bring):
    """F^{j,u} = P^j + Π_{i=1…j-1} R^{i,u} (eq. 3), from level 1 to the coarsest level L. params: params[t]['up']."""
    L = len(P)
    F, R = [None] * L, [None] * L
    for j in range(L):
        contexts = []
        for i in range(0, j) if dense else range(max(j - 1, 0), j):
            layers = None
            if bring == "strided" and P[i].shape != P[j].shape:
                layers = params[j]["bring"][i]
            contexts.append(bring_to(R[i], *P[j].shape[1:3], bring, layers))
        F[j] = _add_context(P[j], contexts, combine)
        if j < L - 1:  # level L sends nothing up
            R[j] = _region_context(F[j], params[j], region_context, subdivisions, pool)
    return F


def zigzag_trace(
    B_levels,
    params,
    stages=3,
    combine="product",
    dense=True,
    subdivisions=(3, 5, 7),
    pool="sum",
    bring="bilinear",
    readout="down",
    fuse="conv_norm_relu",
    region_context="rce",
):
    """Every map of the full recurrence: {'P_d', 'F_d', 'P_u', 'F_u'}: {t: [L maps]}.

    t = 1 … T; 'P_d' also has T+1. With 1-based stages, and F_0 taking no part because t = 1 is its own case:
        P^{i,d}_t = B^i if t = 1, else ReLU( W^{i,d}_t * (F^{i,d}_{t-1} + F^{i,u}_{t-1}) )
        F^{i,d}_t = P^{i,d}_t + Π_{j=i+1…L} R^{j,d}_t                          i = L … 1
        P^{j,u}_t = F^{j,d}_t if t = 1, else ReLU( W^{j,u}_t * (F^{j,d}_t + F^{j,u}_{t-1}) )
        F^{j,u}_t = P^{j,u}_t + Π_{i=1…j-1} R^{i,u}_t                          j = 1 … L
    R = RCE(F) at F's own resolution (region_context='none': R = F), then brought to the receiver's by `bring_to`.
    `dense=False`: j = i+1 only, and i = j-1 only. `fuse`: the order of W, BN and ReLU, see `fused`.
    `readout='up'`: stage T+1 is begun, its whole top-down pass and the fusing after it, and 'F_d' and 'P_u' have T+1 too.
    """
    assert stages >= 1, stages
    assert readout in ("down", "up"), readout
    B_levels = [np.asarray(B, np.float64) for B in B_levels]
    L = len(B_levels)
    P_d, F_d, P_u, F_u = {}, {}, {}, {}
    options = (combine, dense, region_context, subdivisions, pool)

    def fused_down(t):
        return [fused(F_d[t - 1][i], F_u[t - 1][i], params[t]["down"][i]["fuse"], fuse) for i in range(L)]

    def fused_up(t):
        return [fused(F_d[t][j], F_u[t - 1][j], params[t]["up"][j]["fuse"], fuse) for j in range(L)]

    for t in range(1, stages + 1):
        P_d[t] = B_levels if t == 1 else fused_down(t)
        F_d[t] = _top_down(P_d[t], params[t]["down"], *options)
        P_u[t] = F_d[t] if t == 1 else fused_up(t)
        F_u[t] = _bottom_up(P_u[t], params[t]["up"], *options, bring)

    if stages + 1 in params:
        P_d[stages + 1] = fused_down(stages + 1)
    if readout == "up":
        F_d[stages + 1] = _top_down(P_d[stages + 1], params[stages + 1]["down"], *options)
        P_u[stages + 1] = fused_up(stages + 1)
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
    bring="bilinear",
    readout="down",
    fuse="conv_norm_relu",
    region_context="rce",
):
    """The L output maps, finest first: P^{i,d}_{T+1} of the full system; other maps for two of Table 1's ablations.

    Args:
        B_levels: L maps [B,H_i,W_i,C], finest first, already projected to C.
        params: see the module's docstring.
        stages: T.
        combine: 'product' of the contexts (Π), or their 'sum' ("SCF").
        exchange, fusion, dense: Table 1's switches, below.
        subdivisions: the K' of RCE.
        pool: 'sum' (as printed) or 'mean' over RCE's subregions.
        bring: contexts to a coarser level by 'bilinear', 'average' or 'strided', see `bring_to`.
        readout: with 'up' P^{j,u}_{T+1} = ReLU( W^{j,u}_{T+1} * (F^{j,d}_{T+1} + F^{j,u}_T) ) in place of P^{j,d}_{T+1},
            F^{j,d}_{T+1} of a whole top-down pass with stage T+1's own weights. Without fusion it changes nothing.
        fuse: the order of W, BN and ReLU where maps are fused, see `fused`.
        region_context: 'rce', or 'none' for R = F.

    Ablations (Table 1 and section 6.1 of the paper). Its rows' check marks are (exchange, fusion, dense) =
    (-,-,-) 82.5, (x,-,x) 83.6, (-,x,x) 84.2, (x,x,-) 84.9, (x,x,x) 86.0, by their number and the text. Reading:
      exchange  the iteration: what the two networks made is fed to the next stage. Without it there is one stage
                ("one pass of top-down and bottom-up context propagation"), T = 1 whatever `stages` says.
      fusion    ReLU(W * (· + ·)) of the two networks' maps. Every later stage begins with it, so without it there is
                again "only one pass", and the final P_{T+1} goes too.
      dense     contexts from all levels above (below); without it, the context of the adjacent level alone.
        exchange  fusion  returned                       computed by
        True      True    P^d_{T+1} (P^u_{T+1})          T stages (and the top-down pass of the next)
        False     True    P^d_2     (P^u_2)              one stage (and the top-down pass of the next), then fused once
        True      False   F^u_1                          one stage: top-down, then bottom-up on its maps
        False     False   F^d_1                          the top-down network alone: no bottom-up network
    Table 1's first row, "the encoder-decoder", is the last with dense=False and region_context='none':
        F^L = B^L,   F^i = B^i + F^{i+1} resized
    """
    if not (exchange and fusion):
        stages = 1
    options = {
        "combine": combine,
        "dense": dense,
        "subdivisions": subdivisions,
        "pool": pool,
        "region_context": region_context,
    }
    if fusion:
        assert stages + 1 in params, f"the final fusion needs params[{stages + 1}]['down']"
        trace = zigzag_trace(B_levels, params, stages, bring=bring, readout=readout, fuse=fuse, **options)
        return trace["P_d" if readout == "down" else "P_u"][stages + 1]
    if exchange:
        return zigzag_trace(B_levels, {1: params[1]}, 1, bring=bring, **options)["F_u"][1]
    return _top_down([np.asarray(B, np.float64) for B in B_levels], params[1]["down"], **options)


def random_params(rng, levels, channels, stages=3, subdivisions=(3, 5, 7), fuse_size=3, gain=0.5, sizes=None):
    """Random parameters with every entry that any setting of `zigzag` reads (t = 1 … T+1, both directions).

    'bring' is there if `sizes` gives every level's (height, width), finest first. There is no 'norm' anywhere.

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
        result = {"down": [level() for _ in range(levels)], "up": [level() for _ in range(levels)]}
        if sizes is not None:
            for j, entry in enumerate(result["up"]):
                entry["bring"] = {
                    i: [layer(3, channels) for _ in range(halvings(sizes[i], sizes[j]))] for i in range(j)
                }
        return result

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

    # Means over bins: 4 → 2 halves; 5 → 2: cells 0-2 and 2-4; 3 → 2: 0-1 and 1-2; rows and columns are independent.
    close(average_resize(np.array([0.0, 2, 10, 20]).reshape(1, 1, 4, 1), 1, 2)[0, 0, :, 0], [1, 15])
    close(average_resize(np.array([0.0, 3, 6, 9, 30]).reshape(1, 1, 5, 1), 1, 2)[0, 0, :, 0], [3, 15])
    close(average_resize(np.array([[0.0, 2, 8], [10, 12, 18]]).reshape(1, 2, 3, 1), 1, 2)[0, 0, :, 0], [6, 10])

    assert [halvings(*pair) for pair in (((4, 4), (4, 4)), ((33, 20), (5, 3)), ((2, 1), (1, 1)))] == [0, 3, 1]

    # Stride 2: centres at 0, 2, 4 of five and 0, 2 of four, zeros outside: 1+2, 2+3+4, 4+5 and 1+2, 2+3+4. A second
    # convolution: 3+9, 9+9. Normalised by -9 before ReLU, the first makes nothing; the last, -1 by its bias, has no ReLU.
    five = np.arange(1.0, 6.0).reshape(1, 1, 5, 1)
    ones = {"kernel": np.ones((3, 3, 1, 1))}
    nine_less = {"scale": np.ones(1), "bias": np.array([-9.0]), "mean": np.zeros(1), "var": np.ones(1), "epsilon": 0.0}
    close(strided_convolutions(five, [ones])[0, 0, :, 0], [3, 9, 9])
    close(strided_convolutions(five[:, :, :4], [ones])[0, 0, :, 0], [3, 9])
    close(strided_convolutions(five, [ones, ones])[0, 0, :, 0], [12, 18])
    close(strided_convolutions(five, [ones | {"norm": nine_less}, ones | {"bias": [-1.0]}])[0, 0, :, 0], [-1, -1])
    close(bring_to(five, 1, 2, "strided", [ones, ones])[0, 0, :, 0], [12, 18])
    for bring in ("bilinear", "average", "strided"):  # upwards and alike there is no choice
        close(bring_to(line, 1, 4, bring)[0, 0, :, 0], [0, 1, 3, 4])
        close(bring_to(line, 1, 2, bring), line)

    # Fusing 1 - 2 = -1 and 1 + 2 = 3. BN(x) = 2x + 1 or by the batch, (x - 1) / 2; W * y = 2 - y.
    a, b = np.ones((1, 1, 2, 1)), np.array([-2.0, 2.0]).reshape(1, 1, 2, 1)
    fixed = {"scale": [2.0], "bias": [1.0], "mean": [0.0], "var": [1.0], "epsilon": 0.0}
    batch = {"scale": [1.0], "bias": [0.0], "epsilon": 0.0}
    W = {"kernel": np.full((1, 1, 1, 1), -1.0), "bias": np.array([2.0])}
    for order, by_fixed, by_batch in (
        ("conv_norm_relu", [7, 0], [1, 0]),  # W: 3, -1;  BN: 7, -1 or 1, -1
        ("norm_conv_relu", [3, 0], [3, 1]),  # BN: -1, 7 or -1, 1;  W: 3, -5 or 3, 1
        ("norm_relu_conv", [2, -5], [2, 1]),  # ReLU(BN): 0, 7 or 0, 1;  W: 2, -5 or 2, 1
    ):
        close(fused(a, b, W | {"norm": fixed}, order)[0, 0, :, 0], by_fixed)
        close(fused(a, b, W | {"norm": batch}, order)[0, 0, :, 0], by_batch)

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

    # Read out upwards after that one stage: the P of this second stage's bottom-up pass. Dense, from P = (47, 32, 1372):
    # F3 = 1372, F2 = 32+1373 = 1405, F1 = 47 + 1406·1373 = 1930485, and half of the sums with (47, 56, 2740).
    close(values(zigzag(B, params, 1, dense=False, readout="up", **common)), [26.25, 24.75, 19.75])
    close(values(zigzag(B, params, 1, readout="up", **common)), [965266, 730.5, 2056])
    close(values(zigzag(B, params, 3, exchange=False, readout="up", **common)), [965266, 730.5, 2056])
    # R = F. Adjacent, down alone: 4, 3+4 = 7, 2+7 = 9. Full, T = 1: down 4, 7, 2+4·7 = 30; up 30, 37, 4+30·37 = 1114.
    plain = {"exchange": False, "fusion": False, "dense": False, "region_context": "none"}
    close(values(zigzag(B, {1: {"down": [{}] * 3}}, 3, **plain)), [9, 7, 4])
    close(values(zigzag(B, params, 1, region_context="none")), [30, 22, 559])
    # Every halving doubles: F2 = 8+2·48 = 104, R2 = 105, F3 = 4 + (4·48)·(2·105) = 40324. Means change no constant.
    double = {"kernel": 2 * identity}
    for up in (params[1]["up"], params[2]["up"]):
        up[1]["bring"], up[2]["bring"] = {0: [double]}, {0: [double, double], 1: [double]}
    close(values(zigzag(B, params, 1, bring="strided", **common)), [47, 56, 20164])
    close(values(zigzag(B, params, 1, bring="average", **common)), [47, 32, 1372])

    # The fusion's ReLU, and the final fusion reading params[T+1]: a negative weight there gives zeros.
    params[2]["down"][0]["fuse"] = {"kernel": np.full((1, 1, 1, 1), -1.0)}
    close(values(zigzag(B, params, 1, **common)), [0, 32, 1372])

    # Random weights, odd sizes: runs and keeps shapes; P_2 does not depend on T; L = 2 has nothing to multiply.
    rng = np.random.default_rng(0)
    shapes = ((9, 11), (5, 6), (3, 3), (2, 2))
    B = [rng.uniform(-0.4, 0.4, (2, h, w, 3)) for h, w in shapes]
    params = random_params(rng, 4, 3, 3, sizes=shapes)
    trace = zigzag_trace(B, params, 3)
    for maps in (
        zigzag(B, params, 3),
        zigzag(B, params, 3, fusion=False),
        zigzag(B, params, 3, dense=False),
        zigzag(B, params, 1, readout="up", bring="strided", fuse="norm_relu_conv"),
    ):
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
