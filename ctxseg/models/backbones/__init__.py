"""Backbones: image → {name of feature map: map}. SPEC §1."""

from functools import partial

from ctxseg.models.backbones.efficientnet_lite import EfficientNetLite0
from ctxseg.models.backbones.hrnet import HRNet
from ctxseg.models.backbones.none import NoBackbone
from ctxseg.models.backbones.resnest import ResNeSt
from ctxseg.models.backbones.resnet import BasicBlock, Bottleneck, ResNet
from ctxseg.models.backbones.tiny import Tiny
from ctxseg.models.backbones.vgg16 import VGG16
from ctxseg.models.backbones.vit import (
    DINOv2Base14,
    DINOv2Large14,
    DINOv2Small14,
    ViTBase16,
    ViTLarge16,
    ViTSmall16,
    ViTTiny16,
)

_HRNET = partial(HRNet, stem_width=64, modules=(1, 4, 3), blocks=4)

BACKBONES = {
    "none": NoBackbone,
    "tiny": Tiny,
    "efficientnet_lite0": EfficientNetLite0,
    "vgg16": VGG16,
    "resnet18": partial(ResNet, stage_sizes=(2, 2, 2, 2), block=BasicBlock),
    "resnet34": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=BasicBlock),
    "resnet50": partial(ResNet, stage_sizes=(3, 4, 6, 3), block=Bottleneck),
    "resnet101": partial(ResNet, stage_sizes=(3, 4, 23, 3), block=Bottleneck),
    "resnet152": partial(ResNet, stage_sizes=(3, 8, 36, 3), block=Bottleneck),
    "resnest50": partial(ResNeSt, stage_sizes=(3, 4, 6, 3), stem_width=32),
    "resnest101": partial(ResNeSt, stage_sizes=(3, 4, 23, 3), stem_width=64),
    "hrnetv2_w18": partial(_HRNET, width=18),
    "hrnetv2_w32": partial(_HRNET, width=32),
    "hrnetv2_w48": partial(_HRNET, width=48),
    "vit_tiny_16": ViTTiny16,
    "vit_small_16": ViTSmall16,
    "vit_base_16": ViTBase16,
    "vit_large_16": ViTLarge16,
    "dinov2_small_14": DINOv2Small14,
    "dinov2_base_14": DINOv2Base14,
    "dinov2_large_14": DINOv2Large14,
}
