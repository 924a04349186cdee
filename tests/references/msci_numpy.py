"""MSCI in float64 NumPy, written from the equations alone (SPEC section 4; paper 000, algorithm 1 and eqs. 1-5).

An independent and deliberately slow reference for tests: explicit loops that read like the equations, no
normalisation anywhere (`norm='none'`), no sharing of code with the package. Maps are NHWC, levels run finest first,
indices from 0. 'up' is the direction l → l+1 (context of level l into level l+1), 'down' is l+1 → l.

    params[l] = {'up': direction, 'down': direction, 'deconv': {'kernel', 'bias'}}       pair (l, l+1), l = 0 … L-2
    direction a → b = {'conv':   [3,3,C,4C]    W_q, on the map of the receiving level b
                       'bias':   [4C]          b_q
                       'sum':    [C,4C]        W_{s,q}, on R of the sending level a
                       'around': [C,4C]}       W_{a,q}, on M of the sending level a (not read without super-pixels)
    blocks of 4C in the order i, f, o, c;  'deconv': see `combine`

Kernels are [kh,kw,in,out], cross-correlation with zero padding; dense weights [in,out] act on rows. A region map
has ids 0 … n-1; any id outside is "no region": its pixels and cells belong to no S_n.
"""

import math

import numpy as np

from .scales_numpy import bilinear_resize, conv2d


