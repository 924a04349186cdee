"""Annotations of jaxtyping that say which arrays a function takes and gives: `Float[Array, "b h w c"]`. Tests check them, runs do not.

Letters of shapes: b images, H W height and width of an image, h w those of a map, c channels, k classes, n positions or regions. A letter
is one number in a call; `_` is any.
"""

import jax
import numpy as np
from jaxtyping import Float, Int

Array = jax.Array | np.ndarray
Maps = dict[str, Float[Array, "b _ _ _"]]  # {name: map}, finest first
Regions = Int[Array, "b H W"]  # ids of super-pixels, -1 where there is none
