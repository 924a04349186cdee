"""Context beyond the image: the feature memory of MCIBI (Jin et al., ICCV 2021). SPEC §6.

    W      = softmax(H1(R))                              class distribution of each pixel
    C'     = W · M                                       M [K,C]: the memory, one representation per class
    C_bi   = g_o( softmax( g_q(R) g_k(C')ᵀ / √(C/2) ) · g_v(C') )
    R_aug  = F(R, C_bi, C_wi)                            C_wi: context within the image, optional

The bank M is state, not a parameter: the collection `memory`, which is part of the train state. `sample` or `cluster` initialises it from
training batches before the first step, and `update` changes it after each step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Float32, Integer, UInt32

from ctxseg.bounds import Amount, Count, Portion
from ctxseg.models import extent
from ctxseg.models.attention import attention
from ctxseg.models.classifier import Classifier
from ctxseg.models.layers import Conv, ConvNorm, Dropout
from ctxseg.models.resizing import interpolation
from ctxseg.models.shapes import Array

# {"bank": one representation for each class, "seen": whether the class has one yet}.
Memory = dict[str, Float[Array, "k c"] | Bool[Array, " k"]]
# {"draw": the random number of the pixel of each class, "pixel": the representation of that pixel}.
Sample = dict[str, UInt32[Array, " k"] | Float[Array, "k c"]]
# {"count", "length", "direction"}: sums over the pixels of each class.
Sums = dict[str, Float[Array, " k"] | Float[Array, "k c"]]

# Of the memory's sums. By default, GPUs and TPUs round the factors of float32 products to fewer bits.
_einsum = partial(jnp.einsum, precision="highest")


class CrossAttention(nn.Module):
    """g_o( softmax( g_q(R) g_k(C)ᵀ / √(C/2) ) · g_v(C) ), with `channels` output channels and half as many inside.

    g_q and g_k are two 1×1 convolutions each, g_v and g_o are one. All have normalisation and ReLU.
    """

    channels: int
    conv: Callable = ConvNorm

    @nn.compact
    def __call__(
        self, r: Float[Array, "b h w _"], c: Float[Array, "b _ _ _"], train: bool
    ) -> Float[Array, "b h w {self.channels}"]:
        """Attention from the positions of R to those of C."""
        inner = max(self.channels // 2, 1)
        q = self.conv(inner, 1, name="query2")(self.conv(inner, 1, name="query1")(r, train), train)
        k = self.conv(inner, 1, name="key2")(self.conv(inner, 1, name="key1")(c, train), train)
        v = self.conv(inner, 1, name="value")(c, train)
        queries, keys, values = [x.reshape(x.shape[0], -1, inner) for x in (q, k, v)]
        y = attention(queries, keys, values, scale=inner**-0.5, mask=extent.positions(c.shape[1:3])).reshape(q.shape)
        return self.conv(self.channels, 1, name="out")(y, train)


class FeatureMemory(nn.Module):
    """Adds context from the memory to every pixel ("dataset-level context aggregation", §3.3).

    Attributes:
        num_classes: K.
        channels: C, the number of channels of the representations and of the result.
        fusion: F, how a pixel's representation R and its context C_bi from the memory are combined. `concat` (the paper): 3×3 convolution
            of [R; C_bi]; `add`: R + C_bi; `weighted_add`: their sum, with two weights per pixel from a 1×1 convolution and softmax.
        dropout: dropout probability in H1, the classifier that gives each pixel's class distribution.
        first: initial entry of a class in the memory (the paper's §3.2). `random` (the paper): the representation of a random pixel of the
            class, drawn from the training set before the first step. `clustering`: the centre of the cosine-similarity cluster of the
            class's pixels, from the same images. `mean`, as in published code: the mean of the class's pixels in the first training batch
            that contains the class. It is also the initial entry of classes that do not occur in the images before the first step.
        clustering_batches: maximum number of training batches that initialise the memory before the first step, at most one epoch.
        cosine: weight each pixel by 1 − its cosine similarity with the entry that it updates; else all pixels have the same weight.
        momentum: m_0, initial value of m in the update of an entry, M[c] ← (1 − m) M[c] + m R'[c].
        polynomial: let m fall from m_0 to m_0/100 over the run; else it stays m_0.
        power: p in the schedule m = (1 − t/T)^p · (m_0 − m_0/100) + m_0/100, at step t of T.
        consistency_norm: statistics by which the classifier normalises the memory's entries in representation consistent learning (the
            paper's §3.4 leaves this open). `running`: its running statistics. `entries`: those of all entries, as in published code, which
            begins this learning in the second epoch. In both cases the running statistics, which testing uses, do not change, and there is
            no dropout.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dropout_layer: the dropout layer, with `axis_name` bound.
        dtype: dtype of the computation.
    """

    num_classes: int
    channels: Count = 512
    fusion: Literal["concat", "add", "weighted_add"] = "concat"
    dropout: Portion = 0.1
    first: Literal["random", "mean", "clustering"] = "random"
    clustering_batches: Count = 100
    cosine: bool = True
    momentum: Amount = 0.9
    polynomial: bool = True
    power: Amount = 0.9
    consistency_norm: Literal["running", "entries"] = "running"
    conv: Callable = ConvNorm
    dropout_layer: Callable = Dropout
    dtype: Any = jnp.float32

    # The submodule, and its auxiliary logits, that score the classes of pixels: pictures draw them, and tables of costs leave them out.
    SCORES: ClassVar[str] = "distribution"
    READ_WHEN: ClassVar[dict] = {
        "clustering_batches": ("first", ("random", "clustering")),
        "power": ("polynomial", (True,)),
    }

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w _"], within: Float[Array, "b _ _ _"] | None, train: bool
    ) -> tuple[Float[Array, "b h w c"], dict[str, Float32[Array, "b h w k"]], Float[Array, "b h w c"], Memory]:
        """Augments the representations of pixels.

        Args:
            x: the backbone's map.
            within: C_wi, the map of a context module, or None.
            train: see `Segmenter`.

        Returns:
            R_aug; {"distribution": H1(R)}; R, from which `update` computes the next memory; and the memory. The letter c is `channels`.
        """
        shape = (self.num_classes, self.channels)
        bank = self.variable("memory", "bank", jnp.zeros, shape, jnp.float32).value
        seen = self.variable("memory", "seen", jnp.zeros, (self.num_classes,), jnp.bool_).value

        r = self.conv(self.channels, 3, name="bottleneck")(x, train)
        logits = Classifier(
            self.num_classes,
            self.channels,
            dropout=self.dropout,
            conv=self.conv,
            dropout_layer=self.dropout_layer,
            dtype=self.dtype,
            name="distribution",
        )(r, train)
        c = jnp.einsum("bhwk,kc->bhwc", jax.nn.softmax(logits).astype(r.dtype), bank.astype(r.dtype))
        beyond = CrossAttention(self.channels, self.conv, name="beyond")(r, c, train)
        augmented = self._fuse(r, beyond, train)
        if within is not None:
            attended = CrossAttention(self.channels, self.conv, name="within")(r, within, train)
            both = jnp.concatenate([attended, augmented], axis=-1)
            augmented = self.conv(self.channels, 3, name="fuse_within")(both, train)
        return augmented, {"distribution": logits}, r, {"bank": bank, "seen": seen}

    def rate(self, step, steps: int):
        """m in the update after step `step` of `steps`."""
        return momentum(step, steps, self.momentum, self.power) if self.polynomial else self.momentum

    def updated(
        self,
        bank: Memory,
        pixels: Float[Array, "b h w c"],
        labels: Integer[Array, "b H W"],
        step,
        steps: int,
        axis_name: str | None = None,
    ) -> Memory:
        """The memory after step `step` of `steps`, see `update`."""
        return update(bank, pixels, labels, self.rate(step, steps), cosine=self.cosine, axis_name=axis_name)

    @property
    def filling(self) -> int:
        """Maximum number of training batches that initialise the memory before the first step; 0 for none."""
        return 0 if self.first == "mean" else self.clustering_batches

    def gather(
        self, pixels: Float[Array, "b h w c"], labels: Integer[Array, "b H W"], rng, axis_name: str | None = None
    ) -> Sample | Sums:
        """What one batch contributes to the initial memory, see `sample` and `cluster`."""
        if self.first == "random":
            return sample(pixels, labels, self.num_classes, rng, axis_name)
        return cluster(pixels, labels, self.num_classes, axis_name)

    def join(self, one, other):
        """Combines two results of `gather` into that of both batches together."""
        return higher(one, other) if self.first == "random" else jax.tree.map(jnp.add, one, other)

    def filled(self, found) -> Memory:
        """The initial memory, from the combined results of `gather`."""
        return sampled(found) if self.first == "random" else centres(found)

    def _fuse(self, r, beyond, train):
        if self.fusion == "add":
            return r + beyond
        both = jnp.concatenate([r, beyond], axis=-1)
        if self.fusion == "concat":
            return self.conv(self.channels, 3, name="fuse_beyond")(both, train)
        weights = nn.softmax(Conv(2, 1, dtype=self.dtype, name="weights")(both).astype(jnp.float32))
        return (weights[..., :1] * r + weights[..., 1:] * beyond).astype(r.dtype)


def momentum(step, steps: int, initial: float = 0.9, power: float = 0.9):
    """m_t = (1 − t/T)^p · (m_0 − m_0/100) + m_0/100, at step `step` (t) of `steps` (T)."""
    return (1 - step / steps) ** power * (initial - initial / 100) + initial / 100


def update(
    memory: Memory,
    pixels: Float[Array, "b h w c"],
    labels: Integer[Array, "b H W"],
    rate,
    *,
    cosine: bool,
    axis_name: str | None = None,
) -> Memory:
    """The memory after a training step (§3.2):

        S_i   = cos(R_i, M[c])                                    for each pixel i of class c in the batch
        R'[c] = Σ_i (1 − S_i) / Σ_j (1 − S_j) · R_i               classes that are not in the batch keep their entry
        M[c] ← (1 − m) M[c] + m R'[c]

    A class that has no entry yet gets the mean of its pixels. The sums are over the pixels of all devices, so the result does not depend
    on how the batch is split.

    Args:
        memory: the memory before the step.
        pixels: R; it is interpolated bilinearly to the resolution of the labels, one row at a time.
        labels: ids in [0, K); 255 is ignored.
        rate: m.
        cosine: whether to weight by 1 − S. If not, or if all weights of a class are 0, R' is the plain mean.
        axis_name: name of the `pmap` axis over which the batch is split, or None.

    Returns:
        The new memory.
    """
    bank, seen = memory["bank"], memory["seen"]
    classes = bank.shape[0]
    unit = bank / jnp.maximum(jnp.linalg.norm(bank, axis=-1, keepdims=True), 1e-12)

    def add(sums, row):
        r, label = row
        member = jax.nn.one_hot(label, classes, dtype=jnp.float32)  # all 0 for an ignored pixel
        norm = jnp.maximum(jnp.linalg.norm(r, axis=-1, keepdims=True), 1e-12)
        weights = member * (1 - _einsum("bwc,kc->bwk", r / norm, unit))
        new = {
            "count": member.sum((0, 1)),
            "sum": _einsum("bwk,bwc->kc", member, r),
            "weight": weights.sum((0, 1)),
            "weighted": _einsum("bwk,bwc->kc", weights, r),
        }
        return jax.tree.map(jnp.add, sums, new), None

    sums = _over_rows(add, _zero_sums(bank), pixels, labels)
    if axis_name is not None:
        sums = lax.psum(sums, axis_name)
    mean = sums["sum"] / jnp.maximum(sums["count"], 1)[:, None]
    target = mean
    if cosine:
        # If all pixels of a class have the direction of its entry, their weights are 0 up to rounding.
        enough = sums["weight"] > 1e-6 * sums["count"]
        target = jnp.where(enough[:, None], sums["weighted"] / jnp.where(enough, sums["weight"], 1)[:, None], mean)
    present = (sums["count"] > 0)[:, None]
    moved = jnp.where(seen[:, None], (1 - rate) * bank + rate * target, mean)
    return {"bank": jnp.where(present, moved, bank), "seen": seen | present[:, 0]}


def sample(
    pixels: Float[Array, "b h w c"],
    labels: Integer[Array, "b H W"],
    classes: int,
    rng,
    axis_name: str | None = None,
) -> Sample:
    """The representation of a random pixel of each class in one batch.

    Every pixel gets a random number, which depends on its position in the whole batch. The pixel with the highest number of its class is
    taken. So the result does not depend on how the batch is split over devices, and `higher` gives a random pixel of several batches,
    each with its own key.

    Returns:
        {"draw": the pixel's number, more than 0; "pixel": its representation}; both are 0 for a class that is not in the batch.
    """
    b, height, width = labels.shape
    first_image = 0 if axis_name is None else lax.axis_index(axis_name) * b
    draw = jax.vmap(lambda i: jnp.maximum(jax.random.bits(jax.random.fold_in(rng, i), (height, width)), 1))
    # The label of ignored pixels, 255, is not a segment, so they are dropped.
    flat_labels, flat = labels.reshape(-1).astype(jnp.int32), draw(first_image + jnp.arange(b)).reshape(-1)
    best = jax.ops.segment_max(flat, flat_labels, classes)
    chosen = jnp.full(classes, flat.size, jnp.int32)
    position = jnp.where(flat == best[jnp.minimum(flat_labels, classes - 1)], jnp.arange(flat.size), flat.size)
    chosen = chosen.at[flat_labels].min(position, mode="drop")
    image, y, x = jnp.unravel_index(jnp.minimum(chosen, flat.size - 1), labels.shape)
    rows, columns = (jnp.asarray(interpolation(n, m)) for n, m in zip(pixels.shape[1:3], (height, width), strict=True))
    r = _einsum("kh,kw,khwc->kc", rows[y], columns[x], pixels.astype(jnp.float32)[image])
    local = jnp.where(chosen < flat.size, best, 0)
    if axis_name is None:
        return {"draw": local, "pixel": jnp.where((local > 0)[:, None], r, 0)}
    device, highest = lax.axis_index(axis_name), lax.pmax(local, axis_name)
    tied = (local > 0) & (local == highest)
    # Two devices may have the same highest number: the first of them gives the pixel.
    winner = lax.pmin(jnp.where(tied, device, lax.psum(1, axis_name)), axis_name)
    return {"draw": highest, "pixel": lax.psum(jnp.where((tied & (winner == device))[:, None], r, 0), axis_name)}


def higher(one: Sample, other: Sample) -> Sample:
    """Of two results of `sample`, the pixel of each class that has the higher number; the pixel of `one` if they are equal."""
    wins = other["draw"] > one["draw"]
    pixel = jnp.where(wins[:, None], other["pixel"], one["pixel"])
    return {"draw": jnp.maximum(one["draw"], other["draw"]), "pixel": pixel}


def sampled(found: Sample) -> Memory:
    """The initial memory, from the pixels of `sample`."""
    return {"bank": found["pixel"], "seen": found["draw"] > 0}


def cluster(
    pixels: Float[Array, "b h w c"], labels: Integer[Array, "b H W"], classes: int, axis_name: str | None = None
) -> Sums:
    """Sums over one batch from which `centres` computes the centre of each class's cosine-similarity cluster.

    With one cluster for each class, the centre with the largest summed cosine similarity has the direction of Σ_i R_i/|R_i|. Its length
    here is the pixels' mean length.

    Returns:
        The sums over all devices, to be added over batches.
    """

    def add(sums, row):
        r, label = row
        member = jax.nn.one_hot(label, classes, dtype=jnp.float32)
        norm = jnp.linalg.norm(r, axis=-1)
        new = {
            "count": member.sum((0, 1)),
            "length": _einsum("bwk,bw->k", member, norm),
            "direction": _einsum("bwk,bwc->kc", member, r / jnp.maximum(norm, 1e-12)[..., None]),
        }
        return jax.tree.map(jnp.add, sums, new), None

    zeros = {
        "count": jnp.zeros(classes),
        "length": jnp.zeros(classes),
        "direction": jnp.zeros((classes, pixels.shape[-1])),
    }
    sums = _over_rows(add, zeros, pixels, labels)
    return sums if axis_name is None else lax.psum(sums, axis_name)


def centres(sums: Sums) -> Memory:
    """The initial memory, the centres of the clusters, from the sums of `cluster` over all batches."""
    seen = sums["count"] > 0
    length = sums["length"] / jnp.maximum(sums["count"], 1)
    norm = jnp.maximum(jnp.linalg.norm(sums["direction"], axis=-1), 1e-12)
    return {"bank": sums["direction"] * (length / norm)[:, None], "seen": seen}


def _zero_sums(bank):
    classes = bank.shape[0]
    return {"count": jnp.zeros(classes), "sum": jnp.zeros_like(bank), "weight": jnp.zeros(classes),
            "weighted": jnp.zeros_like(bank)}  # fmt: skip


def _over_rows(add, sums, pixels, labels):
    """Scans `add` over the rows of the labels. It gets the representations, interpolated to the row, and the labels: `[B,W,C]`, `[B,W]`."""
    height, width = labels.shape[1:3]
    across = _einsum("bhwc,Ww->hbWc", pixels.astype(jnp.float32), interpolation(pixels.shape[2], width))
    rows = jnp.asarray(interpolation(pixels.shape[1], height))
    nearest = rows.argmax(1)

    def step(sums, y):
        # A row is interpolated from at most two rows: the one with the larger weight, and one beside it.
        near = nearest[y] + jnp.array([-1, 0, 1])
        inside = (near >= 0) & (near < pixels.shape[1])
        near = jnp.clip(near, 0, pixels.shape[1] - 1)
        weights = jnp.where(inside, rows[y, near], 0)
        return add(sums, (_einsum("n,nbwc->bwc", weights, across[near]), labels[:, y]))

    return lax.scan(step, sums, jnp.arange(height))[0]
