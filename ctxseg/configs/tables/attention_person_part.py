"""Attention to Scale (Chen et al., CVPR 2016), Table 1: scales, how they merge, and extra supervision, on PASCAL-Person-Part."""

from ctxseg.configs.tables.attention_voc_imagenet import merges
from ctxseg.studies.tables import Table

PAPER = {  # without and with extra supervision
    "max over 1, 0.5": (52.90, 55.26),
    "average over 1, 0.5": (52.71, 55.17),
    "attention over 1, 0.5": (53.49, 55.85),
    "max over 1, 0.75, 0.5": (53.02, 55.78),
    "average over 1, 0.75, 0.5": (52.56, 55.72),
    "attention over 1, 0.75, 0.5": (53.12, 56.39),
}


def get_table(dataset: str = "pascal_person_part") -> Table:
    return merges("attention_person_part", "Attention to Scale, Table 1", dataset, 51.91, PAPER, 53.72)
