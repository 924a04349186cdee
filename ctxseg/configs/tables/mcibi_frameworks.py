"""MCIBI (Jin et al., ICCV 2021), Table 5: the memory combined with context from within the image."""

from typing import Any

from ctxseg.configs.datasets import SMALL
from ctxseg.configs.mcibi import fcn
from ctxseg.studies.tables import Column, Row, Table, on

PAPER = {  # {name: (config, context module, mIoU without the memory on each data set, the same with the memory)}
    "FCN": ("mcibi", "none", (36.96, 75.16, 48.63, 35.11), (42.84, 78.50, 51.07, 39.95)),
    "PSPNet": ("pspnet", "ppm", (42.64, 79.05, 51.94, 41.01), (43.77, 79.90, 52.84, 41.80)),
    "OCRNet": ("ocrnet", "ocr", (42.47, 79.40, 52.25, 40.57), (43.34, 79.98, 52.80, 41.10)),
    "DeepLabV3": ("deeplabv3", "aspp", (43.19, 80.57, 52.35, 41.86), (44.34, 81.14, 53.52, 42.08)),
}
DATASETS = {"ADE20K": "ade20k", "Cityscapes": "cityscapes", "LIP": "lip", "COCO-Stuff": "coco_stuff"}


def get_table(dataset: str | None = None) -> Table:
    small: dict[str, dict[str, Any]] = {
        "none": {},
        "ppm": {"model.context.channels": 64},
        "ocr": {"model.context.channels": 64, "model.context.key_channels": 32},
        "aspp": {"model.context.channels": 64, "model.context.dilations": (2, 4, 6)},
    }
    # OCR has its own auxiliary scores, as in configs/ocrnet.py.
    large: dict[str, dict[str, Any]] = {"ocr": {"model.auxiliary.levels": ()}}
    rows = []
    for name, (system, context, figures, figures_with_memory) in PAPER.items():
        overrides: dict[str, Any] = {"model.context.name": context} | (
            small[context] if dataset in SMALL else large.get(context, {})
        )
        rows.append(Row(name, system, fcn(dataset) if context == "none" else {}, figures))
        rows.append(Row(f"{name} + MCIBI", "mcibi", overrides, figures_with_memory))
    columns = [Column(title, dataset=name) for title, name in DATASETS.items()]
    return on(Table("mcibi_frameworks", "MCIBI, Table 5", "papers", rows, columns), dataset)
