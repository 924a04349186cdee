"""MCIBI (Jin et al., ICCV 2021), Table 4: trained on LIP, tested on LIP and on CIHP."""

from ctxseg.configs.datasets import SMALL
from ctxseg.configs.mcibi import fcn
from ctxseg.studies.tables import Column, Row, Table, on


def get_table(dataset: str | None = None) -> Table:
    small = dataset in SMALL
    aspp = {"model.context.name": "aspp"} | (
        {"model.context.channels": 64, "model.context.dilations": (2, 4, 6)} if small else {}
    )
    table = Table(
        "mcibi_generalization",
        "MCIBI, Table 4",
        "lip",
        [
            Row("FCN", "mcibi", fcn(dataset), (48.63, 27.20)),
            Row("DeepLabV3", "deeplabv3", {}, (52.35, 27.02)),
            Row("FCN + MCIBI", "mcibi", {}, (51.07, 27.57)),
            Row("DeepLabV3 + MCIBI", "mcibi", aspp, (53.52, 27.89)),
        ],
        [Column("LIP val", dataset="lip"), Column("CIHP val", overrides={"eval.data": "cihp"}, dataset="lip")],
    )
    return table if dataset == "lip" else on(table, dataset)
