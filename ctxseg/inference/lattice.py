"""The permutohedral lattice: a Gaussian filter of an image's pixels in position and colour, at a cost linear in pixels (SPEC §2).

Adams, Baek & Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010. It is built once per image.
Vertices are numbered in the order in which they are found, by a hash table with exact keys. Their number depends on the image: arrays
have room for the maximum, but loops over blocks of vertices end after the last block in use, so the cost of a filter depends on the
image. Exported archives contain this file, which needs only jax and numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:  # and in tests (`tests/conftest.py`): an archive does not need jaxtyping
    from jaxtyping import Bool, Float32, Int32

    Array = jax.Array | np.ndarray

FEATURES = 5  # y, x, red, green, blue
CORNERS = FEATURES + 1  # corners of a simplex of the lattice, and directions of a blur
PIXELS_PER_BLOCK = 8192
VERTICES_PER_BLOCK = 16384
MIN_NEIGHBOURS = 2  # neighbours that a missing vertex must have to be added


class Lattice(NamedTuple):
    """The permutohedral lattice of an image's N pixels. Vertex 0 stands for all missing vertices; its values are 0.

    Attributes:
        vertices: the corners of the simplex around each pixel.
        weights: barycentric coordinates of each pixel, which add up to 1.
        neighbours: the vertices before and after each of C vertices in each direction.
        used: number of vertices in use, including vertex 0; at most C.
    """

    vertices: Int32[Array, "n 6"]
    weights: Float32[Array, "n 6"]
    neighbours: Int32[Array, "6 2 c"]
    used: Int32[Array, ""]


def simplices(features: Float32[Array, "n 5"]) -> tuple[Int32[Array, "n 6 6"], Float32[Array, "n 6"]]:
    """The simplex of the lattice that encloses each point, and the point's barycentric coordinates (Adams et al., §3.1).

    Args:
        features: points, in units of the filter's standard deviation.

    Returns:
        The corners and their weights. Corners have coordinates in the hyperplane Σ x = 0, in units of 1/6 of a step of the lattice; all
        coordinates of corner k are k modulo 6.
    """
    n, d = CORNERS, FEATURES
    # In units of a squared step, splatting and slicing add a variance of 1/6, and blurring with [1 2 1]/4 adds 1/2 (§3.3).
    step = n * np.sqrt(2 / 3) / np.sqrt(np.arange(1, n) * np.arange(2, n + 1))
    basis = np.zeros((d, n), np.float32)
    for i in range(d):
        basis[i, : i + 1], basis[i, i + 1] = step[i], -(i + 1) * step[i]
    x = jnp.matmul(features, basis, precision="highest")
    nearest = jnp.round(x / n)
    # By how many steps the nearest multiples of 6 leave the hyperplane.
    surplus = nearest.sum(1, keepdims=True).astype(jnp.int32)
    offset = x - n * nearest
    # The rank of a coordinate is the number of coordinates with a larger offset; of two equal ones, the first comes first.
    later = np.tril(np.ones((n, n), bool), -1)
    rank = ((offset[:, None] > offset[..., None]) | ((offset[:, None] == offset[..., None]) & later)).sum(-1) + surplus
    wrap = (rank < 0).astype(jnp.int32) - (rank >= n)
    rank, origin = rank + n * wrap, n * (nearest.astype(jnp.int32) + wrap)
    offset = (x - origin) / n
    # The weights are the differences between consecutive offsets, in descending order (proposition 4.2).
    descending = jnp.sum(jnp.where(rank[..., None] == np.arange(n), offset[..., None], 0), axis=1)
    gaps = descending[:, :-1] - descending[:, 1:]  # [N,5], the weights of corners 5 … 1
    weights = jnp.concatenate([1 - (descending[:, :1] - descending[:, -1:]), gaps[:, ::-1]], 1)
    corner = np.arange(n)[:, None]
    corners = origin[:, None] + jnp.where(rank[:, None] < n - corner, corner, corner - n)
    return corners, weights


def _pack(steps, remainder):
    """Keys of vertices, int32 `[…,≥5]`, `[…]` → two uint32 `[…]`. Unique if they are less than 4096 steps apart on each axis."""
    q = steps.astype(jnp.uint32) & 4095
    first = q[..., 0] << 20 | q[..., 1] << 8 | q[..., 4] & 255
    return first, q[..., 2] << 20 | q[..., 3] << 8 | q[..., 4] >> 8 << 4 | remainder.astype(jnp.uint32)


def _unpack(keys):
    first, second = keys
    q = (first >> 20, first >> 8 & 4095, second >> 20, second >> 8 & 4095, (first & 255) | (second >> 4 & 15) << 8)
    return jnp.stack(q, -1).astype(jnp.int32), (second & 15).astype(jnp.int32)


def _step(keys, direction: int, sign: int):
    """The keys of the vertices one step along or against a direction: coordinates + sign · (6 e_direction − 1)."""
    steps, remainder = _unpack(keys)
    remainder = remainder - sign
    carry = (remainder >= CORNERS).astype(jnp.int32) - (remainder < 0)
    return _pack(steps + carry[..., None] + sign * (np.arange(FEATURES) == direction), remainder - CORNERS * carry)


class _Table(NamedTuple):
    """A hash table with linear probing.

    Attributes:
        slots: number of the vertex in each slot, 0 if the slot is free.
        keys: key of each vertex, by number.
        used: the first unused number.
    """

    slots: jax.Array
    keys: tuple[jax.Array, jax.Array]
    used: jax.Array


def _slot(table, keys, probe):
    mixed = (keys[0] * np.uint32(0x9E3779B1)) ^ (keys[1] * np.uint32(0x85EBCA77))
    mixed = (mixed ^ mixed >> 15) * np.uint32(0xC2B2AE3D)
    return ((mixed ^ mixed >> 13) + probe.astype(jnp.uint32) & np.uint32(len(table.slots) - 1)).astype(jnp.int32)


def _look_up(table, keys):
    """The numbers of the vertices with these keys, 0 for those that are not in the table: two uint32 `[n]` → int32 `[n]`."""

    def probe(state):
        tries, number, found = state
        number = jnp.where(found, number, _at(table.slots, _slot(table, keys, tries)))
        found = found | (number == 0) | _equal(table, number, keys)
        return tries + ~found, number, found

    blank = jnp.zeros(keys[0].shape, jnp.int32)
    return jax.lax.while_loop(lambda state: ~state[2].all(), probe, (blank, blank, blank > 0))[1]


def _at(x, i):
    return x.at[i].get(mode="promise_in_bounds")


def _equal(table, number, keys):
    return (_at(table.keys[0], number) == keys[0]) & (_at(table.keys[1], number) == keys[1])


def _insert(table, keys, wanted):
    """Inserts the vertices with the mask `wanted`. Returns the table, and the numbers of these vertices, int32 `[n]`."""
    n = len(keys[0])
    # A negative number claims a free slot; if several vertices claim it, the smallest claim wins.
    claim = -1 - jnp.arange(n, dtype=jnp.int32)

    def probe(state):
        table, tries, number, found = state
        slot = _slot(table, keys, tries)
        free = ~found & (_at(table.slots, slot) == 0)
        outside = len(table.slots)
        slots = table.slots.at[jnp.where(free, slot, outside)].min(claim, mode="drop")
        won = free & (_at(slots, slot) == claim)
        new = table.used + jnp.cumsum(won) - 1
        slots = slots.at[jnp.where(won, slot, outside)].set(new, mode="drop")
        index = jnp.where(won, new, len(table.keys[0]))
        stored = tuple(old.at[index].set(key, mode="drop") for old, key in zip(table.keys, keys, strict=True))
        table = _Table(slots, stored, table.used + won.sum())
        number = jnp.where(found, number, _at(slots, slot))
        found = found | _equal(table, number, keys)
        return table, tries + ~found, number, found

    blank = jnp.zeros(n, jnp.int32)
    table, _, number, _ = jax.lax.while_loop(lambda s: ~s[3].all(), probe, (table, blank, blank, ~wanted))
    return table, number


def _blocks(count, size):
    return (count + size - 1) // size


def build(features: Float32[Array, "n 5"], valid: Bool[Array, " n"] | None = None) -> Lattice:
    """The lattice of the points `features`, in units of the filter's standard deviation. `valid`: mask of the points in it; None: all."""
    points = len(features)
    corners, weights = simplices(features)
    keys = _pack(corners // CORNERS, corners[..., 0] % CORNERS)
    block = min(PIXELS_PER_BLOCK * CORNERS, points * CORNERS)
    fill = -points * CORNERS % block
    keys = tuple(jnp.pad(key.ravel(), (0, fill)).reshape(-1, block) for key in keys)
    wanted = jnp.ones(points, bool) if valid is None else valid
    wanted = jnp.pad(jnp.repeat(wanted, CORNERS), (0, fill)).reshape(-1, block)

    # Room for all corners, and for vertices between them: as many again in a small image.
    capacity = 1 + (points + min(points, PIXELS_PER_BLOCK)) * CORNERS
    capacity += -capacity % min(VERTICES_PER_BLOCK, capacity)
    table = _Table(
        jnp.zeros(2 ** int(np.ceil(np.log2(2 * capacity))), jnp.int32),
        (jnp.full(capacity, 0xFFFFFFFF, jnp.uint32),) * 2,
        jnp.int32(1),
    )
    table, vertices = jax.lax.scan(lambda table, x: _insert(table, *x), table, (keys, wanted))
    table = _complete(table)
    vertices = vertices.ravel()[: points * CORNERS].reshape(points, CORNERS)
    return Lattice(vertices, weights, _neighbours(table), table.used)


def _around(table, i, block):
    """The keys of the neighbours of a block's vertices, two uint32 `[6,2,block]`, and which of these vertices exist, bool `[block]`."""
    keys = tuple(jax.lax.dynamic_slice_in_dim(key, i * block, block) for key in table.keys)
    near = [_step(keys, direction, sign) for direction in range(CORNERS) for sign in (-1, 1)]
    numbers = i * block + jnp.arange(block)
    near = tuple(jnp.stack(words).reshape(CORNERS, 2, block) for words in zip(*near, strict=True))
    return near, (numbers > 0) & (numbers < table.used)


def _complete(table):
    """Adds missing vertices with at least MIN_NEIGHBOURS neighbours, while there is room. Without them, a blur would stop at the gaps."""
    block = min(VERTICES_PER_BLOCK, len(table.keys[0]))
    blocks = _blocks(table.used, block)

    def find_missing(i):
        near, exists = _around(table, i, block)
        keys = tuple(key.ravel() for key in near)
        missing = (_look_up(table, keys) == 0).reshape(near[0].shape) & exists
        return keys, _slot(table, keys, jnp.int32(0)), missing.ravel()

    def count(i, votes):
        _, slot, missing = find_missing(i)
        return votes.at[slot].add(missing.astype(jnp.int32), mode="promise_in_bounds")

    def add(i, state):
        keys, slot, missing = find_missing(i)
        wanted = missing & (_at(votes, slot) >= MIN_NEIGHBOURS)
        wanted &= state.used + jnp.cumsum(wanted) <= len(state.keys[0])
        return _insert(state, keys, wanted)[0]

    votes = jax.lax.fori_loop(0, blocks, count, jnp.zeros_like(table.slots))
    return jax.lax.fori_loop(0, blocks, add, table)


def _neighbours(table):
    """The numbers of the vertices before and after each vertex in each direction: int32 `[6,2,C]`."""
    capacity = len(table.keys[0])
    block = min(VERTICES_PER_BLOCK, capacity)

    def find(i, neighbours):
        near, exists = _around(table, i, block)
        number = _look_up(table, tuple(key.ravel() for key in near)).reshape(CORNERS, 2, block)
        return jax.lax.dynamic_update_slice_in_dim(neighbours, jnp.where(exists, number, 0), i * block, 2)

    blank = jnp.zeros((CORNERS, 2, capacity), jnp.int32)
    return jax.lax.fori_loop(0, _blocks(table.used, block), find, blank)


def create_buffers(lattice: Lattice, channels: int):
    """The working memory of a filter: two float32 `[C,channels]`. A filter reads and writes only the blocks in use."""
    return (jnp.zeros((lattice.neighbours.shape[-1], channels)),) * 2


def filter_in_order(lattice: Lattice, values, buffers, order):
    """Σ_j K_ij v_j by splatting, blurring and slicing (§3.2).

    Values are blurred with [1 2 1]/4 along each direction in turn. Where vertices are missing, the result depends on the order of the
    directions: the reversed order has the transposed kernel, and neither kernel is symmetric.

    Args:
        values: float32 `[N,C]`.
        buffers: see `create_buffers`.
        order: 0: from the first direction to the last; 1: from the last to the first.

    Returns:
        The buffers, and the filtered values, float32 `[N,C]`.
    """
    points, channels = values.shape
    x, y = buffers
    block = min(VERTICES_PER_BLOCK, len(x))
    blocks = _blocks(lattice.used, block)
    blank = jnp.zeros((block, channels))
    x = jax.lax.fori_loop(0, blocks, lambda i, x: jax.lax.dynamic_update_slice_in_dim(x, blank, i * block, 0), x)

    def splat(x, pixels):
        vertices, weights, values = pixels
        return x.at[vertices].add(weights[..., None] * values[:, None], mode="promise_in_bounds"), None

    pixels_per_block = min(PIXELS_PER_BLOCK, points)
    padded = (
        jnp.pad(a, ((0, -points % pixels_per_block), (0, 0))) for a in (lattice.vertices, lattice.weights, values)
    )
    x, _ = jax.lax.scan(splat, x, tuple(a.reshape(-1, pixels_per_block, a.shape[1]) for a in padded))

    def blur(i, x, y):
        direction = jnp.where(order == 0, i, CORNERS - 1 - i)

        def blur_block(i, y):
            centre = jax.lax.dynamic_slice_in_dim(x, i * block, block)
            near = jax.lax.dynamic_slice(lattice.neighbours, (direction, 0, i * block), (1, 2, block))[0]
            new = 0.5 * centre + 0.25 * (_at(x, near[0]) + _at(x, near[1]))
            return jax.lax.dynamic_update_slice_in_dim(y, new, i * block, 0)

        return jax.lax.fori_loop(0, blocks, blur_block, y)

    def twice(i, buffers):
        x, y = buffers
        y = blur(2 * i, x, y)
        return blur(2 * i + 1, y, x), y

    x, y = jax.lax.fori_loop(0, CORNERS // 2, twice, (x, y))
    return (x, y), sum(lattice.weights[:, k : k + 1] * _at(x, lattice.vertices[:, k]) for k in range(CORNERS))


def filter_values(lattice: Lattice, values: Float32[Array, "n c"]) -> Float32[Array, "n c"]:
    """Σ_j K_ij v_j up to a constant factor, averaged over both orders of the directions, which makes K symmetric."""
    buffers, forward = filter_in_order(lattice, values, create_buffers(lattice, values.shape[1]), 0)
    return (forward + filter_in_order(lattice, values, buffers, 1)[1]) / 2


def self_term(lattice: Lattice) -> Float32[Array, " n"]:
    """K_ii of the filter, as if no vertex between a simplex's corners were missing."""
    steps = np.abs(np.subtract.outer(np.arange(CORNERS), np.arange(CORNERS)))
    # One corner is reached from another by a step along each of k directions, or by a step against each of the 6 − k others.
    between = 0.25**steps * 0.5 ** (CORNERS - steps) + 0.5**steps * 0.25 ** (CORNERS - steps)
    return jnp.einsum("nk,kl,nl->n", lattice.weights, between.astype(np.float32), lattice.weights, precision="highest")
