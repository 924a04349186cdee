"""Weighted sums over windows of cells: one window for each bin of each box, with as many rows and columns as it needs.

A window is given along each axis, by `Run` or `Slots`: for number k = 0, 1, … of its rows (or columns), a part of the index of a cell and
a weight. The index of a cell is the sum of both parts, and its weight is the product of both weights. Arrays are of all boxes, `[r,…]`,
or of one box. Along rows they have the shape `[…,bins,1]` or `[…,bins,bins]`, along columns `[…,1,bins]` or `[…,bins,bins]`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ctxseg.models.shapes import Array


class Run(NamedTuple):
    """Consecutive rows or columns of equal weights, which add up to 1."""

    first: Array  # part of the index of the first one
    step: Array  # distance of the parts of neighbours
    size: Array  # number of rows or columns of each window; 0: none

    def length(self):
        """The number of rows or columns of the largest window."""
        return self.size.max(initial=0)

    def at(self, k):
        """Part of the index, and weight, of number `k`. Where there are fewer, the index is one that exists and the weight is 0."""
        index = self.first + self.step * jnp.clip(k, 0, jnp.maximum(self.size - 1, 0))
        return index, (k < self.size) / jnp.maximum(self.size, 1)


class Slots(NamedTuple):
    """Any rows or columns, listed."""

    part: Array  # parts of the index, `[…,K]`
    weight: Array  # `[…,K]`
    used: Array  # how many of the K the windows of a box read, one number for each box

    def length(self):
        """As of `Run`."""
        return self.used.max(initial=0)

    def at(self, k):
        """As of `Run`."""
        return tuple(jax.lax.dynamic_index_in_dim(a, k, a.ndim - 1, keepdims=False) for a in (self.part, self.weight))


def read(cells, rows, columns, learned=False):
    """The weighted sums of the cells of every window, `[r,bins,bins,c]`.

    Args:
        cells: the cells of all maps, `[n,c]`.
        rows: a `Run` or `Slots`.
        columns: a `Run` or `Slots`.
        learned: whether the weights have gradients too. Then both are `Slots`, of the shape `[r,bins,bins,K]`.
    """
    return _read(cells, rows, columns, len(cells), learned)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _read(cells, rows, columns, count, learned):
    def one_by_one(cells, rows, columns):
        return jax.lax.map(lambda window: _sums(cells, *window), (rows, columns))

    # On CPUs, each box has a loop of its own: a small box needs fewer steps, and its sums stay in the cache.
    return jax.lax.platform_dependent(cells, rows, columns, cpu=one_by_one, default=_sums).astype(cells.dtype)


def _sums(cells, rows, columns):
    def add(k, column, total):
        index, row_weight, column_weight = _cell(rows, columns, k, column)
        weight = (row_weight * column_weight).astype(total.dtype)
        return total + weight[..., None] * cells.at[index].get(mode="promise_in_bounds")

    shape = _cell(rows, columns, 0, 0)[0].shape
    return _over_windows(rows, columns, add, jnp.zeros((*shape, cells.shape[-1]), _sum_dtype(cells)))


def _read_forward(cells, rows, columns, count, learned):
    return _read(cells, rows, columns, count, learned), (cells if learned else None, rows, columns)


def _read_backward(count, learned, residuals, gradient):
    """The transpose of `_read`, and the gradients of the weights. One box at a time on CPUs, as in `roi_align`."""
    cells, rows, columns = residuals

    def pull(total, cells, rows, columns, gradient):
        def add(k, column, state):
            total, *weights = state
            index, row_weight, column_weight = _cell(rows, columns, k, column)
            weight = (row_weight * column_weight).astype(total.dtype)
            total = total.at[index].add(weight[..., None] * gradient, mode="promise_in_bounds")
            if learned:
                values = cells.at[index].get(mode="promise_in_bounds").astype(total.dtype)
                product = (values * gradient).sum(-1)
                parts = zip(weights, (column_weight, row_weight), (k, column), strict=True)
                weights = [_add_at(w, i, (other * product).astype(w.dtype)) for w, other, i in parts]
            return total, *weights

        weights = (jnp.zeros_like(rows.weight), jnp.zeros_like(columns.weight)) if learned else ()
        total, *weights = _over_windows(rows, columns, add, (total, *weights))
        return total, weights

    def pull_one_by_one(total, cells, rows, columns, gradient):
        return jax.lax.scan(lambda total, one: pull(total, cells, *one), total, (rows, columns, gradient))

    total = jnp.zeros((count, gradient.shape[-1]), _sum_dtype(gradient))
    inputs = total, cells, rows, columns, gradient
    total, weights = jax.lax.platform_dependent(*inputs, cpu=pull_one_by_one, default=pull)
    axes = [Slots(None, weight, None) for weight in weights] if learned else (None, None)
    return total.astype(gradient.dtype), *axes


_read.defvjp(_read_forward, _read_backward)


def _over_windows(rows, columns, step, state):
    """`step`(row, column, state) for every row and column of the largest window."""
    length = columns.length()
    return jax.lax.fori_loop(0, rows.length() * length, lambda i, state: step(i // length, i % length, state), state)


def _cell(rows, columns, k, column):
    """Of each window, the index of the cell in row `k` and `column`, and the weights of the row and the column."""
    (row_part, row_weight), (column_part, column_weight) = rows.at(k), columns.at(column)
    return row_part + column_part, row_weight, column_weight


def _add_at(array, k, values):
    """`array` `[…,K]` with `values` `[…]` added to number `k`: in a loop, faster on CPUs than the scatter of `array.at[..., k]`."""
    return array + jnp.where(jnp.arange(array.shape[-1]) == k, values[..., None], 0)


def _sum_dtype(x):
    """The dtype in which values of `x` are added: float32 for bfloat16."""
    return jnp.promote_types(x.dtype, jnp.float32)
