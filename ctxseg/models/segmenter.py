"""The network of every system (SPEC §0). The config chooses its stages:

    image → backbone → within-image context → beyond-image memory → classifier

`Segmenter` runs it at one scale; `scales.MultiScale` runs a segmenter at several. The stages depend only on the shapes of the arrays that
pass between them, so any choice of one stage works with any choice of the others.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, no_type_check

import flax
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Float32, Real

from ctxseg.bounds import OFF, Portion, Whole
from ctxseg.models import extent, recomputing
from ctxseg.models.auxiliary import AuxiliaryLogits
from ctxseg.models.classifier import Classifier
from ctxseg.models.context.levels import select
from ctxseg.models.context.none import NoContext
from ctxseg.models.layers import ConvNorm, Dropout
from ctxseg.models.pixels import PixelFormat
from ctxseg.models.shapes import Array, Maps, Regions


@no_type_check  # its fields may also be shapes, as in `jax.eval_shape`
@flax.struct.dataclass
class SegmenterOutput:
    """What a segmenter returns.

    Attributes:
        logits: scores of the classes, at the resolution of the feature map. The loss and the evaluation upsample them, once.
        aux: {name: auxiliary scores, which only the loss reads}.
        features: {name: map}: the normalised image as `pixels`, the backbone's maps, and the map that the classifier reads as `context`.
        pixels: representations of pixels, from which the memory is updated, or None.
        scale_weights: weights of the image scales, or None.
        lengths: rows and columns of `logits` that belong to the image; None without padding (see `extent`).
    """

    logits: Float32[Array, "b h w k"]
    aux: dict[str, AuxiliaryLogits] = flax.struct.field(default_factory=dict)
    features: Maps = flax.struct.field(default_factory=dict)
    pixels: Float[Array, "b h w c"] | None = None
    scale_weights: Float32[Array, "b h w s"] | None = None
    lengths: extent.Lengths | None = None


class _Halving(nn.Module):
    """A 3×3 convolution of stride 2 that keeps the number of channels."""

    conv: Callable

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b _ _ c"]:
        return self.conv(x.shape[-1], 3, stride=2, name="conv")(x, train)


class Segmenter(nn.Module):
    """Backbone, context, memory and classifier, in this order.

    Attributes:
        backbone: (images, train) → {name: map}, finest first.
        context: (maps, regions, train) → map `[B,h,w,C]`, {name: auxiliary logits, float32 `[B,h',w',K]`, or `AuxiliaryLogits`}. Its
            field `levels` names the maps that it reads.
        num_classes: K.
        connections: its method `intertwine`, (maps, regions, train, phases) → {name: map}, exchanges context between the maps before
            `context` reads them (MSCI, Table 2: other contexts on top of its bidirectional connections). None leaves the stage out.
        memory: (the last map that the context reads, the context's map or None, train) → the map that the classifier reads, auxiliary
            logits like those of a context, the pixels that update the memory, and {"bank": `[K,C]`, "seen": bool `[K]`}. None leaves the
            stage out.
        auxiliary: (the backbone's maps, train) → {name: auxiliary logits}. None for no auxiliary heads.
        hidden: channels of the classifier's hidden convolution, if it has one.
        hidden_kernel: kernel size of the classifier's hidden convolution: 1, or 3 as in published DeepLabV3 networks.
        dropout: dropout probability before the classifier's last convolution.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dropout_layer: the dropout layer, with `axis_name` bound.
        dtype: dtype of the computation; parameters, batch statistics and logits are float32.
        pixels: normalises images for the backbone.
        downsample: whether a 3×3 convolution of stride 2 halves the backbone's last map, before all later stages. Its result has as many
            channels.
        remat: see `recomputing`.
    """

    backbone: nn.Module
    context: nn.Module
    num_classes: int
    connections: nn.Module | None = None
    memory: nn.Module | None = None
    auxiliary: nn.Module | None = None
    hidden: Annotated[Whole, OFF] = 0
    hidden_kernel: Literal[1, 3] = 1
    dropout: Portion = 0.0
    conv: Callable = ConvNorm
    dropout_layer: Callable = Dropout
    dtype: Any = jnp.float32
    pixels: PixelFormat = PixelFormat()
    downsample: bool = False
    remat: recomputing.Remat = "none"

    @property
    def scales(self) -> tuple[float, ...]:
        """Factors of the image's size at which the network runs, in this order."""
        return (1.0,)

    @property
    def most_superpixels(self) -> dict[str, int]:
        """{section of `config.model`: maximum number of super-pixels of an image}, for the modules that read super-pixels."""
        stages = {"context": self.context, "connections": self.connections}
        maximums = {section: getattr(stage, "most_superpixels", None) for section, stage in stages.items()}
        return {section: count for section, count in maximums.items() if count is not None}

    def example(self, size: tuple[int, int]) -> tuple:
        """Arguments of `__call__` for an image of `size` (height, width), for `init`."""
        return jnp.zeros((1, *size, 3), jnp.uint8), jnp.zeros((1, *size), jnp.int32)

    def setup(self):
        if self.downsample:
            self.halving = _Halving(self.conv)
        self.classifier = Classifier(
            self.num_classes,
            self.hidden,
            self.hidden_kernel,
            self.dropout,
            self.conv,
            self.dropout_layer,
            self.dtype,
        )

    def __call__(
        self,
        images: Real[Array, "b H W 3"],
        regions: Regions | None = None,
        train: bool = False,
    ) -> SegmenterOutput:
        """Scores of every class at every position of the feature map.

        Args:
            images: RGB in 0..255.
            regions: super-pixel ids, -1 for no super-pixel, for the contexts that need them.
            train: True for dropout and the statistics of this batch, which update the running ones if `batch_stats` is mutable. False
                for the running statistics.
        """
        image = self.pixels(images).astype(self.dtype)
        features = {"pixels": image} | self.backbone(image, train)
        heads = {} if self.auxiliary is None else self.auxiliary(features, train)
        if self.downsample:
            features = features | {"downsampled": self.halving(list(features.values())[-1], train)}
        maps = features
        if self.connections is not None:
            maps = self._stage(
                lambda self, *maps: self.connections.intertwine(*maps, train, phases=1), features, regions
            )
        x, aux = self._stage(lambda self, *maps: self.context(*maps, train), maps, regions)
        pixels = None
        if self.memory is not None:
            last = select(maps, self.context.levels, 1)[-1]
            within = None if isinstance(self.context, NoContext) else x
            x, more, pixels, memory = self._stage(lambda self, *maps: self.memory(*maps, train), last, within)
            # Images of one position: a hidden 3×3 convolution reads each entry alone.
            with extent.padded(None, (1, 1)):
                entries = self._entries(memory["bank"][:, None, None].astype(self.dtype), train)[:, 0, 0]
            aux = aux | more | {"memory": AuxiliaryLogits(entries, "memory", "classes", memory["seen"])}
        logits = self._stage(lambda self, x: self.classifier(x, train), x)
        features = features | {"context": x}
        aux = {k: v if isinstance(v, AuxiliaryLogits) else AuxiliaryLogits(v) for k, v in (aux | heads).items()}
        return SegmenterOutput(logits, aux, features, pixels, lengths=extent.lengths(logits.shape[1:3]))

    def _stage(self, function, *arrays):
        return recomputing.stage(self, function)(self, *arrays)

    def _entries(self, bank, train):
        """The classifier's scores of the memory's entries, for representation consistent learning."""
        if not train or self.memory.consistency_norm == "running" or self.is_initializing():
            return self.classifier(bank, False)
        copy = self.classifier.clone(parent=None, dropout=0.0)  # a copy, so that the running statistics do not change
        return copy.apply(self.classifier.variables, bank, True)
