"""MCIBI (Jin et al., ICCV 2021), Table 4: trained on LIP, tested on LIP and on CIHP."""

from configs.datasets import SMALL
from ctxseg.tables import Column, Row, Table


def get_table(dataset: str = "lip") -> Table:
    small = dataset in SMALL
    aspp = {"model.context.name": "aspp"} | (
        {"model.context.channels": 64, "model.context.dilations": (2, 4, 6)} if small else {}
    )
    without = {"model.memory.name": "none"}
    return Table(
        "mcibi_generalization",
        "MCIBI, Table 4",
        dataset,
        [
            Row("FCN", "mcibi", without, (48.63, 27.20)),
            Row("DeepLabV3", "mcibi", without | aspp, (52.35, 27.02)),
            Row("FCN + MCIBI", "mcibi", {}, (51.07, 27.57)),
            Row("DeepLabV3 + MCIBI", "mcibi", aspp, (53.52, 27.89)),
        ],
        (Column(),) if dataset != "lip" else (Column("LIP val"), Column("CIHP val", overrides={"eval.data": "cihp"})),
    )
