"""Calibration: whether a segmenter is right as often as its probabilities say. Guo et al., ICML 2017, section 2.

The confidence of a pixel is its largest probability. Pixels are sorted into B equal bins of confidence, bin i with those in
(i/B, (i+1)/B]. Over n pixels, the expected calibration error (eq. 3) is

    ECE = Σ_i n_i / n · |accuracy of bin i − mean confidence of bin i|
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int32, Integer

from ctxseg.models.shapes import Array

BINS = 15


def _edges():
    """The ends of all bins but the last, rounded down to float32: a float32 number exceeds such an end if it exceeds the exact one."""
    exact = np.arange(1, BINS) / BINS
    rounded = exact.astype(np.float32)
    return np.where(rounded > exact, np.nextafter(rounded, np.float32(0)), rounded)


def count(
    labels: Integer[Array, "b H W"], probabilities: Float32[Array, "b H W k"]
) -> tuple[Int32[Array, "b 2 bins"], Float32[Array, "b H bins"]]:
    """The pixels of each image in each bin and those of them that are correct, and the sum of the confidences of each row of pixels.

    A float32 sum over millions of pixels would lose digits. So confidences are summed as multiples of a power of 2, the smallest for which
    the sum of a row is an int32: an error of at most 2e-6 for rows of up to 4095 pixels. Sum the rows on the host.

    Args:
        labels: ids; pixels with an id outside [0, k), such as 255, are not counted.
        probabilities: of K classes.
    """
    b, height, width = labels.shape
    confidence = probabilities.max(-1)
    right = probabilities.argmax(-1) == labels
    counted = (labels >= 0) & (labels < probabilities.shape[-1])
    # Pixels that are not counted are in a further bin.
    bins = jnp.where(counted, (confidence[..., None] > _edges()).sum(-1), BINS)
    image, row = jnp.arange(b)[:, None, None], jnp.arange(b * height).reshape(b, height, 1)
    cells = 2 * ((BINS + 1) * image + bins) + right
    split = jnp.bincount(cells.ravel(), length=2 * (BINS + 1) * b).reshape(b, BINS + 1, 2)[:, :BINS]
    steps = 2 ** (30 - width.bit_length())
    multiples = jnp.round(confidence * steps).astype(jnp.int32)
    sums = jnp.bincount(((BINS + 1) * row + bins).ravel(), multiples.ravel(), length=(BINS + 1) * b * height)
    confidences = sums.reshape(b, height, BINS + 1)[..., :BINS] / jnp.float32(steps)
    return jnp.stack([split.sum(-1), split[..., 1]], axis=1), confidences


def summary(counts: Float[np.ndarray, "3 bins"]) -> dict:
    """`ECE`, None without a pixel, and `reliability`: {`pixels`, `confidence`, `accuracy`: a number for each bin}, as in results.json.

    Args:
        counts: the pixels of each bin, those that are correct, and the sum of the confidences.

    Returns:
        The last two are means over the pixels of a bin in [0, 1], None for an empty bin.
    """
    pixels, correct, total = counts
    means = {}
    for name, sums in (("confidence", total), ("accuracy", correct)):
        means[name] = [min(float(x / n), 1.0) if n else None for x, n in zip(sums, pixels, strict=True)]
    gaps = np.abs(correct - total)  # of the bins, times their pixels
    return {
        "ECE": float(gaps.sum() / pixels.sum()) if pixels.any() else None,
        "reliability": {"pixels": [int(n) for n in pixels]} | means,
    }
