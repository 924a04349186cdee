"""Small versions of MCIBI's other backbones, from scratch: FCN on each, with few channels and blocks. No paper has this table.

python main.py --mode=sweep --config=configs/tables/small_backbones.py:scenes
python main.py --mode=sweep --config=configs/tables/small_backbones.py:camvid --config.data.manual_dir=CamVid
"""

from typing import Any

from ctxseg.studies.tables import Column, Row, Table

BACKBONES: dict[str, dict[str, Any]] = {
    "tiny": {"name": "tiny"},
    "ResNeSt": {"name": "resnest50", "width": 8},
    "HRNetV2": {
        "name": "ctxseg.models.backbones.hrnet:HRNet",
        "width": 12,
        "stem_width": 16,
        "modules": (1, 1, 1),
        "blocks": 1,
    },
    # Patches of 8 pixels: these images are small.
    "ViT": {"name": "vit_tiny_16", "width": 96, "depth": 6, "heads": 3, "patch_size": 8, "grid": 16},
}


def get_table(dataset: str = "scenes") -> Table:
    rows = [
        Row(name, "fcn", {f"model.backbone.{field}": value for field, value in fields.items()})
        for name, fields in BACKBONES.items()
    ]
    # Not tuned: a lower rate than that of convolutions, and clipped gradients.
    rows[-1] = rows[-1]._replace(
        overrides={**rows[-1].overrides, "optimizer.learning_rate": 0.02, "optimizer.clip_norm": 1.0}
    )
    columns = [Column(score, score) for score in ("mIoU", "pixel accuracy", "parameters, M", "minutes")]
    return Table("small_backbones", "Small backbones from scratch", dataset, rows, columns)
