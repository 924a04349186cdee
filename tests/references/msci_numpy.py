"""MSCI in float64 NumPy, written from the equations alone (SPEC §4; Lin et al., ECCV 2018, algorithm 1 and eqs. 1-5).

An independent and deliberately slow reference for tests: explicit loops that read like the equations, no
normalisation anywhere (`norm='none'`), no sharing of code with the package. Maps are NHWC, levels run finest first,
indices from 0. 'up' is the direction l → l+1 (context of level l into level l+1), 'down' is l+1 → l.

    params[l] = {'up': direction, 'down': direction, 'deconv': {'kernel', 'bias'}}       pair (l, l+1), l = 0 … L-2
    direction a → b = {'conv':   [3,3,C,4C]    W_q, on the map of the receiving level b
                       'bias':   [4C]          b_q
                       'sum':    [C,4C]        W_{s,q}, on R of the sending level a
                       'around': [C,4C]}       W_{a,q}, on M of the sending level a
    blocks of 4C in the order i, f, o, c;  'deconv': see `combine`;  without super-pixels everything is read as with them

Kernels are [kh,kw,in,out], cross-correlation with zero padding; dense weights [in,out] act on rows. A region map
has ids 0 … n-1; any id outside is "no region": its pixels and cells belong to no S_n.
"""

import math

import numpy as np

from .scales_numpy import bilinear_resize, conv2d


