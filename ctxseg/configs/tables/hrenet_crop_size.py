"""H-ReNet (Yan et al., 2016), "Training Image Size": the size of the training crops that the ReNet layers read."""

from ctxseg.configs.datasets import SMALL
from ctxseg.configs.tables.hrenet_variants import baseline, renet
from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "voc2012") -> Table:
    networks = (baseline(dataset), renet(dataset, "pool4", "pool5", "conv7"))
    crops = [(64, 64), (96, 96), (128, 128)] if dataset in SMALL else [(256, 320), (320, 400), (400, 500)]
    figures = {"baseline FCN": (63.6, 63.4, 63.4), "H-ReNet": (67.3, 69.3, 71.1)}
    return Table(
        "hrenet_crop_size",
        "H-ReNet, Training Image Size",
        dataset,
        [
            Row(f"{name}, {crop[0]}×{crop[1]}", "hrenet", overrides | {"data.crop": crop}, (figure,))
            for (name, row), overrides in zip(figures.items(), networks, strict=True)
            for crop, figure in zip(crops, row, strict=True)
        ],
        note="71.1, at the largest crop, is the paper's figure with three levels; here all crop sizes use three levels.",
    )
