"""Weights of timm's ResNet-V1c (`resnet50c` …), whose stem is three 3×3 convolutions. Its other ResNets have torchvision's names."""

from ctxseg.models.weights.names import Publisher
from ctxseg.models.weights.torchvision import IMAGENET_MEAN, IMAGENET_STD, STAGES

STEM = """
    conv1.0                     backbone/stem1/conv
    conv1.1                     backbone/stem1/norm
    conv1.3                     backbone/stem2/conv
    conv1.4                     backbone/stem2/norm
    conv1.6                     backbone/stem3/conv
    bn1                         backbone/stem3/norm"""

RESNET_V1C = Publisher("timm's ResNet-V1c", STEM + STAGES + "fc -", IMAGENET_MEAN, IMAGENET_STD)
