"""Deformable R-CNN with ZigZagNet as its neck (Lin et al., CVPR 2019, §6.2 and Table 4).

python main.py --config=configs/zigzag_deformable_rcnn.py          the built-in data set of objects, minutes on two cores
python main.py --config=configs/zigzag_deformable_rcnn.py:coco_instances
"""

from ctxseg.configs import deformable_rcnn
from ctxseg.configs.zigzag_mask_rcnn import zigzag


def get_config(dataset: str = "scenes_instances"):
    config = deformable_rcnn.get_config(dataset)
    config.system = "zigzag_deformable_rcnn"
    config.update_from_flattened_dict(zigzag(dataset))
    return config
