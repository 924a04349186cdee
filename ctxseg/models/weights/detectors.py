"""Weights of torchvision's `maskrcnn_resnet50_fpn`.

Its network is ours with the context `fpn` and these fields of `config.model.detector`: anchor_rounding=True, anchor_strides=measured,
proposals_after=(2000, 1000), roi_aligned=False, padding=seen, and `config.loss.box_beta` of 1/9.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from ctxseg.models.layers import EPSILON
from ctxseg.models.weights.names import Publisher, prefixed
from ctxseg.models.weights.tensor import Tensor
from ctxseg.models.weights.torchvision import BODY, IMAGENET_MEAN, IMAGENET_STD

COMMON = (
    prefixed("backbone.body.", BODY)
    + """
    rpn.head.cls_logits                         rpn/scores
    rpn.head.bbox_pred                          rpn/deltas
    roi_heads.box_head.fc6                      box_head/hidden1/conv
    roi_heads.box_head.fc7                      box_head/hidden2/conv
    roi_heads.box_predictor.cls_score           box_head/scores
    roi_heads.box_predictor.bbox_pred           box_head/deltas
    roi_heads.mask_predictor.conv5_mask         mask_head/upsample
    roi_heads.mask_predictor.mask_fcn_logits    mask_head/scores
"""
)
TABLE = (
    COMMON
    + """
    backbone.fpn.inner_blocks.{i}.0             neck/project{i+1}/conv
    backbone.fpn.layer_blocks.{i}.0             neck/smooth{i+1}/conv
    rpn.head.conv.0.0                           rpn/conv/conv
    roi_heads.mask_head.{i}.0                   mask_head/conv{i+1}/conv
"""
)
# The names of the published file, from before torchvision 0.13.
FIRST_TABLE = (
    COMMON
    + """
    backbone.fpn.inner_blocks.{i}               neck/project{i+1}/conv
    backbone.fpn.layer_blocks.{i}               neck/smooth{i+1}/conv
    rpn.head.conv                               rpn/conv/conv
    roi_heads.mask_head.mask_fcn{i}             mask_head/conv{i}/conv
"""
)
# Classes of COCO by category id, from 1; `N/A` are ids without a category.
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant", "N/A",
    "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "N/A",
    "backpack", "umbrella", "N/A", "N/A", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "N/A", "wine glass", "cup", "fork", "knife",
    "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "N/A", "dining table", "N/A", "N/A", "toilet", "N/A", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "N/A", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip


def in_our_layout(tensors: Mapping[str, Tensor], epsilon: float = EPSILON) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of `TABLE` in the layout of our layers, and the names of the classes: COCO's if there are 91 with the background.

    Args:
        tensors: by our names, as `names.from_torch` leaves them.
        epsilon: that of their batch normalisation. Another one than ours is balanced by the variances.
    """
    result = {}
    for name, tensor in tensors.items():
        change = next((change for end, change in LAYOUTS.items() if name.endswith(end)), None)
        if name.endswith("norm/var") and epsilon != EPSILON:
            change = partial(np.add, np.float32(epsilon - EPSILON))
        result[name] = tensor if change is None else _changed(tensor, change)
    scores = result.get("params/box_head/scores/bias")
    return result, COCO if scores is not None and scores.shape == (len(COCO) + 1,) else ()


def _boxes(x, bins=7):
    """[C·h·w,O] → [1,1,h·w·C,O]."""
    inputs, o = x.shape
    return x.reshape(-1, bins, bins, o).transpose(1, 2, 0, 3).reshape(1, 1, inputs, o)


# Our names, and how their arrays become ours. Their classes of the deltas and the masks have a background, which is not trained.
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "box_head/hidden1/conv/kernel": _boxes,
    "box_head/hidden2/conv/kernel": lambda x: x[None, None],
    "box_head/deltas/kernel": lambda x: x.reshape(x.shape[0], -1, 4)[:, 1:],
    "box_head/deltas/bias": lambda x: x.reshape(-1, 4)[1:],
    "mask_head/upsample/kernel": lambda x: x.swapaxes(2, 3),
    "mask_head/scores/kernel": lambda x: x[..., 1:],
    "mask_head/scores/bias": lambda x: x[1:],
}


def _changed(tensor, change):
    try:  # the shape of the result, from an array that takes no memory
        shape = change(np.broadcast_to(np.zeros((), np.float32), tensor.shape)).shape
    except (ValueError, IndexError):  # of another network; `fit` names the shape
        return tensor
    return Tensor(shape, tensor.dtype, lambda scratch: change(tensor.read(scratch)))


MASK_RCNN = Publisher("torchvision's Mask R-CNN", TABLE, IMAGENET_MEAN, IMAGENET_STD, finish=in_our_layout)
# In torchvision, the normalisation of the published file has ε = 0.
MASK_RCNN_FIRST = Publisher(
    "torchvision's Mask R-CNN, the published file",
    FIRST_TABLE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    finish=partial(in_our_layout, epsilon=0.0),
)
