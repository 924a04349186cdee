"""ZigZagNet (Lin et al., CVPR 2019), Table 5: mask AP on COCO's test-dev.

The labels of test-dev are kept on a server, so only the paper's figures are shown. detections.json of a run has the format that the server
takes. The closest runs are those of configs/tables/zigzag_instances.py.
"""

from ctxseg.studies.tables import Column, Row, Table

PAPER = {  # mask AP; the paper does not say with which detector ZigZagNet has 42.0
    "FCIS": 29.6,
    "Deformable R-CNN": 35.7,
    "Mask R-CNN": 37.1,
    "PANet": 40.0,
    "ZigZagNet": 42.0,
}


def get_table(dataset: str = "coco_instances") -> Table:
    return Table(
        "zigzag_instances_test",
        "ZigZagNet, Table 5",
        dataset,
        [Row(name, None, {}, (figure,)) for name, figure in PAPER.items()],
        [Column("mask AP", "mask AP", runs=False)],
        note="The labels of test-dev are kept on a server: only the paper's figures are shown.",
    )
