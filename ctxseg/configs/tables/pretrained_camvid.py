"""Pretrained weights on a small data set: every system from scratch on `tiny`, and on EfficientNet-Lite0 with ImageNet's weights.

    python main.py --mode=sweep --config=configs/tables/pretrained_camvid.py --config.data.manual_dir=CamVid --jobs=2

No paper has this table.
"""

from ctxseg.configs.datasets import EFFICIENTNET_LITE0, EFFICIENTNET_LITE0_LEVELS
from ctxseg.studies.tables import Column, Row, Table

# name → config, overrides with EfficientNet-Lite0
SYSTEMS = {
    "FCN": ("fcn", EFFICIENTNET_LITE0),
    "H-ReNet": ("hrenet", EFFICIENTNET_LITE0),
    "Attention to Scale": ("attention", EFFICIENTNET_LITE0),
    "MSCI": ("msci", EFFICIENTNET_LITE0_LEVELS),
    "ZigZagNet": ("zigzag", EFFICIENTNET_LITE0_LEVELS | {"model.context.channels": 64}),
    "MCIBI": ("mcibi", EFFICIENTNET_LITE0),
    "PSPNet": ("pspnet", EFFICIENTNET_LITE0),
    "DeepLabV3+": ("deeplabv3plus", EFFICIENTNET_LITE0_LEVELS | {"model.backbone.output_stride": 16}),
    "OCRNet": ("ocrnet", EFFICIENTNET_LITE0),
}


def get_table(dataset: str = "camvid") -> Table:
    return Table(
        "pretrained_camvid",
        "ImageNet's weights on a small data set",
        dataset,
        [
            *(Row(f"{name}, tiny, from scratch", system) for name, (system, _) in SYSTEMS.items()),
            *(Row(f"{name}, EfficientNet-Lite0", system, overrides) for name, (system, overrides) in SYSTEMS.items()),
            Row("FCN, EfficientNet-Lite0, from scratch", "fcn", {"model.backbone.name": "efficientnet_lite0"}),
        ],
        [
            Column(),
            Column("pixel accuracy", "pixel accuracy"),
            Column("parameters, M", "parameters, M"),
            Column("minutes", "minutes"),
        ],
        note="The training loop's minutes, on one core each with --jobs=2.",
    )
