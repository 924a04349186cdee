"""The heads of Mask R-CNN (He et al., ICCV 2017, §3 and Fig. 4), and the choice of the detections among the boxes. SPEC §9."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32, Int, Int32

from ctxseg.models import initial
from ctxseg.models.detectors import boxes as box_ops
from ctxseg.models.layers import Conv, ConvNorm, promote_all_but_bias, relu
from ctxseg.models.shapes import Array

MINIMUM_SIZE = 1e-2  # pixels; smaller detections are dropped, as in torchvision


class BoxHead(nn.Module):
    """Fully connected layers with ReLU, then the scores of the classes and the deltas of a box for each class.

    Attributes:
        num_classes: K, without the background.
        channels: channels of each hidden layer.
        layers: number of hidden layers.
        norm: normalisation of the hidden layers: `none` or `batch`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
    """

    num_classes: int
    channels: int = 1024
    layers: int = 2
    norm: Literal["none", "batch"] = "none"
    conv: Callable = ConvNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "r s s c"], train: bool
    ) -> tuple[Float32[Array, "r {self.num_classes+1}"], Float32[Array, "r {self.num_classes} 4"]]:
        """Scores (logits; background first) and deltas, of what `roi_align` returns."""
        x = x.reshape(len(x), 1, 1, -1)
        for i in range(1, self.layers + 1):
            x = self.conv(self.channels, 1, norm=self.norm, name=f"hidden{i}")(x, train)
        x, normal = x[:, 0, 0], initial.normal
        types = {"dtype": self.dtype, "promote_dtype": promote_all_but_bias}
        scores = nn.Dense(self.num_classes + 1, kernel_init=normal(0.01), **types, name="scores")(x)
        deltas = nn.DenseGeneral((self.num_classes, 4), kernel_init=normal(0.001), **types, name="deltas")(x)
        return scores.astype(jnp.float32), deltas.astype(jnp.float32)


OFFSET = 0.1  # of a box's size, per unit of what the layer of offsets returns (Dai et al., ICCV 2017, §2.2, γ)


class BoxOffsets(nn.Module):
    """Offsets of the bins of deformable pooling, from one fully connected layer for each level. They begin at 0.

    Attributes:
        bins: rows and columns of bins.
        dtype: dtype of the computation.
    """

    bins: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "r s s c"], levels: Int[Array, " r"], count: int
    ) -> Float32[Array, "r {self.bins} {self.bins} 2"]:
        """(dy, dx) of every bin, in heights and widths of its box, from what the bins read without offsets.

        Args:
            x: of `deformable_roi_pool`.
            levels: level of each box.
            count: number of levels.
        """
        x, zeros = x.reshape(len(x), -1), nn.initializers.zeros
        types = {"dtype": self.dtype, "promote_dtype": promote_all_but_bias}
        layers = [nn.Dense(2 * self.bins**2, kernel_init=zeros, **types, name=f"level{i + 1}") for i in range(count)]
        offsets = jnp.stack([layer(x) for layer in layers], 1).astype(jnp.float32)
        offsets = jnp.take_along_axis(offsets, levels[:, None, None], 1)[:, 0]
        return OFFSET * offsets.reshape(-1, self.bins, self.bins, 2)


class MaskHead(nn.Module):
    """3×3 convolutions, a 2×2 deconvolution of stride 2, all with ReLU, and a 1×1 convolution to the masks of the classes.

    Attributes:
        outputs: number of masks: K, or K + 1 with the background.
        channels: channels of the convolutions.
        layers: number of 3×3 convolutions.
        norm: normalisation of the 3×3 convolutions: `none` or `batch`.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dtype: dtype of the computation.
    """

    outputs: int
    channels: int = 256
    layers: int = 4
    norm: Literal["none", "batch"] = "none"
    conv: Callable = ConvNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "r s s _"], train: bool) -> Float32[Array, "r 2*s 2*s {self.outputs}"]:
        """Logits of the masks, of what `roi_align` returns."""
        for i in range(1, self.layers + 1):
            x = self.conv(self.channels, 3, norm=self.norm, name=f"conv{i}")(x, train)
        x = relu(Deconvolution(self.channels, dtype=self.dtype, name="upsample")(x))
        return Conv(self.outputs, 1, dtype=self.dtype, name="scores")(x).astype(jnp.float32)


class Deconvolution(nn.Module):
    """2×2 transposed convolution of stride 2: value (2y+i, 2x+j) is value (y, x) times `kernel[i,j]`, plus `bias`.

    Parameters: `kernel` `[2,2,C,features]` and `bias` `[features]`.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w {self.features}"]:
        b, h, w, c = x.shape
        init = initial.he_normal(batch_axis=(0, 1))  # each value has C inputs
        kernel = self.param("kernel", init, (2, 2, c, self.features), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = x.astype(self.dtype).reshape(-1, c) @ kernel.transpose(2, 0, 1, 3).reshape(c, -1)
        y = y.reshape(b, h, w, 2, 2, self.features).transpose(0, 1, 3, 2, 4, 5)
        return (y.reshape(b, 2 * h, 2 * w, self.features) + bias).astype(self.dtype)


def detect(
    scores: Float[Array, "r k"],
    boxes: Float[Array, "r k 4"],
    valid: Bool[Array, " r"],
    minimum: float,
    threshold: float,
    count: int,
    suppression: Literal["hard", "linear", "gaussian"] = "hard",
) -> tuple[Float32[Array, "d 4"], Float32[Array, " d"], Int32[Array, " d"], Int32[Array, " d"], Bool[Array, " d"]]:
    """The detections of one image: the best boxes after non-maximum suppression within each class.

    One detection is found at a time, until there are `count`, since a matrix of the overlaps of all r·k boxes would be too large.

    Args:
        scores: probabilities of the classes, without the background.
        boxes: a box for each class, clipped to the image.
        valid: which rows exist.
        minimum: probability from which, exclusively, a box counts.
        threshold: IoU from which, exclusively, a box is suppressed by a better one of its class. For `gaussian`, σ, above 0.
        count: d, the length of the result.
        suppression: what a detection does to the other boxes of its class, by their overlap with it. `hard`: those above the threshold
            are dropped. `linear` and `gaussian`, Soft-NMS (Bodla et al., ICCV 2017, §3): a score is multiplied by 1 − IoU above the
            threshold, or by exp(−IoU²/σ) at any overlap. The result has these lower scores, and `minimum` does not apply to them.

    Returns:
        Boxes, scores, classes, rows of `boxes` that they come from, and which of them are valid, the first ones. Best first; of equal
        scores, the lower row first.
    """
    k = scores.shape[1]
    large = ((boxes[..., 2:] - boxes[..., :2]) >= MINIMUM_SIZE).all(-1)
    left = jnp.where((scores > minimum) & large & valid[:, None], scores, -1.0)
    columns = boxes.transpose(1, 2, 0)  # the overlaps are computed with all boxes of a class

    def step(left, _):
        best = left.argmax()
        row, class_ = best // k, best % k
        overlap = box_ops.overlap(boxes[row, class_], columns[class_])
        score, column = left[row, class_], left[:, class_]
        if suppression == "hard":
            column = jnp.where(overlap > threshold, -1.0, column)
        elif suppression == "linear":
            column = jnp.where(overlap > threshold, column * (1 - overlap), column)
        else:
            column = column * jnp.exp(-(overlap**2) / threshold)
        left = left.at[:, class_].set(jnp.where(jnp.arange(len(left)) == row, -1.0, column))
        return left, (boxes[row, class_], jnp.maximum(score, 0), class_, row, score > 0)

    found, score, class_, row, exists = jax.lax.scan(step, left, None, count)[1]
    return (
        jnp.where(exists[:, None], found, 0),
        score,
        jnp.where(exists, class_, -1).astype(jnp.int32),
        row.astype(jnp.int32),
        exists,
    )
