"""No backbone: the context module reads pixels, as in N-ReNet."""

import flax.linen as nn
from jaxtyping import Float

from ctxseg.models.shapes import Array, Maps


class NoBackbone(nn.Module):
    """Returns no maps. The only map is then `pixels`, the image, which the segmenter adds."""

    def __call__(self, x: Float[Array, "b H W 3"], train: bool = False) -> Maps:
        """`x` and `train` are not used."""
        return {}
