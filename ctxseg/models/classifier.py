"""The last stage: from a map to the scores of every class."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float, Float32

from ctxseg.bounds import Portion, Whole
from ctxseg.models import initial
from ctxseg.models.layers import Conv, ConvNorm, Dropout
from ctxseg.models.shapes import Array


class Classifier(nn.Module):
    """An optional hidden convolution with normalisation and ReLU, dropout, and a 1×1 convolution to K scores.

    Attributes:
        num_classes: K.
        hidden: channels of the hidden convolution; 0 for no hidden convolution.
        hidden_kernel: kernel size of the hidden convolution.
        dropout: dropout probability before the last convolution.
        conv: the convolution + normalisation layer, with `dtype` and `axis_name` bound.
        dropout_layer: the dropout layer, with `axis_name` bound.
        dtype: dtype of the computation.
    """

    num_classes: int
    hidden: Whole = 0
    hidden_kernel: Literal[1, 3] = 1
    dropout: Portion = 0.0
    conv: Callable = ConvNorm
    dropout_layer: Callable = Dropout
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w _"], train: bool) -> Float32[Array, "b h w {self.num_classes}"]:
        """The scores."""
        if self.hidden:
            x = self.conv(self.hidden, self.hidden_kernel, name="hidden")(x, train)
        x = self.dropout_layer(self.dropout)(x, train)
        init = initial.lecun_normal()
        return Conv(self.num_classes, 1, kernel_init=init, dtype=self.dtype, name="scores")(x).astype(jnp.float32)
