"""Weights of HRNetV2: the authors' ImageNet weights, timm's `hrnet_w18` …, and mmsegmentation's.

All have the same names. ImageNet's networks have further layers after the branches, which segmentation does not use. They are trained with
`upsampling=nearest`; segmenters, and mmsegmentation's, with `bilinear`.
"""

from ctxseg.models.weights.mmsegmentation import HEADS
from ctxseg.models.weights.names import Publisher, prefixed
from ctxseg.models.weights.torchvision import IMAGENET_MEAN, IMAGENET_STD

TABLE = """
    conv{c}                                     backbone/stem{c}/conv
    bn{c}                                       backbone/stem{c}/norm
    layer1.{j}.conv{c}                          backbone/stage1_{j+1}/conv{c}/conv
    layer1.{j}.bn{c}                            backbone/stage1_{j+1}/conv{c}/norm
    layer1.{j}.downsample.0                     backbone/stage1_{j+1}/shortcut/conv
    layer1.{j}.downsample.1                     backbone/stage1_{j+1}/shortcut/norm
    transition1.0.0                             backbone/transition1_1/conv
    transition1.0.1                             backbone/transition1_1/norm
    transition{i}.{b}.0.0                       backbone/transition{i}_{b+1}/conv
    transition{i}.{b}.0.1                       backbone/transition{i}_{b+1}/norm
    stage{i}.{m}.branches.{b}.{j}.conv{c}       backbone/stage{i}_{m+1}/branch{b+1}_{j+1}/conv{c}/conv
    stage{i}.{m}.branches.{b}.{j}.bn{c}         backbone/stage{i}_{m+1}/branch{b+1}_{j+1}/conv{c}/norm
    stage{i}.{m}.fuse_layers.{a}.{b}.0          backbone/stage{i}_{m+1}/up{b+1}_{a+1}/conv
    stage{i}.{m}.fuse_layers.{a}.{b}.1          backbone/stage{i}_{m+1}/up{b+1}_{a+1}/norm
    stage{i}.{m}.fuse_layers.{a}.{b}.{k}.0      backbone/stage{i}_{m+1}/down{b+1}_{a+1}_{k+1}/conv
    stage{i}.{m}.fuse_layers.{a}.{b}.{k}.1      backbone/stage{i}_{m+1}/down{b+1}_{a+1}_{k+1}/norm
"""

IMAGENET = Publisher(
    "HRNet's authors or timm's HRNet",
    TABLE
    + """
    incre_modules.{*}       -
    downsamp_modules.{*}    -
    final_layer.{*}         -
    classifier              -
    """,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
SEGMENTER = Publisher(
    "a segmenter of mmsegmentation on HRNet",
    prefixed("backbone.", TABLE) + HEADS,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
