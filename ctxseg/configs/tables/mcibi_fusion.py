"""MCIBI (Jin et al., ICCV 2021), Table 1: ways to fuse the context from beyond the image with the pixels."""

from ctxseg.configs.mcibi import fcn
from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "ade20k") -> Table:
    # 42.18 is the figure of Table 2 without representation consistent learning.
    no_rcl = {"loss.memory": 0.0}
    return Table(
        "mcibi_fusion",
        "MCIBI, Table 1",
        dataset,
        [
            Row("FCN", "mcibi", fcn(dataset), (36.96,)),
            Row("add", "mcibi", {"model.memory.fusion": "add"} | no_rcl, (40.99,)),
            Row("weighted add", "mcibi", {"model.memory.fusion": "weighted_add"} | no_rcl, (41.17,)),
            Row("concatenation", "mcibi", no_rcl, (42.18,)),
        ],
    )
