"""Strides and dilations of a four-stage residual backbone for a wanted output stride."""

# output stride → (stride, dilation of the first block, dilation of the other blocks) of res2, res3, res4, res5.
# The first block of a dilated stage keeps the dilation of the stage before it, so that the receptive field is that of
# the network at stride 32 (the layout of the dilated ResNets whose pretrained weights are in use).
STAGES = {
    32: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)),
    16: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)),
    8: ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)),
}
