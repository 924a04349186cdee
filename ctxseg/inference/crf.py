"""DenseCRF: mean field of a fully connected CRF with Gaussian kernels, at a cost linear in pixels (SPEC §2).

Krähenbühl & Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011. The spatial kernel is a
separable convolution, the bilateral kernel a filter on the permutohedral lattice (`lattice.py`). Exported archives contain this file,
which needs only `lattice.py`, jax and numpy.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ctxseg.inference.lattice import FEATURES, build, create_buffers, filter_in_order, filter_values, self_term

if TYPE_CHECKING:  # and in tests (`tests/conftest.py`): an archive does not need jaxtyping
    from jaxtyping import Bool, Float32, Real

    Array = jax.Array | np.ndarray

MAX_CHANNELS = 32  # channels filtered at once: the buffers are large
MIN_NORM = 1e-12  # lower limit of D = Σ_j K_ij, which is 0 far from all pixels


@partial(jax.jit, static_argnames=("iterations", "spatial_sigma"))
def mean_field(
    probabilities: Float32[Array, "b H W k"],
    images: Real[Array, "b H W 3"],
    *,
    mask: Bool[Array, "b H W"] | None = None,
    iterations: int = 10,
    spatial_weight=3.0,
    spatial_sigma: float = 3.0,
    bilateral_weight=4.0,
    bilateral_sigma=67.0,
    colour_sigma=4.0,
) -> Float32[Array, "b H W k"]:
    """Probabilities after `iterations` synchronous updates that start from Q = p (Krähenbühl & Koltun, algorithm 1).

        Q_i(l) ∝ p_i(l) · exp( Σ_m w_m Σ_{j≠i} K̂^m_ij Q_j(l) ),      K̂ = D^-½ K D^-½,   D_i = Σ_j K_ij

    with K_ij = exp(−|p_i − p_j|² / 2σ_xy²) and exp(−|p_i − p_j|² / 2σ_αxy² − |I_i − I_j|² / 2σ_β²), and Potts compatibility. Kernels are
    normalised as in the authors' code. The bilateral kernel is approximate (`tests/inference/test_crf.py` bounds its error). It is
    symmetric only on average, so updates alternate between it and its transpose. Images of a batch are filtered one after the other.

    Args:
        probabilities: clipped below at 1e-8.
        images: in 0…255.
        mask: whether each pixel belongs to the image; the other pixels do not affect the result. None: all do.
        iterations: static.
        spatial_weight, bilateral_weight: w_m.
        spatial_sigma: σ_xy, pixels; static, since it determines the width of the convolution.
        bilateral_sigma, colour_sigma: σ_αxy, pixels, and σ_β, in units of the image.
    """
    taps = _taps(spatial_sigma)

    def refine(inputs):
        p, image, valid = inputs
        height, width, classes = p.shape
        valid = valid.astype(jnp.float32)[..., None]
        channels = -(-classes // -(-classes // MAX_CHANNELS))
        unary = jnp.log(jnp.maximum(p.astype(jnp.float32), 1e-8))
        spatial_scale = valid * jax.lax.rsqrt(jnp.maximum(_smooth(valid, taps), MIN_NORM))
        lattice = build(_features(image, bilateral_sigma, colour_sigma), valid.ravel() > 0)
        norm = jnp.maximum(filter_values(lattice, valid.reshape(-1, 1)), MIN_NORM).reshape(height, width, 1)
        scale = valid * jax.lax.rsqrt(norm)
        self_weight = scale**2 * self_term(lattice).reshape(height, width, 1)

        def update(i, state):
            # The state has logits instead of q, as XLA would otherwise recompute the logits in each pass of the softmax.
            logits, buffers = state
            q = jax.nn.softmax(logits)
            spatial = spatial_scale * _smooth(spatial_scale * q, taps) - spatial_scale**2 * q
            groups = jnp.pad((scale * q).reshape(-1, classes), ((0, 0), (0, -classes % channels)))
            groups = jnp.moveaxis(groups.reshape(height * width, -1, channels), 1, 0)
            buffers, smooth = jax.lax.scan(lambda work, x: filter_in_order(lattice, x, work, i % 2), buffers, groups)
            smooth = jnp.moveaxis(smooth, 0, 1).reshape(height * width, -1)[:, :classes]
            bilateral = scale * smooth.reshape(q.shape) - self_weight * q
            return unary + spatial_weight * spatial + bilateral_weight * bilateral, buffers

        start = unary, create_buffers(lattice, channels)
        return jax.nn.softmax(jax.lax.fori_loop(0, iterations, update, start)[0])

    if mask is None:
        mask = jnp.ones(images.shape[:3], bool)
    return jax.lax.map(refine, (probabilities, images, mask))


def _taps(sigma: float) -> np.ndarray:
    """exp(−x²/2σ²) at the integers −r…r; r = ⌈4σ⌉, beyond which it is below 4e-4."""
    radius = int(np.ceil(4 * sigma))
    return np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)


def _smooth(x, taps):
    """Convolution of `[H,W,K]` with the taps along H and then W, with zero padding."""
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
