"""ZigZagNet (Lin et al., CVPR 2019), Table 3: its own rows."""

from ctxseg.studies.tables import Row, Table

# The paper trains on COCO first, from ImageNet's weights: --config.model.pretrained=resnet101.pth.
COCO = Row("COCO", "zigzag", dataset="coco_voc")

TEST = (
    "The labels of VOC's test images are kept on a server: only the paper's figure is shown. The closest run is the row on val, "
    "--config=configs/zigzag.py:voc2012"
)


def get_table(dataset: str | None = None) -> Table:
    rows = [
        Row("VOC 2012 val", "zigzag", {}, (86.0,), "voc2012", COCO),
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
        note="" if dataset else TEST,
    )
