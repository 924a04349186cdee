"""N-ReNet (Yan et al., 2016), Table 1: its own row, the mean over the five folds of Stanford Background."""

from ctxseg.configs.datasets import SMALL
from ctxseg.studies.tables import Column, Row, Table


def get_table(dataset: str = "stanford_background") -> Table:
    folds = [
        {"eval.split": f"fold{i}", "train.split": "+".join(f"fold{j}" for j in range(5) if j != i)} for i in range(5)
    ]
    return Table(
        "nrenet_stanford",
        "N-ReNet, Table 1",
        dataset,
        [Row("N-ReNet", "nrenet", {"eval.batch_size": 1}, (80.4, 71.8, 0.07))],
        [Column(score, score) for score in ("pixel accuracy", "mean accuracy", "seconds per image")],
        folds=folds if dataset not in SMALL else ({},),
        note="The paper calls the mean accuracy class accuracy. Its seconds were measured on a GPU of 2016.",
    )
