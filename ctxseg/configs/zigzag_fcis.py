"""FCIS with ZigZagNet as its neck (Lin et al., CVPR 2019, §6.2 and Table 4). All levels share the weights of the score maps.

python main.py --config=configs/zigzag_fcis.py          the built-in data set of objects, minutes on two cores
python main.py --config=configs/zigzag_fcis.py:coco_instances
"""

from ctxseg.configs import datasets, fcis, mask_rcnn


def get_config(dataset: str = "scenes_instances"):
    config = mask_rcnn.get_config(dataset)
    config.system = "zigzag_fcis"
    fcis.head(config)
    config.model.context.name = "zigzag"
    if config.data.name in datasets.SMALL:
        config.model.context.stages = 2
    else:
        config.model.detector.nms = 0.5  # ZigZagNet's. On small data sets it is FCIS's, so that the necks are compared.
    return config
