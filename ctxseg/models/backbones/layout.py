"""Strides and dilations of a four-stage residual backbone by output stride."""

# output stride → (stride, dilation of the first k×k convolution, dilation of the others) of res2, res3, res4, res5.
# The first convolution of a dilated stage has no stride, and keeps the dilation of the previous stage. So each weight reads the same pixels
# as at stride 32. Dilated ResNets with common pretrained weights have this layout.
STAGES = {
    32: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)),
    16: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)),
    8: ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)),
}
