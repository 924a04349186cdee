"""H-ReNet (Yan et al., 2016), Table 7: its own rows, per class, on VOC 2012's test images."""

from configs.tables.hrenet_variants import renet
from ctxseg.tables import Column, Row, Table

CLASSES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
PAPER = {  # IoU of each of them, the mean with that of the background
    "H-ReNet": (
        86.9, 38.6, 80.8, 63.9, 67.6, 88.5, 82.6, 87.6, 29.3, 79.4, 58.6, 82.6, 80.8, 83.3, 81.7, 58.7, 82.9, 55.7, 79.2, 64.6, 72.7,
    ),
    "H-ReNet, DenseCRF": (
        89.7, 39.6, 82.9, 65.1, 68.9, 89.8, 83.1, 90.1, 29.9, 81.7, 59.1, 85.1, 82.9, 84.7, 83.5, 61.5, 84.8, 57.8, 80.1, 65.7, 74.3,
    ),
    "H-ReNet, with COCO": (
        90.4, 39.7, 89.8, 65.2, 70.4, 88.7, 82.8, 87.7, 33.6, 84.3, 63.8, 84.3, 86.9, 85.7, 84.9, 60.1, 86.4, 55.1, 80.3, 69.1, 75.3,
    ),
    "H-ReNet, DenseCRF, with COCO": (
        93.1, 42.2, 92.2, 66.4, 71.3, 90.2, 83.4, 89.9, 36.7, 85.2, 64.8, 86.4, 88.5, 86.9, 86.3, 62.4, 87.6, 56.8, 81.7, 69.9, 76.8,
    ),
}  # fmt: skip


def get_table(dataset: str = "voc2012") -> Table:
    """On data sets of other classes, the mean alone."""
    classes = CLASSES if dataset in ("voc2012", "coco_voc") else ()
    overrides = renet(dataset, "pool4", "pool5", "conv7")
    rows = []
    for name, figures in PAPER.items():
        system = None if "COCO" in name else "hrenet"
        crf = {"eval.crf.iterations": 2} if "CRF" in name else {}
        rows.append(Row(name, system, overrides | crf, (*figures[: len(classes)], figures[-1])))
    return Table(
        "hrenet_voc_test",
        "H-ReNet, Table 7",
        dataset,
        rows,
        [*(Column(name, f"IoU of {name}") for name in classes), Column()],
        note="The paper trains these rows on train and val, and its figures are of the test images, which VOC's server scores; ours are of "
        "val, from train. Rows with COCO start from weights learned on VOC and COCO together, which cannot be loaded yet.",
    )
