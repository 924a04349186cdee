"""Cases of deformable convolution and position-sensitive pooling, and what torchvision computes for them.

`benchmarks/published_deformable.py` records them in `published_deformable.npz`, float32, computed in float64. The file has torchvision's
layouts, see `to_torchvision`. The functions here return ours. The inputs are not in the file. They are drawn by
`published.uniform`, which gives the same values with every release of NumPy.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.references.published import uniform

RECORDED = Path(__file__).with_name("published_deformable.npz")


@dataclass(frozen=True)
class Convolution:
    """A case of `torchvision.ops.deform_conv2d`, without bias and mask; a batch of 2 images.

    Attributes:
        size: height and width of the map.
        groups: groups of offsets.
        channels: of the input; the output has 3.
        kernel: height and width of the kernel.
        stride: of both axes.
        dilation: of both axes. The padding is dilation·⌊kernel/2⌋.
        reach: largest magnitude of an offset.
        whole: whether offsets are integers. At an integer position, torchvision's gradient of an offset is the right derivative.
    """

    size: tuple[int, int]
    groups: int = 1
    channels: int = 4
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    dilation: int = 1
    reach: float = 1.5
    whole: bool = False

    @property
    def output_size(self):
        """Height and width of the output."""
        return tuple(
            (n + 2 * self.dilation * (k // 2) - self.dilation * (k - 1) - 1) // self.stride + 1
            for n, k in zip(self.size, self.kernel, strict=True)
        )


CONVOLUTIONS = {
    "one_group": Convolution((6, 7)),
    "two_groups_stride_2": Convolution((7, 9), groups=2, stride=2),
    "four_groups_dilation_2": Convolution((5, 5), groups=4, dilation=2),
    "stride_2_dilation_2_even": Convolution((6, 8), groups=2, channels=6, stride=2, dilation=2),
    "off_the_map": Convolution((5, 6), groups=2, reach=20.0),
    "zero_offsets": Convolution((5, 4), reach=0.0),
    "whole_offsets": Convolution((5, 4), reach=6.0, whole=True),
    "kernel_3x5": Convolution((4, 5), channels=2, kernel=(3, 5)),
    "kernel_1x1": Convolution((4, 5), channels=2, kernel=(1, 1)),
    "one_pixel": Convolution((1, 1), groups=2),
}

# Position-sensitive pooling: two images of 44×52 pixels, maps of 11×13 cells, 3×3 bins and groups, 2 channels.
SCALE, BINS, CHANNELS, MAP = 0.25, 3, 2, (11, 13)
# (left, top, right, bottom), alternately on the first and the second image.
BOXES = {
    "inside": (6.0, 9.0, 41.5, 30.25),
    "whole image": (0.0, 0.0, 52.0, 44.0),
    "across the left and upper border": (-9.0, -13.0, 22.0, 17.0),
    "across the right and lower border": (37.0, 30.0, 75.0, 61.0),
    "around the image": (-30.0, -20.0, 90.0, 70.0),
    "outside, near": (53.0, 10.0, 70.0, 20.0),
    "outside, far": (300.0, 200.0, 350.0, 260.0),
    "outside, left": (-40.0, 8.0, -20.0, 20.0),
    "one pixel": (17.0, 22.0, 18.0, 23.0),
    "one cell": (16.0, 20.0, 20.0, 24.0),
    "a point": (20.0, 12.0, 20.0, 12.0),
    "no height": (8.0, 16.0, 40.0, 16.0),
    "right left of left": (30.0, 20.0, 18.0, 28.0),
    "last cell": (48.0, 40.0, 52.0, 44.0),
    "halves": (10.0, 14.0, 38.0, 34.0),
    "negative halves": (-10.0, -14.0, 22.0, 30.0),
}


def draw(name, shape):
    """Values in [-1, 1), float32, a function of the name and the shape."""
    return uniform(f"{name} {list(shape)}", math.prod(shape)).reshape(shape)


def convolution(name):
    """{x [2,h,w,C], offsets [2,h',w',G,k,l,2], kernel [k,l,C,3], cotangent [2,h',w',3]} of a case, float32."""
    case = CONVOLUTIONS[name]
    offsets = draw("offsets", (2, *case.output_size, case.groups, *case.kernel, 2)) * np.float32(case.reach)
    return {
        "x": draw("x", (2, *case.size, case.channels)),
        "offsets": np.round(offsets) if case.whole else offsets,
        "kernel": draw("kernel", (*case.kernel, case.channels, 3)),
        "cotangent": draw("cotangent", (2, *case.output_size, 3)),
    }


def pooling():
    """{maps [2,11,13,18], boxes [r,4], images [r], cotangent [r,3,3,2]}: the channels of the maps are [3, 3, 2], float32 and int32."""
    return {
        "maps": draw("maps", (2, *MAP, BINS * BINS * CHANNELS)),
        "boxes": np.array(list(BOXES.values()), np.float32),
        "images": np.arange(len(BOXES), dtype=np.int32) % 2,
        "cotangent": draw("cotangent", (len(BOXES), BINS, BINS, CHANNELS)),
    }


def to_torchvision(kind, array):
    """An array in torchvision's layout; `from_torchvision` is the inverse.

    kind       ours                  torchvision's
    'map'      [b,h,w,c]             [b,c,h,w]
    'offsets'  [b,h',w',G,k,l,2]     [b,G·k·l·2,h',w'], the last axis (dy, dx)
    'kernel'   [k,l,C,O]             [O,C,k,l]
    'grouped'  [b,h,w,g·g·c]         [b,c·g·g,h,w]; g is 3
    """
    if kind == "map":
        return array.transpose(0, 3, 1, 2)
    if kind == "offsets":
        b, h, w = array.shape[:3]
        return array.transpose(0, 3, 4, 5, 6, 1, 2).reshape(b, -1, h, w)
    if kind == "kernel":
        return array.transpose(3, 2, 0, 1)
    assert kind == "grouped", kind
    b, h, w = array.shape[:3]
    return array.reshape(b, h, w, BINS, BINS, -1).transpose(0, 5, 3, 4, 1, 2).reshape(b, -1, h, w)


def from_torchvision(kind, array, shape=None):
    """An array in our layout, see `to_torchvision`. `shape` is that of the result, for 'offsets' alone."""
    if kind == "map":
        return array.transpose(0, 2, 3, 1)
    if kind == "offsets":
        b, h, w, *rest = shape
        return array.reshape(b, *rest, h, w).transpose(0, 5, 6, 1, 2, 3, 4)
    if kind == "kernel":
        return array.transpose(2, 3, 1, 0)
    assert kind == "grouped", kind
    b, _, h, w = array.shape
    return array.reshape(b, -1, BINS, BINS, h, w).transpose(0, 4, 5, 2, 3, 1).reshape(b, h, w, -1)


def recorded_convolution(name):
    """{output [2,h',w',3], and the gradients x, offsets and kernel in the shapes of the inputs} of a case, float32."""
    with np.load(RECORDED) as file:
        recorded = {key: file[f"{name}/{key}"] for key in ("output", "x", "offsets", "kernel")}
    return {
        "output": from_torchvision("map", recorded["output"]),
        "x": from_torchvision("map", recorded["x"]),
        "offsets": from_torchvision("offsets", recorded["offsets"], convolution(name)["offsets"].shape),
        "kernel": from_torchvision("kernel", recorded["kernel"]),
    }


def recorded_pooling():
    """{output, output_of_larger_maps, maps} of `torchvision.ops.ps_roi_pool`, float32.

    output: [r,3,3,2]. For it, torchvision never reads the last row and column of the maps.
    output_of_larger_maps: [r,3,3,2], of the maps with one more row and column. So all cells of the maps are read, and no others.
    maps: [2,11,13,18], the gradient. It includes the last row and column, so it is the gradient of `output_of_larger_maps`.
    """
    with np.load(RECORDED) as file:
        recorded = {key: file[f"ps_roi_pool/{key}"] for key in ("output", "output_of_larger_maps", "maps")}
    return {key: from_torchvision("grouped" if key == "maps" else "map", value) for key, value in recorded.items()}
