"""Weights of the published MCIBI runs on ResNet, ResNeSt and HRNet (Jin et al., ICCV 2021; the project sssegmentation).

Whole networks: ResNet-V1c at output stride 8, ASPP as the context within the image, the memory with its entries, both classifiers and the
auxiliary head on res4. The same network here is

    model.backbone.name=resnet50 (or resnet101), stem=conv3_32, output_stride=8
    model.context.name=aspp, channels=512, dilations=12,24,36, fuse_kernel=3
    model.memory.name=mcibi, channels=512, fusion=concat
    model.classifier.hidden=512
    model.auxiliary.levels=res4, channels=512

or with model.backbone.name=resnest101, output_stride=8; or with hrnetv2_w48, upsampling=bilinear, and without the auxiliary head.

A network without the context, or without the auxiliary head, takes the rest. What differs:

- The classes, and the memory's entries, have no names in a file. Their order is ours for ADE20K, LIP and Cityscapes. The runs on COCO-Stuff
  have 182 outputs, one for each id; ours have the 171 that are used, and do not take the arrays that have an axis of classes.
- An entry of zeros is a class that no batch has had; here that is the array `seen`.
- LIP's heads have leaky ReLU (slope 0.01) in place of ReLU, which no network here has.
- The statistics of PyTorch's batch normalisation are of the unbiased variance. This matters in training only.
- In the run on Cityscapes with HRNet, no ReLU follows the first convolution, which no network here has.

The runs on LIP and Cityscapes with HRNet have model.downsample=True. Runs with several entries of each class have other names. Those on
ViT are in `vit.py`.
"""

from ctxseg.models.weights import hrnet, mmsegmentation, resnest
from ctxseg.models.weights.names import Publisher, prefixed
from ctxseg.models.weights.torchvision import IMAGENET_MEAN, IMAGENET_STD

# Attention is `CrossAttention` (g_q, g_k: two convolutions each; g_v; g_o) of pixels to the memory's entries, and with `_ms` to the context
# within the image.
HEADS = """
    context_within_image_module.parallel_branches.0.0   context/point/conv
    context_within_image_module.parallel_branches.0.1   context/point/norm
    context_within_image_module.parallel_branches.1.0   context/dilation12/conv
    context_within_image_module.parallel_branches.1.1   context/dilation12/norm
    context_within_image_module.parallel_branches.2.0   context/dilation24/conv
    context_within_image_module.parallel_branches.2.1   context/dilation24/norm
    context_within_image_module.parallel_branches.3.0   context/dilation36/conv
    context_within_image_module.parallel_branches.3.1   context/dilation36/norm
    context_within_image_module.global_branch.1         context/mean/conv
    context_within_image_module.global_branch.2         context/mean/norm
    context_within_image_module.bottleneck.0            context/fuse/conv
    context_within_image_module.bottleneck.1            context/fuse/norm
    bottleneck.0                                        memory/bottleneck/conv
    bottleneck.1                                        memory/bottleneck/norm
    decoder_stage1.0                                    memory/distribution/hidden/conv
    decoder_stage1.1                                    memory/distribution/hidden/norm
    decoder_stage1.4                                    memory/distribution/scores
    memory_module.self_attention.query_project.0.0      memory/beyond/query1/conv
    memory_module.self_attention.query_project.0.1      memory/beyond/query1/norm
    memory_module.self_attention.query_project.1.0      memory/beyond/query2/conv
    memory_module.self_attention.query_project.1.1      memory/beyond/query2/norm
    memory_module.self_attention.key_project.0.0        memory/beyond/key1/conv
    memory_module.self_attention.key_project.0.1        memory/beyond/key1/norm
    memory_module.self_attention.key_project.1.0        memory/beyond/key2/conv
    memory_module.self_attention.key_project.1.1        memory/beyond/key2/norm
    memory_module.self_attention.value_project.0        memory/beyond/value/conv
    memory_module.self_attention.value_project.1        memory/beyond/value/norm
    memory_module.self_attention.out_project.0          memory/beyond/out/conv
    memory_module.self_attention.out_project.1          memory/beyond/out/norm
    memory_module.bottleneck.0                          memory/fuse_beyond/conv
    memory_module.bottleneck.1                          memory/fuse_beyond/norm
    memory_module.self_attention_ms.query_project.0.0   memory/within/query1/conv
    memory_module.self_attention_ms.query_project.0.1   memory/within/query1/norm
    memory_module.self_attention_ms.query_project.1.0   memory/within/query2/conv
    memory_module.self_attention_ms.query_project.1.1   memory/within/query2/norm
    memory_module.self_attention_ms.key_project.0.0     memory/within/key1/conv
    memory_module.self_attention_ms.key_project.0.1     memory/within/key1/norm
    memory_module.self_attention_ms.key_project.1.0     memory/within/key2/conv
    memory_module.self_attention_ms.key_project.1.1     memory/within/key2/norm
    memory_module.self_attention_ms.value_project.0     memory/within/value/conv
    memory_module.self_attention_ms.value_project.1     memory/within/value/norm
    memory_module.self_attention_ms.out_project.0       memory/within/out/conv
    memory_module.self_attention_ms.out_project.1       memory/within/out/norm
    memory_module.bottleneck_ms.0                       memory/fuse_within/conv
    memory_module.bottleneck_ms.1                       memory/fuse_within/norm
    decoder_stage2.0                                    classifier/hidden/conv
    decoder_stage2.1                                    classifier/hidden/norm
    decoder_stage2.4                                    classifier/scores
    auxiliary_decoder.0                                 auxiliary/res4_conv/conv
    auxiliary_decoder.1                                 auxiliary/res4_conv/norm
    auxiliary_decoder.4                                 auxiliary/res4/scores
"""


def _run(backbone, table, others=""):
    return Publisher(
        f"a published MCIBI run on {backbone}",
        prefixed("backbone_net.", table) + HEADS + others,
        IMAGENET_MEAN,
        IMAGENET_STD,
        bank="memory_module.memory",
    )


MCIBI = _run("ResNet", mmsegmentation.TABLE)
RESNEST = _run("ResNeSt", resnest.TABLE)
HALVING = """
    downsample_backbone.0                               halving/conv/conv
    downsample_backbone.1                               halving/conv/norm
"""
HRNET = _run("HRNet", hrnet.TABLE, HALVING)
