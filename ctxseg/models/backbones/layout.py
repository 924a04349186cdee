"""Strides and dilations of a four-stage residual backbone by output stride, and which of its convolutions are deformable."""

from collections.abc import Sequence

from ctxseg.errors import UserError

# output stride → (stride, dilation of the first k×k convolution, dilation of the others) of res2, res3, res4, res5.
# The first convolution of a dilated stage has no stride, and keeps the dilation of the previous stage. So each weight reads the same pixels
# as at stride 32. Dilated ResNets with common pretrained weights have this layout.
STAGES = {
    32: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1)),
    16: ((1, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 2)),
    8: ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4)),
}


def offset_groups(
    deformable: Sequence[int], blocks: Sequence[int], channels: Sequence[int], groups: int
) -> list[list[int]]:
    """The number of offset groups of each block's deformable convolution, by stage; 0 if the convolution is plain.

    Args:
        deformable: the field `deformable` of the backbone.
        blocks: number of blocks of each stage.
        channels: channels that the convolution reads, of each stage.
        groups: the field `offset_groups`.

    Raises:
        UserError: a stage has fewer blocks, or channels that `groups` does not divide.
    """
    if any(n > most for n, most in zip(deformable, blocks, strict=True)):
        raise UserError(
            f"config.model.backbone.deformable is {tuple(deformable)}; expected at most the number of blocks of each stage, {tuple(blocks)}"
        )
    for n, count in zip(deformable, channels, strict=True):
        if n and count % groups:
            raise UserError(
                f"config.model.backbone.offset_groups is {groups}; expected a divisor of {count}, the channels of a deformable convolution"
            )
    return [[0] * (count - n) + [groups] * n for n, count in zip(deformable, blocks, strict=True)]
