"""FCIS (Li et al., CVPR 2017): fully convolutional instance-aware segmentation, on ResNet's res5 with dilation.

On COCO, ResNet-101 starts from ImageNet's weights, --config.model.pretrained=resnet101.pth. Sizes and schedule are those of the authors'
release, except that the warm-up is linear here.

python main.py --config=configs/fcis.py          the built-in data set of objects, minutes on two cores
python main.py --config=configs/fcis.py:coco_instances
"""

from ctxseg.configs import datasets, mask_rcnn
from ctxseg.configs.deformable_faster_rcnn import one_map

DEVICES = 8  # of the release


def get_config(dataset: str = "scenes_instances"):
    config = mask_rcnn.get_config(dataset)
    config.system = "fcis"
    head(config)
    one_map(config, channels=1024)
    if config.data.name not in datasets.SMALL:
        config.data.base_size, config.data.max_side = (600,), 1000
        # The release adds the gradients of its devices, one image each. With their mean, the rate is 8 times as large, and the decay, which
        # the rate multiplies too, an eighth.
        config.optimizer.learning_rate = 0.0005 * DEVICES
        config.optimizer.weight_decay = 5e-4 / DEVICES
        config.optimizer.rates = ("neck=3",)
        # An epoch of the release has each image, and each flipped image.
        epoch = 2 * datasets.IMAGES["coco_instances"] // config.train.batch_size
        config.train.steps = 8 * epoch
        config.optimizer.step_boundaries = (int(5.33 * epoch),)
        config.optimizer.warmup_steps = 250
    return config


def head(config) -> None:
    """The second stage of FCIS in place of Mask R-CNN's."""
    detector = config.model.detector
    detector.name = "fcis"
    config.loss.mask = 10.0
    if config.data.name in datasets.SMALL:
        detector.hard_examples = detector.rois
        detector.rois = detector.proposals_after[0] + config.data.max_objects
    else:
        # Fields that both detectors have, at FCIS's defaults.
        detector.proposals_before = detector.proposals_after = None
