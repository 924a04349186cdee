"""No backbone: the context module reads pixels, as N-ReNet does."""

import flax.linen as nn


class NoBackbone(nn.Module):
    """Gives no map of its own; the segmenter's `pixels` is then the only one."""

    def __call__(self, x, train: bool = False) -> dict:
        """`x` and `train` are not used."""
        return {}
