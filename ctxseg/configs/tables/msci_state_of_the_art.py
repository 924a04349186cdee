"""MSCI (Lin et al., ECCV 2018), Tables 3 and 4: its own rows."""

from ctxseg.studies.tables import Row, Table

# The paper trains on COCO first, from ImageNet's weights: --config.model.pretrained=resnet152.pth.
COCO = Row("COCO", "msci", dataset="coco_voc")

TEST = (
    "The labels of VOC's test images are kept on a server: only the paper's figure is shown. The closest run is the row on val, "
    "--config=configs/msci.py:voc2012"
)


def get_table(dataset: str | None = None) -> Table:
    rows = [
        Row("VOC 2012 val", "msci", {}, (85.1,), "voc2012", COCO),
        Row("VOC 2012 test", None, {}, (88.0,)),
        Row("PASCAL-Context val", "msci", {}, (50.3,), "pascal_context"),
        Row("NYUDv2 val", "msci", {}, (49.0,), "nyudv2"),
        Row("SUN-RGBD val", "msci", {}, (50.4,), "sunrgbd"),
    ]
    if dataset:
        rows = [row for row in rows if row.dataset == dataset] or [Row("MSCI", "msci", {}, (None,))]
    return Table(
        "msci_state_of_the_art",
        "MSCI, Tables 3 and 4",
        dataset or "papers",
        rows,
        note="" if dataset else TEST,
    )
