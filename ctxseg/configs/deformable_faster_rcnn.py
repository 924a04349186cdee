"""Deformable R-CNN (Dai et al., ICCV 2017) without a pyramid, with the mask head of Mask R-CNN.

The layout is that of the authors' release on Faster R-CNN: res5 is deformable, with dilation in place of stride. A 1×1 convolution of it is
read within boxes, and the region proposals read res4.

python main.py --config=configs/deformable_faster_rcnn.py          the built-in data set of objects, minutes on two cores
python main.py --config=configs/deformable_faster_rcnn.py:coco_instances
"""

from ctxseg.configs import datasets, mask_rcnn
from ctxseg.configs.deformable_rcnn import deformable


def get_config(dataset: str = "scenes_instances"):
    config = mask_rcnn.get_config(dataset)
    config.system = "deformable_faster_rcnn"
    deformable(config, (0, 0, 0, 3))
    one_map(config, channels=256)
    if dataset not in datasets.SMALL:
        config.model.detector.rois = 128
        config.model.detector.proposals_before, config.model.detector.proposals_after = (6000, 6000), (300, 300)
    return config


def one_map(config, channels: int) -> None:
    """Regions read one map of stride 16, of `channels` channels, and proposals read res4 with the anchors of all sizes.

    On small data sets, whose objects are small, the stride is 8.
    """
    config.model.backbone.output_stride = 8 if config.data.name in datasets.SMALL else 16
    config.model.context.name = "project"
    detector = config.model.detector
    detector.rpn_levels = ("res4",)
    if config.data.name in datasets.SMALL:
        smallest = detector.anchor_sizes[0]
    else:
        smallest = 64.0
        config.model.context.channels = channels
        detector.rpn_channels = 512
        detector.border_anchors = False
    detector.anchor_sizes, detector.anchor_scales = (smallest,), (1.0, 2.0, 4.0, 8.0)
