"""Deformable R-CNN (Dai et al., ICCV 2017) with a feature pyramid network and the mask head of Mask R-CNN.

The layout is that of the authors' release on FPN: the last 3×3 convolution of res3 and of res4 and all of res5 are deformable, and so is
the pooling of the boxes. The release has no masks. On COCO, ResNet-101 starts from ImageNet's weights,
--config.model.pretrained=resnet101.pth.

python main.py --config=configs/deformable_rcnn.py          the built-in data set of objects, minutes on two cores
python main.py --config=configs/deformable_rcnn.py:coco_instances
python main.py --config=configs/deformable_rcnn.py --config.model.detector.box_pooling=align --config.optimizer.rates=none          RoIAlign
"""

from ctxseg.configs import datasets, mask_rcnn


def get_config(dataset: str = "scenes_instances"):
    config = mask_rcnn.get_config(dataset)
    config.system = "deformable_rcnn"
    deformable(config, (0, 1, 1, 3))
    hard_examples(config, 512)
    return config


def deformable(config, blocks: tuple[int, int, int, int]) -> None:
    """Makes the last convolutions of each stage of the backbone deformable, and the pooling of the boxes.

    EfficientNet-Lite0, the backbone of `:folder`, has no deformable convolutions: there it is the pooling alone.
    """
    if config.model.backbone.name != "efficientnet_lite0":
        most = 1 if config.model.backbone.name == "tiny" else 3  # it has one block a stage
        config.model.backbone.deformable = tuple(min(count, most) for count in blocks)
    config.model.detector.box_pooling = "deformable"
    config.optimizer.rates = (*config.optimizer.rates, "box_offsets=0.01")


def hard_examples(config, count: int) -> None:
    """Reads all proposals, and trains on those with the largest losses: `count` of them, on small data sets as many as are drawn there."""
    detector = config.model.detector
    if config.data.name in datasets.SMALL:
        count = detector.rois
    else:
        detector.proposals_after = (2000, 1000)
    detector.hard_examples = count
    detector.rois = detector.proposals_after[0] + config.data.max_objects
