"""Pretrained weights on a small data set: every system from scratch on `tiny`, and on EfficientNet-Lite0 with ImageNet's weights.

    python main.py --mode=sweep --config=configs/tables/pretrained_camvid.py --config.data.manual_dir=CamVid --jobs=2

No paper has this table.
"""

from ctxseg.configs.datasets import EFFICIENTNET_LITE0
from ctxseg.studies.tables import Column, Row, Table

# The last row trains the same network from scratch.
SCRATCH = {"model.backbone.name": EFFICIENTNET_LITE0["model.backbone.name"]}
SYSTEMS = {
    "FCN": "fcn",
    "H-ReNet": "hrenet",
    "Attention to Scale": "attention",
    "MSCI": "msci",
    "ZigZagNet": "zigzag",
    "MCIBI": "mcibi",
    "PSPNet": "pspnet",
    "DeepLabV3+": "deeplabv3plus",
    "OCRNet": "ocrnet",
}


def get_table(dataset: str = "camvid") -> Table:
    return Table(
        "pretrained_camvid",
        "ImageNet's weights on a small data set",
        dataset,
        [
            *(Row(name, system) for name, system in SYSTEMS.items()),
            Row("FCN, EfficientNet-Lite0 in both", "fcn", SCRATCH),
        ],
        [
            Column("tiny, from scratch"),
            Column("EfficientNet-Lite0, pretrained", overrides=EFFICIENTNET_LITE0),
            Column("parameters of tiny's, M", "parameters, M"),
            Column("parameters of EfficientNet-Lite0's, M", "parameters, M", overrides=EFFICIENTNET_LITE0),
            Column("minutes of tiny's", "minutes"),
            Column("minutes of EfficientNet-Lite0's", "minutes", overrides=EFFICIENTNET_LITE0),
        ],
        note="The training loop's minutes on one core.",
    )
