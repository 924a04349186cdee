"""Weights of timm's ResNet-V1c (`resnet50c` …), whose stem is three 3×3 convolutions. Its other ResNets have torchvision's names."""

from ctxseg.models.weights.names import Publisher
from ctxseg.models.weights.torchvision import IMAGENET_MEAN, IMAGENET_STD

RESNET_V1C = Publisher(
    "timm's ResNet-V1c",
    """
    conv1.0                     backbone/stem1/conv
    conv1.1                     backbone/stem1/norm
    conv1.3                     backbone/stem2/conv
    conv1.4                     backbone/stem2/norm
    conv1.6                     backbone/stem3/conv
    bn1                         backbone/stem3/norm
    layer{i}.{j}.conv{c}        backbone/res{i+1}_{j+1}/conv{c}/conv
    layer{i}.{j}.bn{c}          backbone/res{i+1}_{j+1}/conv{c}/norm
    layer{i}.{j}.downsample.0   backbone/res{i+1}_{j+1}/shortcut/conv
    layer{i}.{j}.downsample.1   backbone/res{i+1}_{j+1}/shortcut/norm
    fc                          -
    """,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
