"""Attention to Scale (Chen et al., CVPR 2016), Table 2: IoU of each part, for attention over three scales with extra supervision."""

from ctxseg.studies.tables import Column, Row, Table

PAPER = {
    "head": 81.47,
    "torso": 59.06,
    "upper arms": 44.15,
    "lower arms": 42.50,
    "upper legs": 38.28,
    "lower legs": 35.62,
    "background": 93.65,
}


def get_table(dataset: str = "pascal_person_part") -> Table:
    """The table; on other data sets, whose classes differ, only the mean."""
    parts = PAPER if dataset == "pascal_person_part" else {}
    overrides = {"model.scales.merge": "attention", "model.scales.scales": (1.0, 0.75, 0.5)}
    return Table(
        "attention_parts",
        "Attention to Scale, Table 2",
        dataset,
        [Row("attention over 1, 0.75, 0.5", "attention", overrides, (*parts.values(), 56.39))],
        [*(Column(part, f"IoU of {part}") for part in parts), Column()],
    )
