"""ZigZagNet (Lin et al., CVPR 2019), Table 3: its own rows."""

from ctxseg.tables import Row, Table


def get_table(dataset: str | None = None) -> Table:
    rows = [
        Row("VOC 2012 val", "zigzag", {}, (86.0,), "voc2012"),
        Row("VOC 2012 test", None, {}, (88.7,)),
        Row("PASCAL-Context val", "zigzag", {}, (52.1,), "pascal_context"),
    ]
    if dataset:
        rows = [row for row in rows if row.dataset == dataset] or [Row("ZigZagNet", "zigzag", {}, (None,))]
    return Table(
        "zigzag_state_of_the_art",
        "ZigZagNet, Table 3",
        dataset or "papers",
        rows,
        note="The truth of VOC's test images is not published: its server scores them.",
    )
