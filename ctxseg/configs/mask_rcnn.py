"""Mask R-CNN (He et al., ICCV 2017) with a feature pyramid network: finds the objects of an image, each with its mask.

On COCO, ResNet-101 starts from ImageNet's weights, --config.model.pretrained=resnet101.pth, whose batch normalisation is frozen.

python main.py --config=configs/mask_rcnn.py          the built-in data set of objects, minutes on two cores
python main.py --config=configs/mask_rcnn.py:coco_instances
python main.py --config=configs/mask_rcnn.py:folder --config.data.manual_dir=mine          your own images, with annotations.json
"""

from ctxseg.configs import datasets, defaults


def get_config(dataset: str = "scenes_instances"):
    if dataset in ("folder", "scenes"):  # of their names, the data sets of objects
        dataset = f"{dataset}_instances"
    config = defaults.get_config()
    config.system = "mask_rcnn"
    datasets.set_protocol(config, dataset)
    config.model.context.name = "fpn"
    config.model.detector.name = "mask_rcnn"
    config.model.backbone.output_stride = 32  # each level is half as large as the one before
    if dataset in datasets.SMALL:
        config.model.context.channels = 48
        config.model.context.norm = "batch"
        small(config, scale=2.0 if dataset == "folder_instances" else 1.0)
    else:
        config.model.backbone.name = "resnet101"
        # Once pretrained weights fill them.
        config.model.frozen = ("backbone/stem", "backbone/res2", "backbone/*/norm")
    return config


def small(config, scale: float) -> None:
    """A detector for images whose shorter side has about 128·`scale` pixels. Its heads train from scratch with batch normalisation."""
    detector = config.model.detector
    detector.anchor_sizes = tuple(scale * size for size in (12.0, 24.0, 48.0, 96.0))
    detector.canonical_size = scale * 42.0
    detector.proposals_before, detector.proposals_after = (300, 200), (200, 100)
    detector.rpn_samples, detector.rois = 64, 48
    detector.box_channels, detector.mask_channels, detector.mask_layers = 256, 48, 2
    detector.rpn_norm = detector.box_norm = detector.mask_norm = "batch"
    detector.detections = 30
