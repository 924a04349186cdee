"""Weights of mmsegmentation's ResNet-V1c (`open-mmlab://resnet50_v1c` …), alone or as the backbone of a segmenter."""

from ctxseg.models.weights.names import Publisher
from ctxseg.models.weights.torchvision import IMAGENET_MEAN, IMAGENET_STD

TABLE = """
    stem.0                      backbone/stem1/conv
    stem.1                      backbone/stem1/norm
    stem.3                      backbone/stem2/conv
    stem.4                      backbone/stem2/norm
    stem.6                      backbone/stem3/conv
    stem.7                      backbone/stem3/norm
    layer{i}.{j}.conv{c}        backbone/res{i+1}_{j+1}/conv{c}/conv
    layer{i}.{j}.bn{c}          backbone/res{i+1}_{j+1}/conv{c}/norm
    layer{i}.{j}.downsample.0   backbone/res{i+1}_{j+1}/shortcut/conv
    layer{i}.{j}.downsample.1   backbone/res{i+1}_{j+1}/shortcut/norm
"""
# Heads of a segmenter, and the classifier of ImageNet.
HEADS = """
    fc                          -
    decode_head.{*}             -
    auxiliary_head.{*}          -
"""

RESNET_V1C = Publisher("mmsegmentation's ResNet-V1c", TABLE + HEADS, IMAGENET_MEAN, IMAGENET_STD)
SEGMENTER = Publisher(
    "a segmenter of mmsegmentation on ResNet-V1c",
    "\n".join(f"backbone.{line.strip()}" for line in TABLE.strip().splitlines()) + HEADS,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
