"""MCIBI's memory, aggregation and losses in float64 NumPy, from the equations alone (SPEC §6; Jin et al., ICCV 2021, eqs. 4-19).

An independent and deliberately slow reference for tests: explicit loops that read like the equations, no sharing of
code with the package. Maps are NHWC, labels are class ids in [0, K) with 255 = ignore, the memory M is [K,C].

Layers are given as tuples (kernel, mean, var, scale, bias): a convolution without bias, BN by the given running
statistics, ReLU. Parameters of the modules:

    attention = {'q': [layer, layer],  g_q   kernels [C,C/2],  [C/2,C/2]
                 'k': [layer, layer],  g_k   kernels [C',C/2], [C/2,C/2]      C' = channels of the context (C for C'_bi)
                 'v': [layer],         g_v   kernel  [C',C/2]
                 'o': [layer]}         g_o   kernel  [C/2,C]
    `dca`:         {'attend': attention, 'fuse': by `fusion`}
                   'concat' layer with kernel [3,3,2C,C];  'weighted_add' (kernel [2C,2], bias [2]);  'add' not read
    `with_within`: {'attend': attention, 'fuse': layer with kernel [3,3,2C,C]}

Dropout (of H1 and H2, outside this file) has no part here: everything is as in evaluation.
"""

import numpy as np

IGNORE = 255
NORM_EPS = 1e-12  # least norm in the cosine
WEIGHT_EPS = 1e-12  # a mean of 1 - S_i up to this counts as 0
BN_EPS = 1e-5


def relu(x):
    return np.maximum(x, 0.0)


