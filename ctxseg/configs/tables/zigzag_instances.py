"""ZigZagNet (Lin et al., CVPR 2019), Table 4: mask AP of detectors with and without ZigZagNet, on COCO's val.

    python main.py --mode=sweep --config=configs/tables/zigzag_instances.py:scenes_instances --seeds=3

The paper starts from ImageNet's weights: --config.model.pretrained=resnet101.pth.
"""

from ctxseg.configs.zigzag_mask_rcnn import zigzag
from ctxseg.studies.tables import Column, Row, Table

PAPER = {  # {(detector, backbone): mask AP without and with ZigZagNet}
    ("FCIS", "resnet101"): (29.2, 32.2),
    ("FCIS", "resnet152"): (31.7, 33.4),
    ("Deformable R-CNN", "resnet101"): (36.1, 38.2),
    ("Deformable R-CNN", "resnet152"): (37.9, 39.8),
    ("Mask R-CNN", "resnet101"): (37.5, 39.5),
    ("Mask R-CNN", "resnet152"): (39.7, 40.8),
}
# The detectors that there are. Without ZigZagNet, the neck of Mask R-CNN is FPN.
SYSTEMS = {"Mask R-CNN": "mask_rcnn"}


def get_table(dataset: str = "coco_instances") -> Table:
    if dataset == "coco_instances":
        rows = [
            Row(f"{detector}, {backbone}", SYSTEMS.get(detector), {"model.backbone.name": backbone}, figures)
            for (detector, backbone), figures in PAPER.items()
        ]
        columns = _columns("mask AP", dataset)
        note = "FCIS and Deformable R-CNN are not implemented yet: they have only the paper's figures."
    else:
        scores = ("mask AP", "mask AP50", "box AP", "minutes")
        columns = [column for score in scores for column in _columns(score, dataset)]
        rows = [Row(detector, system, {}, (None,) * len(columns)) for detector, system in SYSTEMS.items()]
        note = ""
    return Table("zigzag_instances", "ZigZagNet, Table 4", dataset, rows, columns, note=note)


def _columns(score, dataset):
    return [Column(f"{score} without ZigZagNet", score), Column(f"{score} with ZigZagNet", score, zigzag(dataset))]
