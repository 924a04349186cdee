"""ZigZagNet (Lin et al., CVPR 2019), Table 4: mask AP of detectors with and without ZigZagNet, on COCO's val.

    python main.py --mode=sweep --config=configs/tables/zigzag_instances.py:scenes_instances --seeds=3

The paper starts from ImageNet's weights: --config.model.pretrained=resnet101.pth.
"""

from ctxseg.studies.tables import Column, Row, Table

PAPER = {  # {(detector, backbone): mask AP without and with ZigZagNet}
    ("FCIS", "resnet101"): (29.2, 32.2),
    ("FCIS", "resnet152"): (31.7, 33.4),
    ("Deformable R-CNN", "resnet101"): (36.1, 38.2),
    ("Deformable R-CNN", "resnet152"): (37.9, 39.8),
    ("Mask R-CNN", "resnet101"): (37.5, 39.5),
    ("Mask R-CNN", "resnet152"): (39.7, 40.8),
}
SYSTEMS = {"FCIS": "fcis", "Deformable R-CNN": "deformable_rcnn", "Mask R-CNN": "mask_rcnn"}


def get_table(dataset: str = "coco_instances") -> Table:
    if dataset == "coco_instances":
        rows = [
            row
            for (detector, backbone), figures in PAPER.items()
            for row in _pair(detector, f", {backbone}", {"model.backbone.name": backbone}, [(ap,) for ap in figures])
        ]
        columns = [Column("mask AP", "mask AP")]
        note = "The paper does not say which layout of Deformable R-CNN it has: this is the one with a feature pyramid."
    else:
        columns = [Column(score, score) for score in ("mask AP", "mask AP50", "box AP", "parameters, M", "minutes")]
        rows = [row for detector in SYSTEMS for row in _pair(detector, "", {}, [(None,) * len(columns)] * 2)]
        note = ""
    return Table("zigzag_instances", "ZigZagNet, Table 4", dataset, rows, columns, note=note)


def _pair(detector, backbone, overrides, figures):
    """The rows of a detector without and with ZigZagNet."""
    system = SYSTEMS[detector]
    return [
        Row(f"{detector}{backbone}", system, overrides, figures[0]),
        Row(f"{detector} + ZigZagNet{backbone}", f"zigzag_{system}", overrides, figures[1]),
    ]
