"""MCIBI (Jin et al., ICCV 2021), Tables 6 to 9: DeepLabV3 + MCIBI on larger backbones, tested at several scales and mirrored."""

from typing import Any

from ctxseg.configs.datasets import SMALL
from ctxseg.studies.tables import Column, Row, Table, on

PAPER = {  # {name: (backbone, mIoU on each data set)}
    "ResNet-50": ("resnet50", (45.95, 54.08, 79.90, 39.68)),
    "ResNet-101": ("resnet101", (47.22, 55.42, 82.03, 41.49)),
    "ResNeSt-101": (None, (47.36, 56.34, 81.59, 42.15)),
    "HRNetV2-W48": (None, (None, 56.99, 82.55, None)),
    "ViT-L/16": (None, (50.80, None, None, 44.89)),
}
DATASETS = {"ADE20K": "ade20k", "LIP": "lip", "Cityscapes": "cityscapes", "COCO-Stuff 10k": "coco_stuff10k"}


def get_table(dataset: str | None = None) -> Table:
    scales = {"eval.scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "eval.flip": True}
    tested = {"lip": {"eval.flip": True}}  # one scale, mirrored
    aspp: dict[str, Any] = {"model.context.name": "aspp"}
    if dataset in SMALL:
        aspp |= {"model.context.channels": 64, "model.context.dilations": (2, 4, 6)}
        rows = [Row("DeepLabV3 + MCIBI", "mcibi", aspp, PAPER["ResNet-50"][1])]
    else:
        rows = [
            Row(f"DeepLabV3 + MCIBI, {name}", backbone and "mcibi", aspp | {"model.backbone.name": backbone}, figures)
            for name, (backbone, figures) in PAPER.items()
        ]
    columns = [
        Column(title, overrides=tested.get(name, scales), dataset=name, runs=name != "cityscapes")
        for title, name in DATASETS.items()
    ]
    notes = ["The test scales are those of the authors' code."]
    notes.append(
        "The paper's network has a ResNet-50."
        if dataset in SMALL
        else "ResNeSt, HRNet and ViT are not implemented yet."
    )
    if dataset in (None, "cityscapes"):
        notes.append(
            "The labels of Cityscapes' test images are kept on a server: only the paper's figures are shown. The closest run is on val, "
            "--config=configs/mcibi.py:cityscapes --config.model.context.name=aspp --config.model.backbone.name=resnet101"
        )
    table = Table(
        "mcibi_backbones",
        "MCIBI, Tables 6 to 9",
        "papers",
        rows,
        columns,
        note=" ".join(notes),
    )
    return on(table, dataset)
