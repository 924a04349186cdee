"""MCIBI (Jin et al., ICCV 2021), Table 1: how context from beyond the image meets the pixels."""

from configs.mcibi import fcn
from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "ade20k") -> Table:
    without = {"loss.memory": 0.0}  # its 42.18 is that of Table 2 without representation consistent learning
    return Table(
        "mcibi_fusion",
        "MCIBI, Table 1",
        dataset,
        [
            Row("FCN", "mcibi", fcn(dataset), (36.96,)),
            Row("add", "mcibi", {"model.memory.fusion": "add"} | without, (40.99,)),
            Row("weighted add", "mcibi", {"model.memory.fusion": "weighted_add"} | without, (41.17,)),
            Row("concatenation", "mcibi", without, (42.18,)),
        ],
    )
