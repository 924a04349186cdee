"""No context: the fully convolutional network with which the others are compared (Long et al. 2015)."""

import flax.linen as nn
from jaxtyping import Float

from ctxseg.models.context.levels import select
from ctxseg.models.shapes import Array, Maps, Regions


class NoContext(nn.Module):
    """Passes one map of the backbone to the classifier, unchanged.

    Attributes:
        levels: names of maps; only the last one named is read. Default: the backbone's last map.
    """

    levels: tuple[str, ...] = ()

    READS = 1  # the backbone's last map is read if `levels` names none

    def __call__(
        self, features: Maps, regions: Regions | None = None, train: bool = False
    ) -> tuple[Float[Array, "b h w c"], dict]:
        """The map of the last level. `regions` and `train` are not used."""
        return select(features, self.levels, self.READS)[-1], {}
