"""Attention to Scale (Chen et al., CVPR 2016), Table 3: scales, how they merge, and extra supervision, on VOC 2012."""

from ctxseg.studies.tables import Column, Row, Table

PAPER = {  # without and with extra supervision
    "max over 1, 0.5": (64.81, 67.43),
    "average over 1, 0.5": (64.86, 67.79),
    "attention over 1, 0.5": (65.27, 68.24),
    "max over 1, 0.75, 0.5": (65.15, 67.79),
    "average over 1, 0.75, 0.5": (63.92, 67.98),
    "attention over 1, 0.75, 0.5": (64.37, 69.08),
}


def get_table(dataset: str = "voc2012") -> Table:
    return merges("attention_voc_imagenet", "Attention to Scale, Table 3", dataset, 62.28, PAPER, 64.39)


def merges(
    name: str,
    source: str,
    dataset: str,
    baseline: float,
    paper: dict,
    msc: float | None,
    score: str = "mIoU",
) -> Table:
    """The table that the paper prints for each of its data sets.

    Args:
        name: the table's name.
        source: where the table is printed.
        dataset: the data set that the rows are trained on.
        baseline: the figure of DeepLab-LargeFOV, which has one scale and no extra supervision: one run for both columns.
        paper: {"MERGE over SCALES": (figure without, figure with extra supervision)}.
        msc: the figure of DeepLab-MSc-LargeFOV, or None.
        score: see `Column`.
    """
    rows = [Row("DeepLab-LargeFOV", "largefov", {}, (baseline, baseline))]
    if msc:
        rows.append(Row("DeepLab-MSc-LargeFOV", "largefov", {"model.context.name": "msc"}, (msc, msc)))
    for title, figures in paper.items():
        merge, _, scales = title.partition(" over ")
        scales = tuple(float(scale) for scale in scales.split(","))
        rows.append(Row(title, "attention", {"model.scales.merge": merge, "model.scales.scales": scales}, figures))
    columns = [
        Column("without extra supervision", score, overrides={"loss.scales": 0.0}),
        Column("with extra supervision", score, overrides={"loss.scales": 1.0}),
    ]
    return Table(name, source, dataset, rows, columns)
