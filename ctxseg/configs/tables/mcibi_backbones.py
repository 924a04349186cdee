"""MCIBI (Jin et al., ICCV 2021), Tables 6 to 9: DeepLabV3 + MCIBI on larger backbones, tested at several scales and mirrored.

The paper gives the backbones and how they are tested. The other settings are those of the authors' published runs (SPEC §6b).
"""

from typing import Any

from ctxseg.configs.datasets import IMAGES, SMALL
from ctxseg.studies.tables import Column, Row, Table, on

PAPER = {  # {name: (backbone, mIoU on each data set)}
    "ResNet-50": ("resnet50", (45.95, 54.08, 79.90, 39.68)),
    "ResNet-101": ("resnet101", (47.22, 55.42, 82.03, 41.49)),
    "ResNeSt-101": ("resnest101", (47.36, 56.34, 81.59, 42.15)),
    "HRNetV2-W48": ("hrnetv2_w48", (None, 56.99, 82.55, None)),
    "ViT-L/16": ("vit_large_16", (50.80, None, None, 44.89)),
}
DATASETS = {"ADE20K": "ade20k", "LIP": "lip", "Cityscapes": "cityscapes", "COCO-Stuff 10k": "coco_stuff10k"}
# On ViT, the published runs have auxiliary heads of their own and are tested in windows; on HRNet, they have no auxiliary head.
BACKBONES: dict[str, dict[str, Any]] = {
    "hrnetv2_w48": {"model.auxiliary.levels": ()},
    "vit_large_16": {
        "model.auxiliary.levels": ("layer9", "layer14", "layer19"),
        "model.auxiliary.convolutions": 2,
        "model.auxiliary.enlarge": 4,
        "optimizer.rates": ("backbone=0.1",),
        "optimizer.weight_decay": 0.0,
        "eval.window": (512, 512),
        "eval.stride": 341,
    },
}


def _run(dataset, rate, epochs, batch_size=16, consistency=True) -> dict[str, Any]:
    """Overrides: learning rate, length and batch size of a published run; whether it has representation consistent learning."""
    images = IMAGES[dataset] + (IMAGES["cityscapes_val"] if dataset == "cityscapes" else 0)
    return {
        "optimizer.learning_rate": rate,
        "train.batch_size": batch_size,
        "train.steps": epochs * images // batch_size,
        **({} if consistency else {"loss.memory": 0.0}),
    }


DECAY, HALVED = {"optimizer.weight_decay": 1e-4}, {"model.downsample": True}
RESNET = {
    "ade20k": _run("ade20k", 0.01, 130),
    "lip": _run("lip", 0.01, 150, 32, consistency=False),
    "cityscapes": _run("cityscapes", 0.01, 440, consistency=False),
    "coco_stuff10k": _run("coco_stuff10k", 0.001, 110, consistency=False) | DECAY,
}
# {backbone: {data set: overrides, or None if the authors have no run}}.
RUNS: dict[str, dict[str, dict[str, Any] | None]] = {
    "resnet50": {**RESNET},
    "resnet101": {**RESNET},
    "resnest101": {
        "ade20k": _run("ade20k", 0.004, 180),
        "lip": _run("lip", 0.007, 150, 40, consistency=False),
        "cityscapes": _run("cityscapes", 0.01, 500, consistency=False),
        "coco_stuff10k": _run("coco_stuff10k", 0.001, 150, 32, consistency=False),
    },
    "hrnetv2_w48": {
        "ade20k": _run("ade20k", 0.004, 180),
        "lip": _run("lip", 0.007, 150, 40, consistency=False) | HALVED,
        "cityscapes": _run("cityscapes", 0.01, 500, consistency=False) | HALVED,
        "coco_stuff10k": _run("coco_stuff10k", 0.001, 110, consistency=False) | DECAY,
    },
    "vit_large_16": {
        "ade20k": _run("ade20k", 0.01, 130) | {"model.context.dilations": (6, 12, 18)},
        "lip": None,
        "cityscapes": None,
        "coco_stuff10k": _run("coco_stuff10k", 0.001, 110, consistency=False)
        | {"model.context.dilations": (12, 24, 36)},
    },
}


def get_table(dataset: str | None = None) -> Table:
    scales = {"eval.scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "eval.flip": True}
    tested: dict[str, dict[str, Any]] = {
        "lip": {"eval.flip": True},  # one scale, mirrored
        "cityscapes": scales | {"train.split": "train+val", "eval.split": "test"},
    }
    aspp: dict[str, Any] = {"model.context.name": "aspp"}
    if dataset in SMALL:
        aspp |= {"model.context.channels": 64, "model.context.dilations": (2, 4, 6)}
        rows = [Row("DeepLabV3 + MCIBI", "mcibi", aspp, PAPER["ResNet-50"][1])]
    else:
        rows = [
            Row(
                f"DeepLabV3 + MCIBI, {name}",
                "mcibi",
                aspp | {"model.backbone.name": backbone} | BACKBONES.get(backbone, {}),
                figures,
                on=RUNS[backbone],
            )
            for name, (backbone, figures) in PAPER.items()
        ]
    columns = [Column(title, overrides=tested.get(name, scales), dataset=name) for title, name in DATASETS.items()]
    notes = ["The test scales, and the schedules of the papers' data sets, are those of the authors' runs."]
    if dataset in SMALL:
        notes.append("The paper's network has a ResNet-50.")
    else:
        notes.append(
            "The paper starts from ImageNet's weights: --config.model.pretrained with --rows, for one backbone."
        )
    if dataset in (None, "cityscapes"):
        notes.append(
            "On Cityscapes, the runs train on train+val, as the authors' do. The labels of test are kept on a server, so there are no "
            "scores here: --mode=predict --format=cityscapes writes what it takes."
        )
    table = Table("mcibi_backbones", "MCIBI, Tables 6 to 9", "papers", rows, columns, note=" ".join(notes))
    return on(table, dataset)