def softmax(x):
    """Over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def batch_norm(x, mean, var, scale, bias):
    """y = (x - mean) / sqrt(var + 1e-5) · scale + bias over the last axis, by the given statistics."""
    mean, var, scale, bias = (np.asarray(a, np.float64) for a in (mean, var, scale, bias))
    return (x - mean) / np.sqrt(var + BN_EPS) * scale + bias


def conv1x1_bn_relu(x, layer):
    """[..., Cin] → [..., Cout]: ReLU(BN(x · kernel)), kernel [Cin,Cout]."""
    kernel, mean, var, scale, bias = layer
    return relu(batch_norm(x @ np.asarray(kernel, np.float64), mean, var, scale, bias))


def conv3x3_bn_relu(x, layer):
    """ReLU(BN( Σ_{i,j} x[b, h+i-1, w+j-1] · kernel[i,j] )), zero outside; x [B,h,w,Cin], kernel [3,3,Cin,Cout]."""
    kernel, mean, var, scale, bias = layer
    kernel = np.asarray(kernel, np.float64)
    batch, height, width, channels = x.shape
    assert kernel.shape[:3] == (3, 3, channels), (kernel.shape, channels)
    y = np.zeros((batch, height, width, kernel.shape[3]))
    for h in range(height):
        for w in range(width):
            for i in range(3):
                for j in range(3):
                    if 0 <= h + i - 1 < height and 0 <= w + j - 1 < width:
                        y[:, h, w] += x[:, h + i - 1, w + j - 1] @ kernel[i, j]
    return relu(batch_norm(y, mean, var, scale, bias))


def bilinear(x, size):
    """[B,h,w,C] → [B,H,W,C], size = (H, W). Output row y samples (y + 0.5)·h/H - 0.5, clamped to [0, h-1]; so columns.

    Two taps per axis also when shrinking (no antialiasing).
    """
    x = np.asarray(x, np.float64)
    batch, h, w, channels = x.shape
    H, W = size
    out = np.zeros((batch, H, W, channels))
    for y in range(H):
        v = min(max((y + 0.5) * h / H - 0.5, 0.0), h - 1.0)
        top = int(v)
        bottom, a = min(top + 1, h - 1), v - top
        for z in range(W):
            u = min(max((z + 0.5) * w / W - 0.5, 0.0), w - 1.0)
            left = int(u)
            right, b = min(left + 1, w - 1), u - left
            upper = (1 - b) * x[:, top, left] + b * x[:, top, right]
            lower = (1 - b) * x[:, bottom, left] + b * x[:, bottom, right]
            out[:, y, z] = (1 - a) * upper + a * lower
    return out


def momentum(step, total, initial=0.9, power=0.9):
    """m_t = (1 - t/T)^p · (m_0 - m_0/100) + m_0/100 for t = step in [0, T = total] (eq. 7); power=0 keeps m_0.

    The first update has t = 0 (eq. 6 makes M_t by m_{t-1}), so m falls from m_0 to m_0/100 at t = T.
    """
    assert 0 <= step <= total and total > 0, (step, total)
    return (1.0 - step / total) ** power * (initial - initial / 100) + initial / 100


def candidates(pixels, labels, c):
    """R_c of eq. 8, [n,C]: the pixels of class c in R upsampled to the labels, images first, then rows, then columns.

    pixels [B,h,w,C], labels [B,H,W]; n = 0 if c is absent.
    """
    labels = np.asarray(labels)
    R = bilinear(pixels, labels.shape[1:])
    rows = []
    for b in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                if labels[b, y, x] == c and c != IGNORE:
                    rows.append(R[b, y, x])
    return np.array(rows).reshape(len(rows), R.shape[3])


def cosine_similarity(R_c, entry):
    """S_i = R_i · M[c] / (max(‖R_i‖, 1e-12) · max(‖M[c]‖, 1e-12)), at most 1 (eq. 9). R_c [n,C], entry [C] → [n]."""
    S = np.zeros(len(R_c))
    for i, R_i in enumerate(R_c):
        norms = max(np.sqrt(R_i @ R_i), NORM_EPS) * max(np.sqrt(entry @ entry), NORM_EPS)
        S[i] = min(R_i @ entry / norms, 1.0)
    return S


def transform(R_c, entry, cosine=True):
    """R'[c] = Σ_i (1 - S_i) / Σ_j (1 - S_j) · R_i (eq. 10), or the plain mean (cosine=False). [n,C], [C] → [C], n > 0.

    Degenerate cases:
      every S_i = 1   all pixels are parallel to M[c], Σ(1 - S) = 0: the plain mean, the limit of equal weights. Since
                      rounding leaves some 1e-16 per pixel, it applies where the mean of 1 - S_i is at most 1e-12.
      R_i = 0         S_i = 0, weight 1: the pixel counts as orthogonal, and pulls R' to zero.
      M[c] = 0        every S_i = 0: the plain mean.
      n = 1           R' = R_1, whatever S_1.
    S_i in [-1, 0) gives weights in (1, 2]; no weight is negative.
    """
    if not cosine:
        return R_c.mean(axis=0)
    weights = 1.0 - cosine_similarity(R_c, entry)
    total = weights.sum()
    if total <= WEIGHT_EPS * len(R_c):
        return R_c.mean(axis=0)
    result = np.zeros(R_c.shape[1])
    for weight, R_i in zip(weights, R_c, strict=True):
        result += weight / total * R_i
    return result


def update(bank, seen, pixels, labels, momentum, cosine=True):
    """One update of the memory (eqs. 6, 8-10) → (bank [K,C], seen [K]); the arguments stay as they are.

    bank [K,C], seen bool [K], pixels [B,h,w,C], labels [B,H,W] (255 ignored), momentum the number m_t. For each class c,
    over the pixels of the whole batch, R upsampled to the labels:
        absent from the batch    M[c] and seen[c] stay
        at first sight           M[c] ← mean of its pixels; whatever M[c] held is not read, and m_t has no part.
        otherwise                M[c] ← (1 - m_t) M[c] + m_t R'[c]
    """
    bank = np.array(bank, np.float64)
    seen = np.array(seen, bool)
    labels = np.asarray(labels)
    classes = len(bank)
    assert classes <= IGNORE and ((labels == IGNORE) | ((labels >= 0) & (labels < classes))).all()
    for c in range(classes):
        R_c = candidates(pixels, labels, c)
        if len(R_c) == 0:
            continue
        if seen[c]:
            bank[c] = (1 - momentum) * bank[c] + momentum * transform(R_c, bank[c], cosine)
        else:
            bank[c] = R_c.mean(axis=0)
        seen[c] = True
    return bank, seen


def attend(r, c, params):
    """g_o(P · g_v(C')), P = softmax( g_q(R) g_k(C')ᵀ / sqrt(C/2) ) [hw,hw] per image, rows summing to 1 (eqs. 13, 14).

    r [B,h,w,C], c [B,h,w,C'] → [B,h,w,channels of g_o]. C is that of r, whatever the width of g_q and g_k.
    """
    r, c = np.asarray(r, np.float64), np.asarray(c, np.float64)
    batch, height, width, channels = r.shape
    assert c.shape[:3] == r.shape[:3], (r.shape, c.shape)
    (q1, q2), (k1, k2), (v1,), (o1,) = params["q"], params["k"], params["v"], params["o"]
    out = []
    for b in range(batch):
        R, context = r[b].reshape(height * width, channels), c[b].reshape(height * width, -1)
        query = conv1x1_bn_relu(conv1x1_bn_relu(R, q1), q2)
        key = conv1x1_bn_relu(conv1x1_bn_relu(context, k1), k2)
        value = conv1x1_bn_relu(context, v1)
        refined = np.zeros((height * width, value.shape[1]))
        for i in range(height * width):
            P_i = softmax(np.array([query[i] @ key[j] for j in range(height * width)]) / np.sqrt(channels / 2))
            for j in range(height * width):
                refined[i] += P_i[j] * value[j]
        out.append(conv1x1_bn_relu(refined, o1).reshape(height, width, -1))
    return np.stack(out)


def aggregate(bank, class_logits):
    """C' = W · M, W = softmax(class_logits) over all K entries of M (eq. 12): bank [K,C], [B,h,w,K] → [B,h,w,C]."""
    W = softmax(np.asarray(class_logits, np.float64))
    bank = np.asarray(bank, np.float64)
    C = np.zeros((*W.shape[:3], bank.shape[1]))
    for k in range(len(bank)):
        C += W[..., k, None] * bank[k]
    return C


def dca(r, bank, class_logits, params, fusion="concat"):
    """R_aug = F(R, C_bi), C_bi = attend(R, W · M) (eqs. 4, 12-14; Table 1). r [B,h,w,C], class_logits [B,h,w,K].

        concat        ReLU(BN(conv3×3 [R ; C_bi]))
        add           R + C_bi
        weighted_add  w_0 R + w_1 C_bi,  (w_0, w_1) = softmax( [R ; C_bi] · kernel + bias ) of each pixel

    Every entry of M takes part, also those of classes not yet seen, as they stand in the bank.
    """
    assert fusion in ("concat", "add", "weighted_add"), fusion
    r = np.asarray(r, np.float64)
    C_bi = attend(r, aggregate(bank, class_logits), params["attend"])
    if fusion == "add":
        return r + C_bi
    both = np.concatenate([r, C_bi], axis=-1)
    if fusion == "concat":
        return conv3x3_bn_relu(both, params["fuse"])
    kernel, bias = (np.asarray(a, np.float64) for a in params["fuse"])
    w = softmax(both @ kernel + bias)
    return w[..., :1] * r + w[..., 1:] * C_bi


def with_within(r, augmented, c_wi, params):
    """F(R, C_bi, C_wi) = ReLU(BN(conv3×3 [attend(R, C_wi) ; F(R, C_bi)])), `augmented` the result of `dca`."""
    attended = attend(r, c_wi, params["attend"])
    return conv3x3_bn_relu(np.concatenate([attended, np.asarray(augmented, np.float64)], axis=-1), params["fuse"])


def cross_entropy(logits, target):
    """-log softmax(logits)[target], logits [K]."""
    largest = logits.max()
    return largest + np.log(np.exp(logits - largest).sum()) - logits[target]


def pixel_loss(logits, labels):
    """Mean cross entropy over all pixels of the batch that are not 255; 0 if there is none (eqs. 16, 18).

    logits [B,h,w,K] are resized to the labels [B,H,W] first, and then go through the softmax.
    """
    labels = np.asarray(labels)
    logits = bilinear(logits, labels.shape[1:])
    terms = [cross_entropy(logits[i], labels[i]) for i in np.ndindex(labels.shape) if labels[i] != IGNORE]
    return sum(terms) / len(terms) if terms else 0.0


def memory_loss(memory_logits, seen):
    """Mean over the seen k of CE(memory_logits[k], k); 0 if none is seen (eq. 17, which has every class seen)."""
    memory_logits = np.asarray(memory_logits, np.float64)
    terms = [cross_entropy(memory_logits[k], k) for k in range(len(memory_logits)) if seen[k]]
    return sum(terms) / len(terms) if terms else 0.0


def losses(h1_logits, o_logits, memory_logits, labels, seen, alpha=0.4, beta=1.0):
    """The total α·CE(up(H1)) + β·mean_k CE(H2(M[k]), k) + CE(up(O)), a float (eq. 19).

    h1_logits and o_logits [B,h,w,K] (any resolution), memory_logits [K,K] (row k is H2(M[k])), labels [B,H,W], seen [K].
    The unweighted terms: `pixel_loss(h1_logits, labels)`, `memory_loss(memory_logits, seen)`, `pixel_loss(o_logits, labels)`.
    """
    memory = memory_loss(memory_logits, seen)
    return alpha * pixel_loss(h1_logits, labels) + beta * memory + pixel_loss(o_logits, labels)
