"""Attention to Scale (Chen et al., CVPR 2016, §4.1), "Design choices": the attention head and a fourth scale."""

from ctxseg.configs.datasets import SMALL
from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "pascal_person_part") -> Table:
    filters, fc6 = (16, "res4") if dataset in SMALL else (256, "conv6")

    def row(name, paper, **head):
        overrides = {"model.scales.scales": (1.0, 0.75, 0.5)} | {f"model.scales.{k}": v for k, v in head.items()}
        return Row(name, "attention", overrides, (paper,))

    return Table(
        "attention_design",
        "Attention to Scale, Design choices",
        dataset,
        [
            row("two layers, 3×3, on fc7; three scales", "0"),
            row("one layer", "-0.1 to -0.4", head_layers=1),
            row("1×1", "-0.1 to -0.4", head_kernel=1),
            row(f"{filters} filters", "-0.1 to -0.4", head_filters=filters),
            row("on fc8", "about -0.5", head_input="logits"),
            row("on fc6", "similar", head_input=fc6),
            row("four scales", "-0.5", scales=(1.0, 0.75, 0.5, 0.25)),
        ],
        note="The paper's figures are differences in mIoU from the first row. It gives no absolute figures, and does not say which numbers "
        "of filters it tried.",
    )
