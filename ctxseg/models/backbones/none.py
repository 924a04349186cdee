"""No backbone: the context module reads pixels, as N-ReNet does."""

import flax.linen as nn
from jaxtyping import Float

from ctxseg.models.shapes import Array, Maps


class NoBackbone(nn.Module):
    """Gives no map of its own; the segmenter's `pixels` is then the only one."""

    def __call__(self, x: Float[Array, "b H W 3"], train: bool = False) -> Maps:
        """`x` and `train` are not used."""
        return {}
