"""Where a segmenter is right: pixels by their distance to the nearest boundary of the truth, and by the size of their region."""

import math

import numpy as np
from jaxtyping import Int64, UInt8
from skimage import measure

from ctxseg.data.builders.labels import IGNORE

# The last pixel distance of each bin; a further bin has all pixels beyond.
DISTANCES = (1, 2, 4, 8, 16, 32)
# The largest share of the image's area of each bin; a further bin has all larger regions.
SIZES = (0.001, 0.01, 0.1)


def by_distance(label: UInt8[np.ndarray, "H W"], prediction: UInt8[np.ndarray, "H W"]) -> Int64[np.ndarray, "2 d"]:
    """The pixels of an image, and those of them that are correct, by their distance to the nearest pixel of another class in the truth.

    The distance is Euclidean, in pixels, between the centres of pixels. The last bin also has the pixels of an image of one class. Ignored
    pixels are not counted, and are no boundary.

    Args:
        label: class ids; `IGNORE` for ignored pixels.
        prediction: class ids.
    """
    ignored, right = label == IGNORE, prediction == label
    # The largest of either value nearby exceeds the pixel's own if a higher or a lower class is there. Ignored pixels have the lowest.
    values = np.stack([label + np.uint8(1), np.uint8(IGNORE) - label])
    values[:, ignored] = 0
    place = np.zeros(label.shape, np.uint8)
    for limit in DISTANCES:
        alone = _largest_nearby(values, limit) == values
        place += alone[0] & alone[1]
    bins = len(DISTANCES) + 1
    return np.stack([np.bincount(place[mask], minlength=bins) for mask in (~ignored, ~ignored & right)])


def _largest_nearby(values, radius):
    """The maximum of `values`, uint8 `[n,H,W]`, over the disc of a radius in pixels around each pixel.

    A disc is a stack of horizontal segments, the longest in the middle. From its top and bottom to its middle, the maximum over a segment
    follows from that over the shorter one before.
    """
    height, width = values.shape[1:]
    padded = np.pad(values, ((0, 0), (radius, radius), (radius, radius)))
    segments, result = padded[:, :, radius : radius + width].copy(), values.copy()
    half = 0
    for dy in range(radius, -1, -1):
        while half < math.isqrt(radius**2 - dy**2):
            half += 1
            for left in (radius - half, radius + half):
                np.maximum(segments, padded[:, :, left : left + width], out=segments)
        for top in (radius - dy, radius + dy):
            np.maximum(result, segments[:, top : top + height], out=result)
    return result


def by_size(
    label: UInt8[np.ndarray, "H W"], prediction: UInt8[np.ndarray, "H W"], num_classes: int
) -> Int64[np.ndarray, "3 {num_classes} s"]:
    """The connected regions of each class in the truth of an image, their pixels, and those of them that are correct, by size.

    A pixel is connected with its 8 neighbours. The size is the share of the image's area, which includes ignored pixels.

    Args:
        label: class ids; `IGNORE` for ignored pixels.
        prediction: class ids.
        num_classes: K.
    """
    ids = measure.label(label, background=IGNORE, connectivity=2)  # 0: ignored
    areas = np.bincount(ids.ravel())
    right = np.bincount(ids[prediction == label], minlength=len(areas))
    classes = np.zeros(len(areas), np.int64)
    classes[ids] = label
    counts = np.zeros((3, num_classes, len(SIZES) + 1), np.int64)
    place = classes[1:], np.searchsorted(SIZES, areas[1:] / label.size)
    for table, values in zip(counts, (np.ones_like(areas[1:]), areas[1:], right[1:]), strict=True):
        np.add.at(table, place, values)
    return counts


def summary(
    distance: Int64[np.ndarray, "2 d"], size: Int64[np.ndarray, "3 k s"], class_names: list[str]
) -> dict[str, dict]:
    """`by_distance` and `by_size` of results.json, from the sums of `by_distance` and `by_size` over images.

    The first is {`limits`: `DISTANCES`, `pixels`, `correct`: a number for each limit, and one beyond}. The second is {`limits`: `SIZES`,
    `regions`, `pixels`, `correct`: {class: such numbers}}.
    """
    tables = (dict(zip(class_names, table.tolist(), strict=True)) for table in size)
    return {
        "by_distance": {"limits": [*DISTANCES]} | dict(zip(("pixels", "correct"), distance.tolist(), strict=True)),
        "by_size": {"limits": [*SIZES]} | dict(zip(("regions", "pixels", "correct"), tables, strict=True)),
    }
