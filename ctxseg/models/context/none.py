"""No context: the fully convolutional network that the others are compared with (Long et al. 2015)."""

import flax.linen as nn

from ctxseg.models.context.levels import select


class NoContext(nn.Module):
    """Hands the classifier one map of the backbone as it is.

    Attributes:
        levels: names of maps, the last of which is read; () for the backbone's last.
    """

    levels: tuple[str, ...] = ()

    READS = 1  # the backbone's last map, where `levels` names none

    def __call__(self, features, regions=None, train: bool = False):
        """`features` {name: `[B,h,w,C]`} → the map of the last level, {}. `regions` and `train` are not used."""
        return select(features, self.levels, self.READS)[-1], {}
