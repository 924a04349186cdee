"""The networks that the papers compare with, end to end, against NumPy in float64, with random parameters and running statistics.

`test_contexts.py` tests the formulas of their parts. The references here are loops over taps, bins and positions. They share no code with
the package, and read only the parameters of its modules.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.models.context import CONTEXTS
from ctxseg.models.layers import ConvNorm
from tests.references import ann_numpy

CHANNELS = 8
# Odd sizes, and different channels at each level. The last two levels have the same size, as at output stride 8.
SHAPES = {"res2": (2, 9, 7, 3), "res3": (2, 6, 5, 5), "res4": (2, 5, 4, 6), "res5": (2, 5, 4, 7)}


pytestmark = pytest.mark.usefixtures("plain_convolutions")


class Reference:
    """A module's parameters and statistics, and the layers of the networks: `ref["name"](x)` is a convolution with normalisation."""

    def __init__(self, params, stats):
        self.params, self.stats = params, stats

    def __getitem__(self, name):
        return Reference(self.params[name], self.stats.get(name, {}))

    def conv(self, x, dilation=1):
        """Convolution with a kernel `[m,n,I,O]` and zero padding, plus the bias if there is one."""
        kernel = self.params["kernel"]
        (b, h, w, _), (m, n, _, o) = x.shape, kernel.shape
        y = np.zeros((b, h, w, o)) + self.params.get("bias", 0)
        for p, q, i, j in np.ndindex(h, w, m, n):
            r, s = p + dilation * (i - m // 2), q + dilation * (j - n // 2)
            if 0 <= r < h and 0 <= s < w:
                y[:, p, q] += x[:, r, s] @ kernel[i, j]
        return y

    def __call__(self, x, relu=True, dilation=1):
        """Convolution without a bias, normalisation by the running statistics, ReLU."""
        assert "bias" not in self.params["conv"]
        norm, stats = self.params["norm"], self.stats["norm"]
        y = self["conv"].conv(x, dilation)
        y = (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
        return np.maximum(y, 0) if relu else y


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def pool(x, k):
    """Means over k×k bins; bin i reaches from ⌊i·n/k⌋ to ⌈(i+1)·n/k⌉."""
    _, h, w, _ = x.shape
    y = np.zeros((x.shape[0], k, k, x.shape[-1]))
    for i, j in np.ndindex(k, k):
        y[:, i, j] = x[:, i * h // k : -(-(i + 1) * h // k), j * w // k : -(-(j + 1) * w // k)].mean((1, 2))
    return y


def resize(x, size):
    """Bilinear interpolation with half-pixel centres, clamped at the edges."""
    y = np.zeros((x.shape[0], *size, x.shape[-1]))
    for target in np.ndindex(*size):
        corners = []
        for t, n, m in zip(target, size, x.shape[1:3], strict=True):
            position = min(max((t + 0.5) * m / n - 0.5, 0), m - 1)
            low = int(position)
            corners.append([(low, 1 - position + low), (min(low + 1, m - 1), position - low)])
        for r, u in corners[0]:
            for s, v in corners[1]:
                y[:, *target] += u * v * x[:, r, s]
    return y


def positions(x):
    return x.reshape(x.shape[0], -1, x.shape[-1])


def attend(query, key, value, scale=1.0):
    """Σ_j softmax_j(scale q_i·k_j) v_j for maps with flattened positions, `[B,·,·]`."""
    y = np.zeros((*query.shape[:2], value.shape[-1]))
    for b, i in np.ndindex(*query.shape[:2]):
        y[b, i] = softmax(scale * key[b] @ query[b, i]) @ value[b]
    return y


def ppm(ref, maps, bins=(1, 2, 3, 6)):
    """Zhao et al. 2017, §3.2. With more bins than positions, positions are repeated."""
    x = maps[-1]
    return ref["fuse"](np.concatenate([x, *(resize(ref[f"pool{k}"](pool(x, k)), x.shape[1:3]) for k in bins)], -1))


def aspp(ref, maps, dilations):
    """Chen et al. 2017, §3.3."""
    x = maps[-1]
    parts = [ref["point"](x), *(ref[f"dilation{d}"](x, dilation=d) for d in dilations)]
    mean = ref["mean"](x.mean((1, 2), keepdims=True))
    return ref["fuse"](np.concatenate([*parts, np.broadcast_to(mean, parts[0].shape)], -1))


def encoder_decoder(ref, maps, dilations=()):
    *finer, last = maps
    x = aspp(ref["aspp"], [last], dilations) if dilations else ref["project4"](last)
    for level in (3, 2, 1):
        lateral = ref[f"project{level}"](finer[level - 1], relu=False)
        x = ref[f"refine{level}"](resize(x, lateral.shape[1:3]) + lateral)
    return x


def deeplabv3plus(ref, maps, dilations):
    """Chen et al. 2018, Fig. 2: the upsampled context is concatenated with the projected finest map."""
    low = ref["low"](maps[0])
    x = resize(aspp(ref["aspp"], maps, dilations), low.shape[1:3])
    return ref["refine2"](ref["refine1"](np.concatenate([x, low], -1)))


def ocr(ref, maps):
    """Yuan et al. 2020, eqs. 3 to 7, where φ, ψ, δ and ρ are 1×1 convolutions with BN and ReLU."""
    scores = ref["regions"]["scores"].conv(ref["auxiliary"](maps[-2]))
    x = ref["pixels"](maps[-1])
    weights = softmax(positions(resize(scores, x.shape[1:3])), axis=1)
    objects = np.stack([w.T @ f for w, f in zip(weights, positions(x), strict=True)])[:, :, None]
    query, key = (ref[f"{name}2"](ref[f"{name}1"](y)) for name, y in (("query", x), ("key", objects)))
    flat = map(positions, (query, key, ref["value"](objects)))
    y = ref["out"](attend(*flat, scale=query.shape[-1] ** -0.5).reshape(*query.shape))
    return ref["fuse"](np.concatenate([x, y], -1)), scores


def gcn(ref, maps):
    """Peng et al. 2017, Fig. 2 B: k×1 then 1×k, plus 1×k then k×1, without nonlinearities in between."""
    x = maps[-1]
    assert [ref.params[f"{n}1"]["kernel"].shape[:2] for n in ("columns_first", "rows_first")] == [(5, 1), (1, 5)]
    parts = (ref[f"{name}2"].conv(ref[f"{name}1"].conv(x)) for name in ("columns_first", "rows_first"))
    return ref["out"](sum(parts))


def global_fc(ref, maps, kind):
    """A fully-connected layer over the means of all 3×3 subregions. Its result for a subregion is added to all of its positions."""
    x = ref["project"](maps[-1], relu=False)
    cells, kernel, bias = pool(x, 3), ref.params["connect"]["kernel"], ref.params["connect"]["bias"]
    y = np.einsum("bijc,ijcpqo->bpqo", cells, kernel) + bias
    y = np.maximum(y, 0)
    out = x.copy()
    for p, q in np.ndindex(x.shape[1:3]):
        # The subregion that contains the centre of the position.
        h, w = x.shape[1:3]
        cell = (0, 0) if kind == "image" else (int((p + 0.5) * 3 / h), int((q + 0.5) * 3 / w))
        out[:, p, q] += y[:, *cell]
    return out


def ccnet(ref, maps):
    """Huang et al. 2019, eqs. 1 and 2: attention to h + w − 1 positions, applied twice with the same weights."""
    x = maps[-1]
    y = ref["reduce"](x)
    _, h, w, _ = x.shape
    for _ in range(2):
        q, k, v = (ref[name].conv(y) for name in ("query", "key", "value"))
        z = np.zeros_like(y)
        for b, i, j in np.ndindex(y.shape[:3]):
            cross = [(i, s) for s in range(w)] + [(r, j) for r in range(h) if r != i]
            assert len(cross) == h + w - 1
            weights = softmax(np.array([q[b, i, j] @ k[b][c] for c in cross]))
            z[b, i, j] = sum(u * v[b][c] for u, c in zip(weights, cross, strict=True))
        y = ref.params["gamma"] * z + y
    return ref["fuse"](np.concatenate([x, ref["out"](y)], -1))


def danet(ref, maps):
    """Fu et al. 2019, eqs. 1 to 4. Between channels, the energy is subtracted from its maximum, as in the published code."""
    x = maps[-1]
    p = ref["position_reduce"](x)
    z = attend(*(positions(ref[name].conv(p)) for name in ("query", "key", "value"))).reshape(p.shape)
    p = ref["position_out"](ref.params["position_gamma"] * z + p)
    c = ref["channel_reduce"](x)
    z = np.zeros_like(c)
    for b in range(len(c)):
        a = positions(c)[b].T  # [C,N]
        energy = a @ a.T
        for i in range(len(a)):
            z[b, :, :, i] = (softmax(energy[i].max() - energy[i]) @ a).reshape(c.shape[1:3])
    return p + ref["channel_out"](ref.params["channel_gamma"] * z + c)


def ann(ref, maps):
    return ann_numpy.ann(*maps[-2:], ref.params, ref.stats)


def dnl(ref, maps, temperature=0.05):
    """Yin et al. 2020, eq. 12: attention with whitened queries and keys, plus attention that is the same for all queries."""
    x = maps[-1]
    y = ref["reduce"](x)
    q, k, v, m = (positions(ref[name].conv(y)) for name in ("query", "key", "value", "mask"))
    z = np.zeros_like(v)
    for b, i in np.ndindex(*v.shape[:2]):
        pairwise = [(q[b, i] - q[b].mean(0)) @ (k[b, j] - k[b].mean(0)) for j in range(v.shape[1])]
        weights = softmax(np.array(pairwise) / (np.sqrt(q.shape[-1]) * temperature)) + softmax(m[b, :, 0])
        z[b, i] = weights @ v[b]
    y = y + ref["project"](z.reshape(*y.shape[:3], -1), relu=False)
    return ref["fuse"](np.concatenate([x, ref["out"](y)], -1))


def apcnet(ref, maps, bins=(1, 2, 3, 6)):
    """He et al. 2019, §3.2: affinities of each position to s² subregions, from its local and the global representation, not normalised."""
    f = maps[-1]
    contexts = []
    for s in bins:
        branch = ref[f"context{s}"]
        cells, x = branch["pool"](pool(f, s)), branch["reduce"](f)
        local = x + branch["global"](x.mean((1, 2), keepdims=True))
        affinity = 1 / (1 + np.exp(-branch["affinity"].conv(local)))
        assert affinity.shape[-1] == s * s
        z = np.zeros_like(x)
        for i, j in np.ndindex(s, s):
            z += affinity[..., i * s + j, None] * cells[:, i, j][:, None, None]
        contexts.append(branch["fuse"](np.maximum(branch["residual"](z) + x, 0)))
    return ref["fuse"](np.concatenate([f, *contexts], -1))


# The context, its fields, and its reference.
CASES = {
    "fcn": ("fcn", {}, lambda ref, maps: ref["conv2"](ref["conv1"](maps[-1]))),
    "fcn, one convolution": ("fcn", {"convolutions": 1}, lambda ref, maps: ref["conv1"](maps[-1])),
    "ppm": ("ppm", {}, ppm),
    "aspp": ("aspp", {"dilations": (2, 3)}, partial(aspp, dilations=(2, 3))),
    "aspp, taps outside the map": ("aspp", {"fuse_kernel": 1}, partial(aspp, dilations=(12, 24, 36))),
    "encoder-decoder": ("encoder_decoder", {}, encoder_decoder),
    "encoder-decoder + aspp": (
        "encoder_decoder",
        {"aspp": True, "dilations": (1, 2)},
        partial(encoder_decoder, dilations=(1, 2)),
    ),
    "deeplabv3plus": ("deeplabv3plus", {"low_channels": 2, "dilations": (1, 2)}, partial(deeplabv3plus, dilations=(1, 2))),
    "ocr": ("ocr", {"num_classes": 3, "key_channels": 4}, ocr),
    "ocr, levels of different sizes": ("ocr", {"num_classes": 3, "key_channels": 4, "levels": ("res3", "res5")}, ocr),
    "gcn": ("gcn", {"kernel": 5}, gcn),
    "global_fc, image": ("global_fc", {}, partial(global_fc, kind="image")),
    "global_fc, subregion": ("global_fc", {"kind": "subregion"}, partial(global_fc, kind="subregion")),
    "ccnet": ("ccnet", {}, ccnet),
    "danet": ("danet", {}, danet),
    "ann": ("ann", {}, ann),
    "ann, levels of different sizes": ("ann", {"levels": ("res3", "res5")}, ann),
    "dnl": ("dnl", {}, dnl),
    "apcnet": ("apcnet", {}, apcnet),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_context_matches_its_reference(case):
    name, fields, reference = CASES[case]
    module = CONTEXTS[name](channels=CHANNELS, **fields)
    rng = np.random.default_rng(0)
    features = {k: rng.normal(size=shape).astype(np.float32) for k, shape in SHAPES.items()}
    shapes = jax.eval_shape(module.init, jax.random.key(0), features)

    def draw(path, x):
        kind = path[-1].key
        if kind in ("var", "scale"):
            return rng.uniform(0.5, 2, x.shape).astype(np.float32)
        if "gamma" in kind:  # its initial value 0 would hide the attention
            return np.float32(0.7)
        deviation = np.prod(x.shape[:-1]) ** -0.5 if kind == "kernel" else 0.3
        return rng.normal(0, deviation, x.shape).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    double = jax.tree.map(np.float64, variables)
    names = fields.get("levels", tuple(features))
    expected = reference(
        Reference(double["params"], double["batch_stats"]), [np.float64(features[name]) for name in names]
    )
    actual, aux = jax.jit(module.apply)(variables, features)
    if name == "ocr":
        expected, scores = expected
        np.testing.assert_allclose(aux["ocr"], scores, rtol=1e-5, atol=1e-5)
    else:
        assert not aux
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


NAMES = sorted({name for name, _, _ in CASES.values()})


@pytest.mark.parametrize("name", NAMES)
def test_context_accepts_any_size_in_bfloat16(name):
    """A single position, 4×4 and odd sizes. The map is bfloat16; parameters and auxiliary scores are float32. Shapes are only traced."""
    cls = CONTEXTS[name]
    bound = {"conv": partial(ConvNorm, dtype=jnp.bfloat16), "dtype": jnp.bfloat16, "num_classes": 3}
    fields = {k: v for k, v in bound.items() if k in {f.name for f in dataclasses.fields(cls)}}
    for channels, sizes in ((2, [(2, 3), (1, 2), (1, 1)]), (5, [(9, 7), (4, 4), (4, 4)])):
        levels = [(2 * sizes[0][0] - 1, 2 * sizes[0][1]), *sizes]
        features = {
            f"res{i}": jax.ShapeDtypeStruct((1, *size, i), jnp.bfloat16) for i, size in enumerate(levels, start=2)
        }
        initialise = partial(cls(channels=channels, **fields).init_with_output, train=True)
        (y, aux), variables = jax.eval_shape(initialise, jax.random.key(0), features)
        size = levels[0] if name in ("encoder_decoder", "deeplabv3plus") else levels[-1]
        assert (y.shape, y.dtype) == ((1, *size, channels), jnp.bfloat16)
        assert all(a.dtype == jnp.float32 for a in jax.tree.leaves((aux, variables)))
