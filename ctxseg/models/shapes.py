"""jaxtyping annotations of the arrays that a function takes and returns: `Float[Array, "b h w c"]`. Tests check them, runs do not.

Letters in shapes: b images, H W height and width of an image, h w those of a map, c channels, k classes, n positions or regions. All
dimensions with the same letter have the same size in a call; `_` is any size.
"""

import jax
import numpy as np
from jaxtyping import Float, Int

Array = jax.Array | np.ndarray
Maps = dict[str, Float[Array, "b _ _ _"]]  # {name: map}, finest first
Regions = Int[Array, "b H W"]  # ids of super-pixels, -1 for no super-pixel
