"""Attention between positions (Vaswani et al. 2017), computed in chunks."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from ctxseg.models.shapes import Array


def attention(
    queries: Float[Array, "b n d"],
    keys: Float[Array, "b m d"],
    values: Float[Array, "b m c"],
    scale: float = 1.0,
    chunk: int = 1024,
    mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n c"]:
    """softmax(scale · Q Kᵀ) V. The whole matrix of weights is never in memory, neither forward nor backward.

    Args:
        queries: Q.
        keys: K.
        values: V.
        scale: factor of the scores; 1/√d in Vaswani et al. 2017.
        chunk: number of queries; their weights, `[B,chunk,m]`, are in memory at the same time.
        mask: which keys to attend to; None for all.

    Returns:
        The result for each query, in the dtype of the values. The weights are computed in float32.
    """
    b, n, d = queries.shape

    @jax.checkpoint
    def attend(q):
        scores = jnp.einsum("bnd,bmd->bnm", q, keys, preferred_element_type=jnp.float32) * scale
        if mask is not None:
            scores = jnp.where(mask[:, None], scores, -jnp.inf)
        return jnp.einsum("bnm,bmc->bnc", jax.nn.softmax(scores).astype(values.dtype), values)

    if not jax.export.is_symbolic_dim(n) and n <= chunk:
        return attend(queries)
    parts = -(-n // chunk)
    if not jax.export.is_symbolic_dim(n):
        chunk = -(-n // parts)  # chunks of one size, with few queries of padding
    padded = jnp.pad(queries, ((0, 0), (0, parts * chunk - n), (0, 0)))
    y = lax.map(attend, padded.reshape(b, parts, chunk, d).swapaxes(0, 1))
    return y.swapaxes(0, 1).reshape(b, parts * chunk, -1)[:, :n]
