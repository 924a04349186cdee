"""Attention to Scale (Chen et al., CVPR 2016), Table 6: scales, how they merge, and extra supervision, on a subset of COCO 2014."""

from ctxseg.configs.tables.attention_voc_imagenet import merges
from ctxseg.studies.tables import Table

PAPER = {  # without and with extra supervision
    "max over 1, 0.5": (32.95, 34.70),
    "average over 1, 0.5": (33.69, 35.14),
    "attention over 1, 0.5": (34.03, 35.41),
    "max over 1, 0.75, 0.5": (33.58, 35.08),
    "average over 1, 0.75, 0.5": (33.74, 35.72),
    "attention over 1, 0.75, 0.5": (33.42, 35.78),
}


def get_table(dataset: str = "coco_subset") -> Table:
    return merges("attention_coco_subset", "Attention to Scale, Table 6", dataset, 31.22, PAPER, 31.61)
