"""Mask R-CNN with ZigZagNet as its neck (Lin et al., CVPR 2019, §5 and Table 4).

python main.py --config=configs/zigzag_mask_rcnn.py          the built-in data set of objects, minutes on two cores
python main.py --config=configs/zigzag_mask_rcnn.py:coco_instances
"""

from ctxseg.configs import datasets, mask_rcnn


def zigzag(dataset: str) -> dict:
    """Overrides that turn Mask R-CNN's neck into ZigZagNet.

    The paper's masks are a softmax over the classes of each pixel (§5). On small data sets only the neck differs from Mask R-CNN.
    """
    small = dataset in datasets.SMALL
    return {"model.context.name": "zigzag"} | (
        {"model.context.stages": 2} if small else {"model.detector.mask_scores": "softmax"}
    )


def get_config(dataset: str = "scenes_instances"):
    config = mask_rcnn.get_config(dataset)
    config.system = "zigzag_mask_rcnn"
    config.update_from_flattened_dict(zigzag(dataset))
    return config
