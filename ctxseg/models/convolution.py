"""2-D convolution with gradients that are fast on CPUs too. On other devices it is `lax.conv_general_dilated`, unchanged.

Maps are `[B,h,w,C]`. Kernels are `[k,l,I,O]`, with k and l odd. Padding is `dilation·⌊k/2⌋` on either side, as in PyTorch, or, if `before`
is given, `before` above and to the left and the rest below and to the right, as in TensorFlow (see `tensorflow_padding`).

XLA's CPU backend computes the gradient of a kernel several times slower than the convolution itself. On a CPU, therefore,

- a 1×1 convolution and its gradients are matrix products;
- a 3×3 convolution of stride 1 and its gradients use Winograd's algorithm, with 16 products where the definition has 36;
- the gradient of any other kernel is k·l matrix products, one per tap;
- a depthwise convolution and its gradients are sums of k·l shifted maps.

In bfloat16, Winograd's transforms would make the rounding errors five times as large, so a 3×3 convolution is then treated as any other.

`benchmarks/cpu_steps.py` measures the time that this saves.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Float

from ctxseg.models.shapes import Array

# F(2×2, 3×3) of Lavin & Gray, CVPR 2016, §4.1: a 4×4 tile d and a filter g give 2×2 outputs Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A.
# The tiles of a larger F save another third of the products, but their rounding errors are ten times those of a plain sum.
B_T = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float32)
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
A_T = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float32)
REVERSED = (3, 1, 2, 0)  # G with its columns reversed has these rows of G


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k l i o"],
    stride: int = 1,
    dilation: int = 1,
    before: int | None = None,
) -> Float[Array, "b _ _ o"]:
    """Convolution of `x` with `kernel`, of the same dtype: → `[B,⌈h/stride⌉,⌈w/stride⌉,O]`.

    Differentiable in reverse mode only.

    Args:
        before: rows and columns of padding above and to the left; None: half of the padding.
    """
    return _forward(x, kernel, stride, dilation, before)[0]


# `jit`: networks repeat the same convolution many times; each shape is then traced and lowered once.
@partial(jax.jit, static_argnums=(2, 3, 4))
def _forward(x, kernel, stride, dilation, before):
    x = materialize(x)
    settings = {"stride": stride, "dilation": dilation, "before": before}
    y = lax.platform_dependent(x, kernel, cpu=partial(_cpu, **settings), default=partial(_plain, **settings))
    return y, (x, kernel)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _backward(stride, dilation, before, residuals, dy):
    def plain(x, kernel, dy):
        return jax.vjp(partial(_plain, stride=stride, dilation=dilation, before=before), x, kernel)[1](dy)

    def cpu(x, kernel, dy):
        dx = _cpu_input_gradient(x, kernel, dy, stride, dilation, before)
        return dx, _cpu_kernel_gradient(x, kernel, dy, stride, dilation, before)

    return lax.platform_dependent(*residuals, materialize(dy), cpu=cpu, default=plain)


convolve.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve_depthwise(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k l 1 c"],
    stride: int = 1,
    dilation: int = 1,
    before: int | None = None,
) -> Float[Array, "b _ _ c"]:
    """Convolution of each channel of `x` with a kernel of its own, of the same dtype → `[B,⌈h/stride⌉,⌈w/stride⌉,C]`.

    Differentiable in reverse mode only. `before` is as in `convolve`.
    """
    return _depthwise_forward(x, kernel, stride, dilation, before)[0]


def _depthwise_forward(x, kernel, stride, dilation, before):
    x = materialize(x)
    settings = {"stride": stride, "dilation": dilation, "before": before}
    y = lax.platform_dependent(
        x, kernel, cpu=partial(_shifted_sum, **settings), default=partial(_plain, **settings, groups=x.shape[-1])
    )
    return y, (x, kernel)


def _depthwise_backward(stride, dilation, before, residuals, dy):
    def plain(x, kernel, dy):
        convolution = partial(_plain, stride=stride, dilation=dilation, before=before, groups=x.shape[-1])
        return jax.vjp(convolution, x, kernel)[1](dy)

    def cpu(x, kernel, dy):
        # The transpose of the shifted sum: a shifted sum of the gradient, with stride − 1 zeros between its values.
        spread = _spread(dy, x.shape, stride)
        after = [after for _, after in _padding(kernel, dilation, before)]
        dx = _shifted_sum(spread, kernel[::-1, ::-1], 1, dilation, after[0])
        return dx, _depthwise_kernel_gradient(x, kernel, dy, stride, dilation, before)

    return lax.platform_dependent(*residuals, materialize(dy), cpu=cpu, default=plain)


convolve_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_kernel_gradient(x, kernel, dy, stride, dilation, before):
    """One row of `dy`, of a few images, at a time: it and the rows of `x` that it is multiplied with fit in the cache. The products are
    added up for each position of a row, and over the row only at the end, since XLA is slow to add up over positions. `materialize`:
    it is also slow to read a row whose index is a variable within a sum."""
    dtype = _sum_dtype(x)
    (above, _), sides = _padding(kernel, dilation, before)
    down, across = (range(0, k * dilation, dilation) for k in kernel.shape[:2])
    images, height, _, channels = x.shape
    rows, columns = dy.shape[1:3]
    last = (columns - 1) * stride + 1
    together = max(n for n in range(1, 9) if images % n == 0)

    def row_of(x, image, i):
        x = lax.dynamic_slice_in_dim(x, image, together, axis=0)
        return lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False).astype(dtype)

    def padded_row(image, i):
        row = jnp.where((i >= 0) & (i < height), row_of(x, image, jnp.clip(i, 0, height - 1)), 0)
        return materialize(jnp.pad(row, ((0, 0), sides, (0, 0))))

    def add_row(totals, step):
        image, i = together * (step // rows), step % rows
        gradient = materialize(row_of(dy, image, i))
        sums = []
        for line, a in zip(totals, down, strict=True):
            row = padded_row(image, i * stride + a - above)
            taps = [row[:, b : b + last : stride] for b in across]
            products = [[tap[n] * gradient[n] for n in range(together)] for tap in taps]
            sums.append([sum(terms, total) for terms, total in zip(products, line, strict=True)])
        return sums, None

    zeros = [[jnp.zeros((columns, channels), dtype)] * len(across)] * len(down)
    totals, _ = lax.scan(add_row, zeros, jnp.arange(images // together * rows))
    return jnp.stack([jnp.stack([t.sum(0) for t in line]) for line in totals])[:, :, None].astype(kernel.dtype)


def _sum_dtype(x):
    """The dtype in which many values of `x` are added: float32 for bfloat16."""
    return jnp.promote_types(x.dtype, jnp.float32)


def tensorflow_padding(kernel_size: int, stride: int) -> int:
    """Rows and columns above and to the left in TensorFlow's "SAME" padding of a map that `stride` divides.

    There are kernel_size − stride in total; an odd one is below or to the right. Maps of any size get this padding, so that a padded
    image has the same features as the image alone.
    """
    return max(kernel_size - stride, 0) // 2


@jax.custom_vjp
def materialize(x):
    """`x`, unchanged. It and its gradient are computed only once, even if several operations read them.

    XLA's CPU backend removes `optimization_barrier` before it fuses operations. It then repeats a chain of elementwise operations
    in each operation that reads the result. In a residual network, the chain along the shortcuts reaches back to the first block. A
    call that may not be inlined prevents this, and costs nothing.
    """
    return _call(x)


def _call(x):
    def cpu(x):
        with set_xla_metadata(inlineable="false"):
            return jax.jit(lambda x: x)(x)

    return lax.platform_dependent(x, cpu=cpu, default=lambda x: x)


materialize.defvjp(lambda x: (_call(x), None), lambda _, dy: (_call(dy),))


def _padding(kernel, dilation, before):
    """Rows and columns of padding (above, below) and (left, right)."""
    pairs = []
    for k in kernel.shape[:2]:
        first = dilation * (k // 2) if before is None else before
        pairs.append((first, dilation * (k - 1) - first))
    return pairs


def _plain(x, kernel, stride, dilation, before, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=_padding(kernel, dilation, before),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _shifted(x, kernel, shape, stride, dilation, before):
    """The values of `x` that each tap of `kernel` reads for a result of `shape`: a list of lists of maps."""
    x = materialize(jnp.pad(x, ((0, 0), *_padding(kernel, dilation, before), (0, 0))))
    height, width = ((n - 1) * stride + 1 for n in shape[1:3])
    down, across = (range(0, k * dilation, dilation) for k in kernel.shape[:2])
    return [[x[:, i : i + height : stride, j : j + width : stride] for j in across] for i in down]


def _shifted_sum(x, kernel, stride, dilation, before):
    b, *size, c = x.shape
    taps = _shifted(x, kernel, (b, *(-(-n // stride) for n in size), c), stride, dilation, before)
    kernel = kernel.astype(_sum_dtype(kernel))
    return sum(
        x * w for row, weights in zip(taps, kernel[:, :, 0], strict=True) for x, w in zip(row, weights, strict=True)
    ).astype(x.dtype)


def _cpu(x, kernel, stride, dilation, before):
    if kernel.shape[:2] == (1, 1):
        return _matmul(x[:, ::stride, ::stride], kernel[0, 0])
    if not _winograd_pays(kernel, stride, before):
        return _plain(x, kernel, stride, dilation, before)
    return _winograd(x, _transform(G, kernel), _matmul, dilation)


def _winograd(x, filters, multiply, dilation):
    """The convolution of `x` with the transformed `filters`, by the products `multiply`."""
    tiles = _transform(B_T, _tiles(x, dilation, halo=1))
    y = _transform(A_T, _pairs(multiply, tiles, filters))
    y = jnp.stack([jnp.stack(row, axis=4) for row in y], axis=2)  # [B, tiles, 2, dilation, tiles, 2, dilation, O]
    y = y.reshape(y.shape[0], 2 * dilation * y.shape[1], 2 * dilation * y.shape[4], y.shape[-1])
    return y[:, : x.shape[1], : x.shape[2]].astype(x.dtype)


def _cpu_input_gradient(x, kernel, dy, stride, dilation, before):
    if kernel.shape[:2] == (1, 1):
        dx = _matmul_transposed(dy, kernel[0, 0])
        return _spread(dx, x.shape, stride)
    if _winograd_pays(kernel, stride, before):
        # The transform of the reversed kernel has the same parts in another order. The parts are not transposed before the products,
        # as XLA would transpose in each of the transform's sums.
        filters = _transform(G, kernel)
        return _winograd(dy, [[filters[i][j] for j in REVERSED] for i in REVERSED], _matmul_transposed, dilation)
    if stride == 1 and before is None:
        return _plain(dy, kernel[::-1, ::-1].swapaxes(2, 3), 1, dilation, None)
    (dx,) = jax.vjp(lambda x: _plain(x, kernel, stride, dilation, before), x)[1](dy)
    return dx


def _spread(y, shape, stride):
    """The transpose of x[:, ::stride, ::stride] for an x of `shape`: the values of `y` with zeros between them."""
    around = [(0, n - (m - 1) * stride - 1, stride - 1) for m, n in zip(y.shape[1:3], shape[1:3], strict=True)]
    return lax.pad(y, jnp.zeros((), y.dtype), ((0, 0, 0), *around, (0, 0, 0)))


def _cpu_kernel_gradient(x, kernel, dy, stride, dilation, before):
    if _winograd_pays(kernel, stride, before):
        tiles = _transform(B_T, _tiles(x, dilation, halo=1))
        gradients = _transform(A_T.T, _tiles(dy, dilation, halo=0))
        taps = _transform(G.T, _pairs(_outer, tiles, gradients))
    else:
        taps = [[_outer(tap, dy) for tap in row] for row in _shifted(x, kernel, dy.shape, stride, dilation, before)]
    return jnp.stack([jnp.stack(row) for row in taps]).astype(kernel.dtype)


def _winograd_pays(kernel, stride, before):
    """Whether the saved products (∝ I·O) outweigh the transforms (∝ I+O), which was measured. Not in bfloat16, see above."""
    *size, i, o = kernel.shape
    exact = kernel.dtype != jnp.bfloat16
    return exact and size == [3, 3] and stride == 1 and before is None and i * o >= 32 * (i + o)


def _matmul(x, w):
    """`x` `[…,I]` times `w` `[I,O]` → `[…,O]`."""
    return (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[1])


def _matmul_transposed(y, w):
    """`y` `[…,O]` times the transpose of `w` `[I,O]` → `[…,I]`."""
    x = lax.dot_general(y.reshape(-1, y.shape[-1]), w, (((1,), (1,)), ((), ())))
    return x.reshape(*y.shape[:-1], w.shape[0])


def _outer(x, dy):
    """Σ x dyᵀ over positions: `x` `[…,I]`, `dy` `[…,O]` → `[I,O]`."""
    return x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])


def _pad(x, before, height_after, width_after):
    return materialize(jnp.pad(x, ((0, 0), (before, height_after), (before, width_after), (0, 0))))


def _tiles(x, dilation, halo):
    """The positions of each 2×2 tile of `x`, and `halo` around it: lists `[2+2·halo][2+2·halo]` of `[B,tiles,dilation,tiles,dilation,C]`.

    A dilated convolution acts on dilation² interleaved maps, so neighbours in a tile are `dilation` positions apart.
    """
    b, h, w, c = x.shape
    down, across = (-(-n // (2 * dilation)) for n in (h, w))
    x = _pad(x, dilation * halo, *(dilation * (2 * t + halo) - n for t, n in ((down, h), (across, w))))
    x = x.reshape(b, 2 * (down + halo), dilation, 2 * (across + halo), dilation, c)
    size = range(2 + 2 * halo)
    return [[x[:, i : i + 2 * down - 1 : 2, :, j : j + 2 * across - 1 : 2] for j in size] for i in size]


def _transform(matrix, parts):
    """M X Mᵀ, as a list of lists. `parts` is X, a matrix of arrays."""
    columns = [_combine(matrix, column) for column in zip(*parts, strict=True)]
    return [_combine(matrix, row) for row in zip(*columns, strict=True)]


def _combine(matrix, parts):
    """M x, as a list. `parts` is x, a vector of arrays."""
    return [sum(p * m.astype(p.dtype) for m, p in zip(row, parts, strict=True) if m) for row in matrix]


def _pairs(f, a, b):
    return [[f(*pair) for pair in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]
