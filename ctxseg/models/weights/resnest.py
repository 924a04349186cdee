"""Weights of ResNeSt: the authors' `resnest50`, `resnest101`, timm's `resnest50d`, `resnest101e`, and mmsegmentation's.

All have the same names but for the stem.
"""

from ctxseg.models.weights import mmsegmentation, timm
from ctxseg.models.weights.names import Publisher, prefixed
from ctxseg.models.weights.torchvision import IMAGENET_MEAN, IMAGENET_STD

STAGES = """
    layer{i}.{j}.conv2.conv     backbone/res{i+1}_{j+1}/conv2/conv
    layer{i}.{j}.conv2.bn0      backbone/res{i+1}_{j+1}/conv2/norm
    layer{i}.{j}.conv2.fc1      backbone/res{i+1}_{j+1}/attention/hidden
    layer{i}.{j}.conv2.bn1      backbone/res{i+1}_{j+1}/attention/norm
    layer{i}.{j}.conv2.fc2      backbone/res{i+1}_{j+1}/attention/scores
    layer{i}.{j}.conv{c}        backbone/res{i+1}_{j+1}/conv{c}/conv
    layer{i}.{j}.bn{c}          backbone/res{i+1}_{j+1}/conv{c}/norm
    layer{i}.{j}.downsample.1   backbone/res{i+1}_{j+1}/shortcut/conv
    layer{i}.{j}.downsample.2   backbone/res{i+1}_{j+1}/shortcut/norm
"""
TABLE = mmsegmentation.STEM + STAGES

RESNEST = Publisher("ResNeSt's authors or timm's ResNeSt", timm.STEM + STAGES + "fc -", IMAGENET_MEAN, IMAGENET_STD)
MMSEGMENTATION = Publisher("mmsegmentation's ResNeSt", TABLE + "fc -", IMAGENET_MEAN, IMAGENET_STD)
SEGMENTER = Publisher(
    "a segmenter of mmsegmentation on ResNeSt",
    prefixed("backbone.", TABLE) + mmsegmentation.HEADS,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
