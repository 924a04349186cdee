"""ZigZagNet (Lin et al., CVPR 2019), Table 4: in detectors, on COCO's instances. Detectors are not implemented yet."""

from ctxseg.studies.tables import Column, Row, Table

PAPER = {  # mask AP without and with ZigZagNet
    "FCIS, ResNet-101": (29.2, 32.2),
    "FCIS, ResNet-152": (31.7, 33.4),
    "Deformable R-CNN, ResNet-101": (36.1, 38.2),
    "Deformable R-CNN, ResNet-152": (37.9, 39.8),
    "Mask R-CNN, ResNet-101": (37.5, 39.5),
    "Mask R-CNN, ResNet-152": (39.7, 40.8),
}


def get_table(dataset: str = "coco_instances") -> Table:
    return Table(
        "zigzag_instances",
        "ZigZagNet, Table 4",
        dataset,
        [Row(name, None, {}, figures) for name, figures in PAPER.items()],
        [Column("mask AP without ZigZagNet"), Column("mask AP with ZigZagNet")],
        note="Instance segmentation is not implemented yet: only the paper's figures are shown.",
    )
