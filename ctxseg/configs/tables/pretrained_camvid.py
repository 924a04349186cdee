"""Pretrained weights on a small data set: every system from scratch on `tiny`, and on EfficientNet-Lite0 with ImageNet's weights.

    python main.py --mode=sweep --config=configs/tables/pretrained_camvid.py --config.data.manual_dir=CamVid --jobs=2

No paper has this table.
"""

from ctxseg.configs.datasets import EFFICIENTNET_LITE0
from ctxseg.studies.tables import Column, Row, Table

# Systems that read several maps, of which the finest has stride 4, need no last map of stride 8. The backbone stays as it is, and what is
# new learns at a high rate, which makes a step four times faster.
FROZEN = {
    "model.backbone.name": "efficientnet_lite0",
    "model.backbone.output_stride": 32,
    "model.pretrained": "efficientnet_lite0",
    "model.frozen": ("backbone",),
    "optimizer.learning_rate": 0.4,
}
# name → config, overrides with EfficientNet-Lite0. Systems that read one map need one of stride 8, so the backbone is trained too.
SYSTEMS = {
    "FCN": ("fcn", EFFICIENTNET_LITE0),
    "H-ReNet": ("hrenet", EFFICIENTNET_LITE0),
    "Attention to Scale": ("attention", EFFICIENTNET_LITE0),
    "MSCI": ("msci", FROZEN),
    "ZigZagNet": ("zigzag", FROZEN | {"model.context.channels": 64}),
    "MCIBI": ("mcibi", EFFICIENTNET_LITE0),
    "PSPNet": ("pspnet", EFFICIENTNET_LITE0),
    "DeepLabV3+": ("deeplabv3plus", FROZEN | {"model.backbone.output_stride": 16}),
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
