"""Weights of torchvision 0.29: ResNet, VGG-16, and DeepLabV3 and FCN on ResNet. timm's ResNets with a 7×7 stem have the same names."""

from ctxseg.models.weights.names import Publisher, prefixed

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

# The stages of a ResNet, whose names all publishers share, and torchvision's stem.
STAGES = """
    layer{i}.{j}.conv{c}        backbone/res{i+1}_{j+1}/conv{c}/conv
    layer{i}.{j}.bn{c}          backbone/res{i+1}_{j+1}/conv{c}/norm
    layer{i}.{j}.downsample.0   backbone/res{i+1}_{j+1}/shortcut/conv
    layer{i}.{j}.downsample.1   backbone/res{i+1}_{j+1}/shortcut/norm
"""
BODY = (
    """
    conv1                       backbone/stem/conv
    bn1                         backbone/stem/norm"""
    + STAGES
)

RESNET = Publisher("torchvision's ResNet", BODY + "fc -", IMAGENET_MEAN, IMAGENET_STD)

# The convolutions are numbered with the activations and poolings between them.
VGG16 = Publisher(
    "torchvision's VGG-16",
    """
    features.0      backbone/conv1_1/conv
    features.2      backbone/conv1_2/conv
    features.5      backbone/conv2_1/conv
    features.7      backbone/conv2_2/conv
    features.10     backbone/conv3_1/conv
    features.12     backbone/conv3_2/conv
    features.14     backbone/conv3_3/conv
    features.17     backbone/conv4_1/conv
    features.19     backbone/conv4_2/conv
    features.21     backbone/conv4_3/conv
    features.24     backbone/conv5_1/conv
    features.26     backbone/conv5_2/conv
    features.28     backbone/conv5_3/conv
    classifier.{i}  -
    """,
    IMAGENET_MEAN,
    IMAGENET_STD,
    lacks=("backbone/conv6", "backbone/conv7"),  # its fully connected layers have other sizes: 7×7 and 4096
)

VGG16_BN = Publisher(
    "torchvision's VGG-16 with batch normalisation",
    """
    features.0      backbone/conv1_1/conv
    features.1      backbone/conv1_1/norm
    features.3      backbone/conv1_2/conv
    features.4      backbone/conv1_2/norm
    features.7      backbone/conv2_1/conv
    features.8      backbone/conv2_1/norm
    features.10     backbone/conv2_2/conv
    features.11     backbone/conv2_2/norm
    features.14     backbone/conv3_1/conv
    features.15     backbone/conv3_1/norm
    features.17     backbone/conv3_2/conv
    features.18     backbone/conv3_2/norm
    features.20     backbone/conv3_3/conv
    features.21     backbone/conv3_3/norm
    features.24     backbone/conv4_1/conv
    features.25     backbone/conv4_1/norm
    features.27     backbone/conv4_2/conv
    features.28     backbone/conv4_2/norm
    features.30     backbone/conv4_3/conv
    features.31     backbone/conv4_3/norm
    features.34     backbone/conv5_1/conv
    features.35     backbone/conv5_1/norm
    features.37     backbone/conv5_2/conv
    features.38     backbone/conv5_2/norm
    features.40     backbone/conv5_3/conv
    features.41     backbone/conv5_3/norm
    classifier.{i}  -
    """,
    IMAGENET_MEAN,
    IMAGENET_STD,
    lacks=("backbone/conv6", "backbone/conv7"),  # its fully connected layers have other sizes: 7×7 and 4096
)

DILATED_RESNET = (
    prefixed("backbone.", BODY)
    + """
    aux_classifier.0                    auxiliary/res4_conv/conv
    aux_classifier.1                    auxiliary/res4_conv/norm
    aux_classifier.4                    auxiliary/res4/scores
"""
)

# Its context is `aspp` of 256 channels with a 1×1 `fuse_kernel`; its classifier has a `hidden` 3×3 convolution of 256 channels.
DEEPLABV3 = Publisher(
    "torchvision's DeepLabV3",
    DILATED_RESNET
    + """
    classifier.0.convs.0.0              context/point/conv
    classifier.0.convs.0.1              context/point/norm
    classifier.0.convs.1.0              context/dilation12/conv
    classifier.0.convs.1.1              context/dilation12/norm
    classifier.0.convs.2.0              context/dilation24/conv
    classifier.0.convs.2.1              context/dilation24/norm
    classifier.0.convs.3.0              context/dilation36/conv
    classifier.0.convs.3.1              context/dilation36/norm
    classifier.0.convs.4.1              context/mean/conv
    classifier.0.convs.4.2              context/mean/norm
    classifier.0.project.0              context/fuse/conv
    classifier.0.project.1              context/fuse/norm
    classifier.1                        classifier/hidden/conv
    classifier.2                        classifier/hidden/norm
    classifier.4                        classifier/scores
    """,
    IMAGENET_MEAN,
    IMAGENET_STD,
)

# Its context is `fcn` with one convolution of 512 channels.
FCN = Publisher(
    "torchvision's FCN",
    DILATED_RESNET
    + """
    classifier.0                        context/conv1/conv
    classifier.1                        context/conv1/norm
    classifier.4                        classifier/scores
    """,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
