"""The composition that every system here is a configuration of (SPEC §0):

    image → backbone → within-image context → beyond-image memory → classifier

`Segmenter` runs it at one scale; `scales.MultiScale` runs a segmenter at several. The stages know nothing of each other
but the shapes that pass between them, so any choice of one works with any choice of the others.
"""

from collections.abc import Callable
from typing import Annotated, Any, no_type_check

import flax
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Float32, Real

from ctxseg.bounds import OFF, Portion, Whole
from ctxseg.models import extent
from ctxseg.models.auxiliary import AuxiliaryLogits
from ctxseg.models.classifier import Classifier
from ctxseg.models.context.levels import select
from ctxseg.models.context.none import NoContext
from ctxseg.models.layers import ConvNorm, Dropout
from ctxseg.models.pixels import PixelFormat
from ctxseg.models.shapes import Array, Maps, Regions


@no_type_check  # JAX makes it of shapes, too, as in `eval_shape`
@flax.struct.dataclass
class SegmenterOutput:
    """What a segmenter returns.

    Attributes:
        logits: at feature resolution; the loss and the evaluation upsample them, once.
        aux: {name: logits that only the loss reads, with their weight}.
        features: the normalised image as `pixels`, the backbone's maps, and as `context` what the classifier reads.
        pixels: representations that the memory learns from, or None.
        scale_weights: weights over image scales, or None.
        lengths: rows and columns of `logits` that are of the image; None without padding (see `extent`).
    """

    logits: Float32[Array, "b h w k"]
    aux: dict[str, AuxiliaryLogits] = flax.struct.field(default_factory=dict)
    features: Maps = flax.struct.field(default_factory=dict)
    pixels: Float[Array, "b h w c"] | None = None
    scale_weights: Float32[Array, "b h w s"] | None = None
    lengths: extent.Lengths | None = None


class Segmenter(nn.Module):
    """Backbone, context, memory and classifier, in this order.

    Attributes:
        backbone: (images, train) → {name: map}, finest first.
        context: (maps, regions, train) → map `[B,h,w,C]`, {name: auxiliary logits, float32 `[B,h',w',K]`, or `AuxiliaryLogits`}; its
            `levels` names the maps that it reads.
        num_classes: K.
        connections: its `intertwine`, (maps, regions, train, phases) → {name: map}, exchanges the maps' context before `context` reads
            them (MSCI, Table 2: other contexts on top of its bidirectional connections); None leaves the stage out.
        memory: (the context's last level, the context's map or None, train) → what the classifier reads, auxiliary logits as a context's,
            the pixels it learns from, and {"bank": `[K,C]`, "seen": bool `[K]`}; None leaves the stage out.
        auxiliary: (the backbone's maps, train) → {name: auxiliary logits}; None without such heads.
        hidden: channels of a convolution before the classifier's last.
        dropout: probability, before the classifier's last convolution.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dropout_layer: the dropout layer, with `axis_name` bound.
        dtype: of the computation; parameters, batch statistics and logits are float32.
        pixels: normalises images for the backbone.
    """

    backbone: nn.Module
    context: nn.Module
    num_classes: int
    connections: nn.Module | None = None
    memory: nn.Module | None = None
    auxiliary: nn.Module | None = None
    hidden: Annotated[Whole, OFF] = 0
    dropout: Portion = 0.0
    conv: Callable = ConvNorm
    dropout_layer: Callable = Dropout
    dtype: Any = jnp.float32
    pixels: PixelFormat = PixelFormat()

    @property
    def scales(self) -> tuple[float, ...]:
        """Of the image, in the order in which they are seen."""
        return (1.0,)

    @property
    def most_superpixels(self) -> dict[str, int]:
        """{section of the config: how many super-pixels of an image its module reads at the most}, of those that read any."""
        stages = {"context": self.context, "connections": self.connections}
        most = {section: getattr(stage, "most_superpixels", None) for section, stage in stages.items()}
        return {section: count for section, count in most.items() if count is not None}

    def setup(self):
        self.classifier = Classifier(
            self.num_classes, self.hidden, self.dropout, self.conv, self.dropout_layer, self.dtype
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
            regions: super-pixel ids, -1 where there is none, for the contexts that need them.
            train: batch statistics (and their update, if `batch_stats` is mutable) or running ones.
        """
        image = self.pixels(images).astype(self.dtype)
        features = {"pixels": image} | self.backbone(image, train)
        heads = {} if self.auxiliary is None else self.auxiliary(features, train)
        maps = features
        if self.connections is not None:
            maps = self.connections.intertwine(features, regions, train, phases=1)
        x, aux = self.context(maps, regions, train)
        pixels = None
        if self.memory is not None:
            last = select(maps, self.context.levels, 1)[-1]
            within = None if isinstance(self.context, NoContext) else x
            x, more, pixels, memory = self.memory(last, within, train)
            entries = self._entries(memory["bank"][None, None].astype(self.dtype), train)[0, 0]
            aux = aux | more | {"memory": AuxiliaryLogits(entries, "memory", "classes", memory["seen"])}
        logits = self.classifier(x, train)
        features = features | {"context": x}
        aux = {k: v if isinstance(v, AuxiliaryLogits) else AuxiliaryLogits(v) for k, v in (aux | heads).items()}
        return SegmenterOutput(logits, aux, features, pixels, lengths=extent.lengths(logits.shape[1:3]))

    def _entries(self, bank, train):
        """Scores of the memory's entries, which the classifier is to know, too (representation consistent learning)."""
        if not train or self.memory.consistency_norm == "running" or self.is_initializing():
            return self.classifier(bank, False)
        apart = self.classifier.clone(parent=None, dropout=0.0)  # whose call leaves the running statistics as they are
        return apart.apply(self.classifier.variables, bank, True)
