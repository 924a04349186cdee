"""DenseCRF: mean field of a fully connected CRF with Gaussian kernels, at a cost linear in pixels (SPEC §2).

Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011. The spatial kernel is a
separable convolution. The bilateral one is a filter on the permutohedral lattice (Adams, Baek & Davis, "Fast High-Dimensional Filtering
Using the Permutohedral Lattice", Eurographics 2010), which is built once for each image. A vertex is numbered when it is first met, in a
hash table of exact keys. How many vertices there are depends on the image: arrays have room for the most that there can be, and loops
over blocks of vertices end with the last one, so that a filter costs what the image needs.
"""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctxseg import metrics
from ctxseg.errors import UserError

FEATURES = 5  # y, x, red, green, blue
CORNERS = FEATURES + 1  # of a simplex of the lattice; also the number of directions of a blur
PIXELS = 8192  # in a block
VERTICES = 16384  # in a block
PARAMETERS = ("spatial_weight", "spatial_sigma", "bilateral_weight", "bilateral_sigma", "colour_sigma")

_UNROLL = {"mode": "promise_in_bounds"}


class Lattice(NamedTuple):
    """The permutohedral lattice of an image's N pixels. Vertex 0 stands for all that are absent and holds zeros.

    Attributes:
        vertices: int32 `[N,6]`, the corners of the simplex around each pixel.
        weights: float32 `[N,6]`, its barycentric coordinates, which add up to 1.
        neighbours: int32 `[6,2,C]`: the vertices before and after a vertex in each direction.
        count: int32, vertices in use, the 0th included; at most C.
    """

    vertices: jax.Array
    weights: jax.Array
    neighbours: jax.Array
    count: jax.Array


@partial(jax.jit, static_argnames=("iterations", "spatial_sigma"))
def mean_field(
    probabilities,
    images,
    *,
    iterations: int = 10,
    spatial_weight=3.0,
    spatial_sigma: float = 3.0,
    bilateral_weight=4.0,
    bilateral_sigma=67.0,
    colour_sigma=4.0,
):
    """Probabilities after `iterations` synchronous updates, from Q = p (Krähenbühl & Koltun, algorithm 1).

        Q_i(l) ∝ p_i(l) · exp( Σ_m w_m Σ_{j≠i} K̂^m_ij Q_j(l) ),      K̂ = D^-½ K D^-½,   D_i = Σ_j K_ij

    with K_ij = exp(−|p_i − p_j|² / 2σ_xy²) and exp(−|p_i − p_j|² / 2σ_αxy² − |I_i − I_j|² / 2σ_β²), and Potts compatibility. Kernels are
    normalised as in the authors' code. The bilateral one is approximate: README has its error. Images of a batch are filtered in turn.

    Args:
        probabilities: float32 `[B,H,W,K]`, clipped below at 1e-8.
        images: uint8 or float `[B,H,W,3]`, in 0…255.
        iterations: static.
        spatial_weight, bilateral_weight: w_m.
        spatial_sigma: σ_xy, pixels; static, since it says how wide the convolution is.
        bilateral_sigma, colour_sigma: σ_αxy, pixels, and σ_β, in units of the image.

    Returns:
        float32 `[B,H,W,K]`.
    """
    taps = _taps(spatial_sigma)

    def one(inputs):
        p, image = inputs
        height, width, classes = p.shape
        unary = jnp.log(jnp.maximum(p.astype(jnp.float32), 1e-8))
        spatial_scale = jax.lax.rsqrt(_smooth(jnp.ones((height, width, 1)), taps))
        lattice = build(_features(image, bilateral_sigma, colour_sigma))
        scale = jax.lax.rsqrt(filter_values(lattice, jnp.ones((height * width, 1)))).reshape(height, width, 1)
        itself = scale**2 * self_term(lattice).reshape(height, width, 1)

        def update(_, q):
            spatial = spatial_scale * _smooth(spatial_scale * q, taps) - spatial_scale**2 * q
            smooth = filter_values(lattice, (scale * q).reshape(-1, classes)).reshape(q.shape)
            bilateral = scale * smooth - itself * q
            return jax.nn.softmax(unary + spatial_weight * spatial + bilateral_weight * bilateral)

        return jax.lax.fori_loop(0, iterations, update, jax.nn.softmax(unary))

    return jax.lax.map(one, (probabilities, images))


