"""Attention to Scale (Chen et al., CVPR 2016), Table 7: Table 6 for the class person only."""

from ctxseg.configs.tables.attention_voc_imagenet import merges
from ctxseg.studies.tables import Table

PAPER = {  # without and with extra supervision
    "max over 1, 0.5": (70.07, 71.06),
    "average over 1, 0.5": (70.38, 71.60),
    "attention over 1, 0.5": (70.66, 72.20),
    "max over 1, 0.75, 0.5": (69.97, 71.43),
    "average over 1, 0.75, 0.5": (69.69, 71.70),
    "attention over 1, 0.75, 0.5": (70.14, 72.72),
}
CLASS = {"scenes": "long wall", "camvid": "Pedestrian"}  # for data sets without a class called person


def get_table(dataset: str = "coco_subset") -> Table:
    score = f"IoU of {CLASS.get(dataset, 'person')}"
    table = merges("attention_coco_person", "Attention to Scale, Table 7", dataset, 68.76, PAPER, None, score=score)
    return table._replace(note=f"Our figures are for the class {CLASS[dataset]}." if dataset in CLASS else "")