def sigmoid(x):
    """1 / (1 + exp(-x)), written with tanh so that nothing overflows."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def cell_regions(region_map, height, width, strides=None):
    """[B,H,W] → [B,height,width]: the region of the pixel under the centre of each cell's receptive field.

    Cell (y,x) takes region_map[y·s, x·t], indices clipped to the image. strides = (s, t); by default s = ⌈H/height⌉ and
    t = ⌈W/width⌉. That is the network's stride wherever it divides the size, but need not be elsewhere: 65 pixels at
    stride 16 make 5 rows and s = 13. Pass strides to say otherwise.
    """
    region_map = np.asarray(region_map)
    batch, H, W = region_map.shape
    s, t = strides if strides is not None else (math.ceil(H / height), math.ceil(W / width))
    cells = np.zeros((batch, height, width), region_map.dtype)
    for y in range(height):
        for x in range(width):
            cells[:, y, x] = region_map[:, min(y * s, H - 1), min(x * t, W - 1)]
    return cells


def adjacency(region_map, n):
    """[H,W] → bool [n,n]: True where regions a ≠ b touch, i.e. own two pixels that are 4-neighbours. Symmetric.

    The diagonal is False (`neighbour_sums` adds S_n itself). A batch [B,H,W] gives [B,n,n].
    """
    region_map = np.asarray(region_map)
    if region_map.ndim == 3:
        return np.stack([adjacency(m, n) for m in region_map])
    H, W = region_map.shape
    touching = np.zeros((n, n), bool)
    for y in range(H):
        for x in range(W):
            for y2, x2 in ((y + 1, x), (y, x + 1)):
                if y2 < H and x2 < W:
                    a, b = region_map[y, x], region_map[y2, x2]
                    if a != b and 0 <= a < n and 0 <= b < n:
                        touching[a, b] = touching[b, a] = True
    return touching


def region_counts(cells, n):
    """cells [B,h,w] → |Φ(S_n)| [B,n]: how many cells each region owns."""
    count = np.zeros((len(cells), n), int)
    for b in range(len(cells)):
        for region in np.ravel(cells[b]):
            if 0 <= region < n:
                count[b, region] += 1
    return count


def region_sums(f, cells, n, pool="sum"):
    """R[b,n] = Σ_{(y,x) ∈ Φ(S_n)} f[b,y,x] (eq. 3): f [B,h,w,C], cells [B,h,w] → [B,n,C].

    pool='mean': that divided by |Φ(S_n)|. A region without cells has R = 0 either way.
    """
    assert pool in ("sum", "mean"), pool
    f = np.asarray(f, np.float64)
    batch, height, width, channels = f.shape
    R = np.zeros((batch, n, channels))
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                region = cells[b, y, x]
                if 0 <= region < n:
                    R[b, region] += f[b, y, x]
    if pool == "mean":
        R /= np.maximum(region_counts(cells, n), 1)[:, :, None]
    return R


def neighbour_sums(r, touching, counts=None, pool="sum"):
    """M[b,n] = Σ_{m ∈ N(S_n)} R[b,m] (eq. 4): r [B,n,C], touching [B,n,n] (or [n,n] for all) → [B,n,C].

    N(S_n) is S_n itself, whatever the diagonal says, and the regions adjacent to it.
    pool='mean': the plain mean of R[m] over those m ∈ N(S_n) that own cells of this map (counts [B,n] > 0), each region
    weighing the same; 0 if there is none.
    """
    assert pool in ("sum", "mean"), pool
    r = np.asarray(r, np.float64)
    batch, n, _ = r.shape
    touching = np.broadcast_to(touching, (batch, n, n))
    M = np.zeros_like(r)
    for b in range(batch):
        for k in range(n):
            terms = 0
            for m in range(n):
                if m == k or touching[b, k, m]:
                    M[b, k] += r[b, m]
                    if counts is not None and counts[b, m] > 0:
                        terms += 1
            if pool == "mean" and terms > 0:
                M[b, k] /= terms
    assert pool == "sum" or counts is not None, "the mean needs the counts"
    return M


def to_cells(values, cells):
    """values [B,n,C], cells [B,h,w] → [B,h,w,C]: values[b, cells[b,y,x]], and 0 at cells of no region."""
    batch, height, width = cells.shape
    n, channels = values.shape[1:]
    out = np.zeros((batch, height, width, channels))
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                if 0 <= cells[b, y, x] < n:
                    out[b, y, x] = values[b, cells[b, y, x]]
    return out


def context(F_a, shape_b, regions_a, regions_b, touching, pool):
    """What level a sends to each cell of level b (height, width = shape_b): (R, M), both [B,h_b,w_b,C].

    R^a[n] and M^a[n], n the region of the receiving cell; R and M are 0 at cells of no region. Without super-pixels
    (touching None): the map of level a resized bilinearly to b's resolution for R, and no M (None).
    """
    if touching is None:
        return bilinear_resize(F_a, *shape_b), None
    n = touching.shape[-1]
    R = region_sums(F_a, regions_a, n, pool)
    M = neighbour_sums(R, touching, region_counts(regions_a, n), pool)
    return to_cells(R, regions_b), to_cells(M, regions_b)


def lstm_update(F_b, c, R, M, params, cell_states=True):
    """One direction a → b of one stage (eq. 5): (F_b + A, c'), all [B,h_b,w_b,C].

    G_q = act( W_q * F_b + W_{s,q} R + W_{a,q} M + b_q )     q = i, f, o logistic; q = c tanh
    c'  = G_f ⊙ c + G_i ⊙ G_c                                cell_states=False: c' = G_i ⊙ G_c
    A   = tanh( G_o ⊙ c' )
    """
    C = F_b.shape[-1]
    pre = conv2d(F_b, params["conv"], params["bias"]) + R @ np.asarray(params["sum"], np.float64)
    if M is not None:
        pre = pre + M @ np.asarray(params["around"], np.float64)
    assert pre.shape[-1] == 4 * C, (pre.shape, C)
    G_i = sigmoid(pre[..., 0 * C : 1 * C])
    G_f = sigmoid(pre[..., 1 * C : 2 * C])
    G_o = sigmoid(pre[..., 2 * C : 3 * C])
    G_c = np.tanh(pre[..., 3 * C : 4 * C])
    c = G_f * c + G_i * G_c if cell_states else G_i * G_c
    return F_b + np.tanh(G_o * c), c


def intertwine(F_l, F_l1, cell_states, params, regions, T=3, pool="sum"):
    """T stages of the bidirectional connection: (F_l, F_l1, cell_states) after them.

    F_l [B,h,w,C], F_l1 [B,h',w',C]: the maps of levels l and l+1.
    cell_states: {'up': c^{l→l+1} [B,h',w',C], 'down': c^{l+1→l} [B,h,w,C]}, either may be absent or None for
            zeros;
        False: without cell states, c' = G_i ⊙ G_c, and False is returned in their place.
    params: {'up': direction, 'down': direction} as in the module's docstring.
    regions: (cells of l [B,h,w], cells of l+1 [B,h',w'], adjacency [B,n,n] or [n,n]); None: without super-pixels, each
        neuron takes the other level's map, resized bilinearly to its resolution, in place of R, and there is no M.
    Both directions of a stage read the maps of stage t and produce those of t+1:
        F^{l+1}_{t+1} = F^{l+1}_t + A^{l→l+1}( F^{l+1}_t, R^l_t, M^l_t )
        F^l_{t+1}     = F^l_t     + A^{l+1→l}( F^l_t, R^{l+1}_t, M^{l+1}_t )
    """
    F_l, F_l1 = np.asarray(F_l, np.float64), np.asarray(F_l1, np.float64)
    cells_l, cells_l1, touching = (None, None, None) if regions is None else regions
    remember = cell_states is not False
    states = cell_states or {}
    c_up, c_down = states.get("up"), states.get("down")
    c_up = np.zeros_like(F_l1) if c_up is None else np.asarray(c_up, np.float64)
    c_down = np.zeros_like(F_l) if c_down is None else np.asarray(c_down, np.float64)
    assert c_up.shape == F_l1.shape and c_down.shape == F_l.shape

    for _ in range(T):
        R_up, M_up = context(F_l, F_l1.shape[1:3], cells_l, cells_l1, touching, pool)
        R_down, M_down = context(F_l1, F_l.shape[1:3], cells_l1, cells_l, touching, pool)
        new_l1, c_up = lstm_update(F_l1, c_up, R_up, M_up, params["up"], remember)
        new_l, c_down = lstm_update(F_l, c_down, R_down, M_down, params["down"], remember)
        F_l, F_l1 = new_l, new_l1
    return F_l, F_l1, {"up": c_up, "down": c_down} if remember else False


def combine(F_l, F_l1, deconv):
    """Q^l = F_T^l + D * F_T^{l+1} (eq. 2): F_l [B,h,w,C], F_l1 [B,h',w',C] → [B,h,w,C].

    deconv = {'kernel', 'bias' (absent or None: zeros)}. Maps of equal size: D is a 3×3 convolution, kernel [3,3,C,C],
    bias [C]. Otherwise D upsamples by 2, kernel [3,3,C,4C], bias [4C]: with u = kernel * F_l1 + bias [B,h',w',4C],
        (D * F_l1)[2y+i, 2x+j, c] = u[y, x, (2i + j)·C + c]        i, j ∈ {0, 1}
    cropped to h×w at the bottom and the right.
    """
    F_l, F_l1 = np.asarray(F_l, np.float64), np.asarray(F_l1, np.float64)
    batch, h, w, C = F_l.shape
    h1, w1 = F_l1.shape[1:3]
    u = conv2d(F_l1, deconv["kernel"], deconv.get("bias"))
    if (h, w) == (h1, w1):
        assert u.shape[-1] == C, (u.shape, C)
        return F_l + u
    assert u.shape[-1] == 4 * C, (u.shape, C)
    assert h <= 2 * h1 and w <= 2 * w1, (F_l.shape, F_l1.shape)
    D = np.zeros((batch, 2 * h1, 2 * w1, C))
    for y in range(h1):
        for x in range(w1):
            for i in range(2):
                for j in range(2):
                    block = 2 * i + j
                    D[:, 2 * y + i, 2 * x + j] = u[:, y, x, block * C : (block + 1) * C]
    return F_l + D[:, :h, :w]


def msci(
    maps, params, region_map, T=3, pool="sum", cell_states=True, superpixels=True, n=None, strides=None, trace=False
):
    """Q_K^1 [B,h_1,w_1,C], the map for the classifier (algorithm 1), K = L - 1.

    maps: L maps [B,h_l,w_l,C], finest first. params[l], l = 0 … L-2: the module's docstring.
    region_map [B,H,W]: the pixels' regions (not read, may be None, if not superpixels); n: how many ids count
    (default: the largest id + 1); strides: per level (rows, columns), or None for `cell_regions`' default.

        Q_0^l = F^l;   all cell states zero
        for k = 1 … K:   for l = 1 … |Q_{k-1}| - 1:
            F^l, F^{l+1}, c^{l→l+1}, c^{l+1→l} = intertwine(Q_{k-1}^l, Q_{k-1}^{l+1}; c^{l→l+1}, c^{l+1→l}; params[l])
            Q_k^l = F^l + D^l * F^{l+1}
    Q_{k-1} is complete before phase k reads it. The pair's parameters, D among them, serve every phase, and its cell
    states carry over from phase to phase.
    trace=True: returns (Q, cell_states), Q[k] the list of maps after phase k = 0 … K, and the pairs' last cell states.
    """
    maps = [np.asarray(m, np.float64) for m in maps]
    L = len(maps)
    cells, touching = [None] * L, None
    if superpixels:
        region_map = np.asarray(region_map)
        n = int(region_map.max()) + 1 if n is None else n
        touching = adjacency(region_map, n)
        for level, F in enumerate(maps):
            cells[level] = cell_regions(region_map, *F.shape[1:3], None if strides is None else strides[level])

    Q = [maps]
    states = [{} if cell_states else False for _ in range(L - 1)]
    for k in range(1, L):
        Q.append([])
        for a in range(len(Q[k - 1]) - 1):  # the pair (a, a + 1)
            regions = (cells[a], cells[a + 1], touching) if superpixels else None
            F_l, F_l1, states[a] = intertwine(Q[k - 1][a], Q[k - 1][a + 1], states[a], params[a], regions, T, pool)
            Q[k].append(combine(F_l, F_l1, params[a]["deconv"]))
    return (Q, states) if trace else Q[L - 1][0]