def sigmoid(x):
    """1 / (1 + exp(-x)), written with tanh so that nothing overflows."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def grid_regions(height, width, n):
    """[height,width]: the regions of a regular grid over an image, at most n: ⌊y·g/height⌋·g + ⌊x·g/width⌋, g = ⌊√n⌋.

    Stands in for the super-pixels of an image (`np.stack` for a batch); nothing else about regions changes.
    """
    g = math.isqrt(n)
    regions = np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            regions[y, x] = (y * g // height) * g + x * g // width
    return regions


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


def window_means(f):
    """f [B,h,w,C] → [B,h,w,C]: the mean over the 3×3 window around each position, of those positions inside the map."""
    f = np.asarray(f, np.float64)
    means = np.zeros_like(f)
    height, width = f.shape[1:3]
    for y in range(height):
        for x in range(width):
            inside = [
                f[:, v, u]
                for v in range(y - 1, y + 2)
                for u in range(x - 1, x + 2)
                if 0 <= v < height and 0 <= u < width
            ]
            means[:, y, x] = sum(inside) / len(inside)
    return means


def context(F_a, shape_b, regions_a, regions_b, touching, pool):
    """What level a sends to each cell of level b (height, width = shape_b): (R, M), both [B,h_b,w_b,C].

    R^a[n] and M^a[n], n the region of the receiving cell; R and M are 0 at cells of no region. Without super-pixels
    (touching None): R is the map of level a resized bilinearly to b's resolution, M the mean of R over a 3×3 window,
    whatever `pool` says.
    """
    if touching is None:
        R = bilinear_resize(F_a, *shape_b)
        return R, window_means(R)
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
    pre = conv2d(F_b, params["conv"], params["bias"])
    pre = pre + R @ np.asarray(params["sum"], np.float64) + M @ np.asarray(params["around"], np.float64)
    assert pre.shape[-1] == 4 * C, (pre.shape, C)
    G_i = sigmoid(pre[..., 0 * C : 1 * C])
    G_f = sigmoid(pre[..., 1 * C : 2 * C])
    G_o = sigmoid(pre[..., 2 * C : 3 * C])
    G_c = np.tanh(pre[..., 3 * C : 4 * C])
    c = G_f * c + G_i * G_c if cell_states else G_i * G_c
    return F_b + np.tanh(G_o * c), c


def intertwine(F_l, F_l1, cell_states, params, regions, T=3, pool="sum", directions="both"):
    """T stages of the bidirectional connection: (F_l, F_l1, cell_states) after them.

    F_l [B,h,w,C], F_l1 [B,h',w',C]: the maps of levels l and l+1.
    cell_states: {'up': c^{l→l+1} [B,h',w',C], 'down': c^{l+1→l} [B,h,w,C]}, either may be absent or None for
            zeros;
        False: without cell states, c' = G_i ⊙ G_c, and False is returned in their place.
    params: {'up': direction, 'down': direction} as in the module's docstring.
    regions: (cells of l [B,h,w], cells of l+1 [B,h',w'], adjacency [B,n,n] or [n,n]); None: without super-pixels, see
        `context`.
    directions: 'both'; 'up', l → l+1 alone, or 'down', l+1 → l alone: the map that receives nothing stays as it is, the
        other direction's parameters are not read, and the cell states returned have none of it.
    Both directions of a stage read the maps of stage t and produce those of t+1:
        F^{l+1}_{t+1} = F^{l+1}_t + A^{l→l+1}( F^{l+1}_t, R^l_t, M^l_t )
        F^l_{t+1}     = F^l_t     + A^{l+1→l}( F^l_t, R^{l+1}_t, M^{l+1}_t )
    """
    assert directions in ("both", "up", "down"), directions
    F_l, F_l1 = np.asarray(F_l, np.float64), np.asarray(F_l1, np.float64)
    cells_l, cells_l1, touching = (None, None, None) if regions is None else regions
    remember = cell_states is not False
    states = {}
    for direction, receiver in (("up", F_l1), ("down", F_l)):
        if directions in ("both", direction):
            c = (cell_states or {}).get(direction)
            states[direction] = np.zeros_like(receiver) if c is None else np.asarray(c, np.float64)
            assert states[direction].shape == receiver.shape, (direction, states[direction].shape, receiver.shape)

    for _ in range(T):
        new_l, new_l1 = F_l, F_l1
        if "up" in states:
            R, M = context(F_l, F_l1.shape[1:3], cells_l, cells_l1, touching, pool)
            new_l1, states["up"] = lstm_update(F_l1, states["up"], R, M, params["up"], remember)
        if "down" in states:
            R, M = context(F_l1, F_l.shape[1:3], cells_l1, cells_l, touching, pool)
            new_l, states["down"] = lstm_update(F_l, states["down"], R, M, params["down"], remember)
        F_l, F_l1 = new_l, new_l1
    return F_l, F_l1, states if remember else False


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
    maps,
    params,
    region_map,
    T=3,
    pool="sum",
    cell_states=True,
    superpixels=True,
    n=None,
    strides=None,
    trace=False,
    directions="both",
    phases="all",
    reset_states=False,
):
    """Q_K^1 [B,h_1,w_1,C], the map for the classifier (algorithm 1), K = L - 1.

    maps: L maps [B,h_l,w_l,C], finest first. params[l], l = 0 … L-2: the module's docstring.
    region_map [B,H,W]: the pixels' regions (not read, may be None, if not superpixels), of super-pixels or of a grid
    (`grid_regions`); n: how many ids count (default: the largest id + 1); strides: per level (rows, columns), or None
    for `cell_regions`' default.

        Q_0^l = F^l;   all cell states zero
        for k = 1 … K:   for l = 1 … |Q_{k-1}| - 1:
            F^l, F^{l+1}, c^{l→l+1}, c^{l+1→l} = intertwine(Q_{k-1}^l, Q_{k-1}^{l+1}; c^{l→l+1}, c^{l+1→l}; params[l])
            Q_k^l = F^l + D^l * F^{l+1}
    Q_{k-1} is complete before phase k reads it. The pair's parameters, D among them, serve every phase, and its cell
    states carry over from phase to phase.

    cell_states=False: without them. reset_states=True: they are zero again at the beginning of every phase.
    directions: 'both', 'up' or 'down', see `intertwine`.
    phases: 'all', as above; 'one': the phase k = 1 alone, and the result is Q_1^1 + Σ_{l=2…L-1} Q_1^l, each resized
    bilinearly to Q_1^1's size.
    trace=True: returns (Q, cell_states), Q[k] the list of maps after phase k = 0 … K (0, 1 if one phase), and the pairs'
    last cell states.
    """
    assert phases in ("all", "one"), phases
    maps = [np.asarray(m, np.float64) for m in maps]
    L = len(maps)
    cells, touching = [None] * L, None
    if superpixels:
        region_map = np.asarray(region_map)
        n = int(region_map.max()) + 1 if n is None else n
        touching = adjacency(region_map, n)
        for level, F in enumerate(maps):
            cells[level] = cell_regions(region_map, *F.shape[1:3], None if strides is None else strides[level])

    def zeros():
        return [{} if cell_states else False for _ in range(L - 1)]

    Q = [maps]
    states = zeros()
    for k in range(1, L if phases == "all" else 2):
        if reset_states:
            states = zeros()
        Q.append([])
        for a in range(len(Q[k - 1]) - 1):  # the pair (a, a + 1)
            regions = (cells[a], cells[a + 1], touching) if superpixels else None
            F_l, F_l1, states[a] = intertwine(
                Q[k - 1][a], Q[k - 1][a + 1], states[a], params[a], regions, T, pool, directions
            )
            Q[k].append(combine(F_l, F_l1, params[a]["deconv"]))
    if trace:
        return Q, states
    if phases == "all":
        return Q[L - 1][0]
    return sum(bilinear_resize(q, *Q[1][0].shape[1:3]) for q in Q[1])


def self_check():
    """Cases worked out by hand."""
    close = np.testing.assert_allclose

    np.testing.assert_array_equal(grid_regions(5, 6, 8), [[0, 0, 0, 1, 1, 1]] * 3 + [[2, 2, 2, 3, 3, 3]] * 2)
    np.testing.assert_array_equal(grid_regions(2, 3, 3), np.zeros((2, 3)))
    touching = adjacency(grid_regions(5, 6, 8), 4)
    np.testing.assert_array_equal(touching, np.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]], bool))

    # 0 … 8 in rows of three: a corner has 4 positions, an edge 6.
    nine = np.arange(9.0).reshape(1, 3, 3, 1)
    close(window_means(nine)[0, :, :, 0], [[2, 2.5, 3], [3.5, 4, 4.5], [5, 5.5, 6]])
    # The window moves over the resized map: 0, 4 at four positions is 0, 1, 3, 4.
    R, M = context(np.array([0.0, 4.0]).reshape(1, 1, 2, 1), (1, 4), None, None, None, "sum")
    close(R[0, 0, :, 0], [0, 1, 3, 4])
    close(M[0, 0, :, 0], [1 / 2, 4 / 3, 8 / 3, 7 / 2])

    # One channel, one position per level, no super-pixels. The input and output gates are 1 (a bias of 40), the forget
    # gate too, so that c adds up; G_c = tanh(s·R + a·M), and R = M. D takes its input over as it is.
    def direction(s, a):
        blocks = np.array([[0.0, 0.0, 0.0, 1.0]])
        conv, bias = np.zeros((3, 3, 1, 4)), np.array([40.0, 40.0, 40.0, 0.0])
        return {"conv": conv, "bias": bias, "sum": s * blocks, "around": a * blocks}

    take_over = np.zeros((3, 3, 1, 1))
    take_over[1, 1] = 1
    pair = {"up": direction(0.3, 0.2), "down": direction(0.1, 0.3), "deconv": {"kernel": take_over}}

    def one(*values):
        return [np.full((1, 1, 1, 1), v) for v in values]

    def value(*args, **fields):
        return msci(*args, None, superpixels=False, **fields).item()

    tanh = math.tanh
    up, down = tanh(0.5 * 1), tanh(0.4 * 2)  # G_c, to the map 2 from the map 1, and back
    close(value(one(1, 2), [pair], T=1), 1 + tanh(down) + 2 + tanh(up))
    close(value(one(1, 2), [{k: pair[k] for k in ("up", "deconv")}], T=1, directions="up"), 1 + 2 + tanh(up))
    close(value(one(1, 2), [{k: pair[k] for k in ("down", "deconv")}], T=1, directions="down"), 1 + tanh(down) + 2)
    # Up alone, two stages: the sending map is 1 in both, and c is the sum.
    close(value(one(1, 2), [pair], T=2, directions="up"), 1 + 2 + tanh(up) + tanh(2 * up))

    # Three levels, up alone, T = 1. Phase 1: q1 = 1 + 2 + tanh(up), q2 = 2 + 3 + tanh(tanh(0.5·2)), from the maps of the
    # start. Phase 2: the first pair's c is `up` plus the new G_c, or the new one alone.
    q1, q2 = 3 + tanh(up), 5 + tanh(tanh(1.0))
    new = tanh(0.5 * q1)
    common = {"T": 1, "directions": "up"}
    close(value(one(1, 2, 3), [pair, pair], **common), q1 + q2 + tanh(up + new))
    close(value(one(1, 2, 3), [pair, pair], **common, reset_states=True), q1 + q2 + tanh(new))
    close(value(one(1, 2, 3), [pair, pair], **common, cell_states=False), q1 + q2 + tanh(new))
    close(value(one(1, 2, 3), [pair, pair], **common, phases="one"), q1 + q2)

    # No stages and D = 0: one phase leaves the maps, and the sum has the second resized to the first.
    maps = [np.ones((1, 1, 4, 1)), np.array([0.0, 4.0]).reshape(1, 1, 2, 1), np.full((1, 1, 1, 1), 9.0)]
    nothing = {"deconv": {"kernel": np.zeros((3, 3, 1, 4))}}
    close(msci(maps, [nothing] * 2, None, 0, superpixels=False, phases="one")[0, 0, :, 0], [1, 2, 4, 5])

    # A grid of 2×2 regions over 4×4 pixels, a map of 4×4 ones sends 4 (R) and 4 + 2·4 (M) to each cell of a 2×2 map.
    cells = [cell_regions(grid_regions(4, 4, 4)[None], size, size) for size in (4, 2)]
    R, M = context(np.ones((1, 4, 4, 1)), (2, 2), *cells, adjacency(grid_regions(4, 4, 4), 4)[None], "sum")
    close(R, np.full((1, 2, 2, 1), 4.0))
    close(M, np.full((1, 2, 2, 1), 12.0))


if __name__ == "__main__":
    self_check()
    print("msci_numpy: all checks pass")
