"""Boxes and maps for the tests of RoI pooling."""

import numpy as np

SCALES = (1 / 4, 1 / 8, 1 / 16)
SHAPES = ((12, 15), (6, 8), (3, 4))  # of the maps of an image of 48×60
BOXES = np.array(
    [
        (6.0, 9.0, 41.5, 30.25),
        (0.0, 0.0, 60.0, 48.0),
        (-9.0, -13.0, 22.0, 17.0),  # across the border
        (37.0, 30.0, 75.0, 61.0),
        (-30.0, -20.0, 90.0, 70.0),
        (61.0, 10.0, 70.0, 20.0),  # outside, near
        (300.0, 200.0, 350.0, 260.0),  # outside, far
        (20.0, 12.0, 20.0, 12.0),  # no area
        (8.0, 16.0, 40.0, 16.0),
        (0.0, 0.0, 0.0, 0.0),  # padding
        (21.0, 13.0, 22.5, 14.0),  # less than a cell
        (8.0, 8.0, 36.0, 36.0),
    ]
)
IMAGES = np.arange(len(BOXES)) % 2
LEVELS = np.arange(len(BOXES)) % 3


def maps(channels=2, seed=0):
    """Normal float64 maps of `SHAPES`, of two images."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(2, *shape, channels)) for shape in SHAPES]


def box_by_box(pool, maps, boxes, images, levels):
    """The results of `pool`(number of the box, map, scale) of each box."""
    return np.stack([pool(r, maps[levels[r]][images[r]], SCALES[levels[r]]) for r in range(len(boxes))])