def _taps(sigma: float) -> np.ndarray:
    """A Gaussian at −r…r, exp(−x²/2σ²), until it is below 1e-5."""
    radius = int(np.ceil(4.8 * sigma))
    return np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)


def _smooth(x, taps):
    """Convolution of `[H,W,K]` with the taps along H and then W; zeros outside."""
    for axis in (0, 1):
        length, radius = x.shape[axis], len(taps) // 2
        radius, cut = min(radius, length - 1), max(radius - length + 1, 0)
        padded = jnp.pad(x, [(radius, radius) if a == axis else (0, 0) for a in range(3)])
        near = taps[cut : len(taps) - cut]
        x = sum(t * jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i, t in enumerate(near))
    return x


def _features(image, position_sigma, colour_sigma):
    """y, x and the colours in units of their standard deviations: `[H,W,3]` → float32 `[H·W,5]`."""
    height, width, _ = image.shape
    y, x = jnp.mgrid[:height, :width].astype(jnp.float32) / position_sigma
    return jnp.concatenate([jnp.stack([y, x], -1), image.astype(jnp.float32) / colour_sigma], -1).reshape(-1, FEATURES)


def simplices(features):
    """The simplex of the lattice that encloses each point, and the point's barycentric coordinates (Adams et al., §3.1).

    Args:
        features: float32 `[N,5]`, in units of the filter's standard deviation.

    Returns:
        Corners, int32 `[N,6,6]`, in coordinates of the hyperplane Σ x = 0 whose unit of length is 1/6 of a step of the lattice; those of
        corner k are k modulo 6. And weights, float32 `[N,6]`.
    """
    n, d = CORNERS, FEATURES
    # splatting and slicing smooth by 1/6 of a step², [1 2 1]/4 by 1/2 (§3.3)
    step = n * np.sqrt(2 / 3) / np.sqrt(np.arange(1, n) * np.arange(2, n + 1))
    basis = np.zeros((d, n), np.float32)
    for i in range(d):
        basis[i, : i + 1], basis[i, i + 1] = step[i], -(i + 1) * step[i]
    x = jnp.matmul(features, basis, precision="highest")
    nearest = jnp.round(x / n)
    surplus = nearest.sum(1, keepdims=True).astype(jnp.int32)  # the nearest multiples of 6 leave the plane by so many steps
    away = x - n * nearest
    # rank of a coordinate: how many are further from their multiple; the first in order wins a tie
    later = np.tril(np.ones((n, n), bool), -1)
    rank = ((away[:, None] > away[..., None]) | ((away[:, None] == away[..., None]) & later)).sum(-1) + surplus
    turn = (rank < 0).astype(jnp.int32) - (rank >= n)
    rank, origin = rank + n * turn, n * (nearest.astype(jnp.int32) + turn)
    away = (x - origin) / n
    # sorted from the nearest to the furthest, neighbours' differences are the weights (proposition 4.2)
    descending = jnp.sum(jnp.where(rank[..., None] == np.arange(n), away[..., None], 0), axis=1)
    gaps = descending[:, :-1] - descending[:, 1:]  # [N,5], of corner 5 … 1
    weights = jnp.concatenate([1 - (descending[:, :1] - descending[:, -1:]), gaps[:, ::-1]], 1)
    corner = np.arange(n)[:, None]
    corners = origin[:, None] + jnp.where(rank[:, None] < n - corner, corner, corner - n)
    return corners, weights


def _keys(corners):
    """Exact keys of vertices within 12288 steps of each other: int32 `[…,6]` → uint32 `[…,2]`, never 0 in the second word."""
    k = (corners[..., :1] % CORNERS).astype(jnp.uint32)
    q = (corners // CORNERS).astype(jnp.uint32) & 4095
    first = q[..., 0] << 20 | q[..., 1] << 8 | (q[..., 4] & 255)
    second = q[..., 2] << 20 | q[..., 3] << 8 | q[..., 4] >> 8 << 4 | k[..., 0]
    return jnp.stack([first, second], -1)
