"""No context: the fully convolutional network that the others are compared with (Long et al. 2015)."""

import flax.linen as nn


class NoContext(nn.Module):
    """Hands the classifier one map of the backbone as it is.

    Attributes:
        levels: names of the maps the network may read; the last, coarsest one is read.
    """

    levels: tuple[str, ...] = ("res5",)

    def __call__(self, features, regions=None, train: bool = False):
        """`features` {name: `[B,h,w,C]`} → the map of the last level. `regions` and `train` are not used."""
        return features[self.levels[-1]]
