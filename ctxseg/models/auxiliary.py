"""Auxiliary scores, which only the loss reads, and heads on the backbone's maps that compute them (Zhao et al., CVPR 2017, §4)."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, no_type_check

import flax
import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float32

from ctxseg.bounds import OFF, Count, Portion
from ctxseg.errors import UserError
from ctxseg.models.classifier import Classifier
from ctxseg.models.layers import ConvNorm, Dropout
from ctxseg.models.resizing import resize
from ctxseg.models.shapes import Array, Maps


@no_type_check  # its fields may also be shapes, as in `jax.eval_shape`
@flax.struct.dataclass
class AuxiliaryLogits:
    """Auxiliary scores, and what the loss needs to know about them.

    Attributes:
        logits: scores of pixels; with `targets="classes"`, one row of scores for each class.
        weight: field of `config.loss` that has the weight of their loss.
        targets: what they are compared with. `labels`: the labels, after the scores are resized to the labels' size. `resized_labels`: the
            labels, resized to the scores' size. `classes`: row k is compared with class k.
        counts: with `targets="classes"`, which rows have a loss, bool `[k]`; else None.
    """

    logits: Float32[Array, "b h w k"] | Float32[Array, "k k"]
    weight: str = flax.struct.field(pytree_node=False, default="auxiliary")
    targets: Literal["labels", "resized_labels", "classes"] = flax.struct.field(pytree_node=False, default="labels")
    counts: Any = None


class AuxiliaryHeads(nn.Module):
    """Heads on several maps: each is one or more 3×3 convolutions with normalisation and ReLU, dropout, and a 1×1 convolution to K scores.

    Attributes:
        num_classes: K.
        levels: names of the backbone's maps that have an auxiliary head; only the loss reads its scores.
        channels: channels of each head's 3×3 convolution.
        convolutions: number of 3×3 convolutions of each head.
        enlarge: factor by which the map is resized after each of them; 1: not resized. MCIBI's published runs on ViT have two
            convolutions and a factor of 4.
        dropout: dropout probability before each head's 1×1 convolution.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dropout_layer: the dropout layer, with `axis_name` bound.
        dtype: dtype of the computation.
    """

    num_classes: int
    levels: Annotated[tuple[str, ...], OFF] = ()
    channels: Count = 512
    convolutions: Count = 1
    enlarge: Count = 1
    dropout: Portion = 0.1
    conv: Callable = ConvNorm
    dropout_layer: Callable = Dropout
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Maps, train: bool) -> dict[str, AuxiliaryLogits]:
        """{"head/LEVEL": scores of pixels, at the level's size}; `config.loss.heads` is their weight.

        Raises:
            UserError: the backbone has no map of that name.
        """
        scores = {}
        for level in self.levels:
            if level not in features:
                raise UserError(
                    f"config.model.auxiliary.levels has {level!r}; expected maps of the backbone: {', '.join(features)}"
                )
            x = features[level]
            for i in range(1, self.convolutions + 1):
                x = self.conv(self.channels, 3, name=f"{level}_conv" if i == 1 else f"{level}_conv{i}")(x, train)
                x = resize(x, (x.shape[1] * self.enlarge, x.shape[2] * self.enlarge))
            classifier = Classifier(
                self.num_classes,
                dropout=self.dropout,
                conv=self.conv,
                dropout_layer=self.dropout_layer,
                dtype=self.dtype,
                name=level,
            )
            scores[f"head/{level}"] = AuxiliaryLogits(classifier(x, train), weight="heads")
        return scores
