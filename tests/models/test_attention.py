"""Attention against its definition in NumPy, and the memory that it takes."""

import jax
import jax.numpy as jnp
import numpy as np

from ctxseg.models.attention import attention


def test_attention_in_chunks_is_attention():
    q, k, v = (
        rng.normal(size=(2, n, 3)).astype(np.float32)
        for rng, n in ((np.random.default_rng(i), n) for i, n in enumerate((10, 7, 7)))
    )
    scores = np.einsum("bnd,bmd->bnm", q, k) * 0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = np.einsum("bnm,bmc->bnc", weights / weights.sum(-1, keepdims=True), v)
    for chunk in (4, 16):  # 4 leaves a ragged last one
        actual = attention(q, k, v, 0.5, chunk)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_attention_never_makes_the_whole_matrix():
    n, chunk = 4096, 128
    q = jnp.zeros((1, n, 4))
    gradient = jax.grad(lambda q: attention(q, q, q, chunk=chunk).sum())
    compiled = jax.jit(gradient).lower(q).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < n * n * 4 / 4
