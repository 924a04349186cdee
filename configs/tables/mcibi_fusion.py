"""MCIBI (Jin et al., ICCV 2021), Table 1: how context from beyond the image meets the pixels."""

from ctxseg.tables import Row, Table


def get_table(dataset: str = "ade20k") -> Table:
    return Table(
        "mcibi_fusion",
        "MCIBI, Table 1",
        dataset,
        [
            Row("FCN", "mcibi", {"model.memory.name": "none"}, (36.96,)),
            Row("add", "mcibi", {"model.memory.fusion": "add"}, (40.99,)),
            Row("weighted add", "mcibi", {"model.memory.fusion": "weighted_add"}, (41.17,)),
            Row("concatenation", "mcibi", {}, (42.18,)),
        ],
    )
