"""Weights of mmsegmentation's ResNet-V1c (`open-mmlab://resnet50_v1c` …), alone or as the backbone of a segmenter.

At output strides 16 and 8, mmsegmentation's ResNet-18 dilates only the first convolution of a block; here, as in timm, the second one is
dilated too. Its segmenters on ResNet-18 are then another network, with the same weights.
"""

from ctxseg.models.weights.names import Publisher, prefixed
from ctxseg.models.weights.torchvision import IMAGENET_MEAN, IMAGENET_STD, STAGES

STEM = """
    stem.0                      backbone/stem1/conv
    stem.1                      backbone/stem1/norm
    stem.3                      backbone/stem2/conv
    stem.4                      backbone/stem2/norm
    stem.6                      backbone/stem3/conv
    stem.7                      backbone/stem3/norm"""
TABLE = STEM + STAGES
# The layers of a segmenter after its backbone.
HEADS = """
    neck.{*}                    -
    decode_head.{*}             -
    auxiliary_head.{*}          -
"""

RESNET_V1C = Publisher("mmsegmentation's ResNet-V1c", TABLE + "fc -", IMAGENET_MEAN, IMAGENET_STD)
SEGMENTER = Publisher(
    "a segmenter of mmsegmentation on ResNet-V1c",
    prefixed("backbone.", TABLE) + HEADS,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
