"""H-ReNet (Yan et al., 2016), §4.2 in words: "Skipping layers conv1 and conv2 during backpropagation has negligible impact".

python main.py --mode=sweep --config=configs/tables/hrenet_frozen.py --config.model.pretrained=vgg16.pth
"""

from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "voc2012") -> Table:
    return Table(
        "hrenet_frozen",
        "H-ReNet, §4.2",
        dataset,
        [
            Row("conv1 and conv2 frozen", "hrenet", {"model.frozen": ("backbone/conv1", "backbone/conv2")}),
            Row("all layers trained", "hrenet", {"model.frozen": ()}),
        ],
        note="The paper gives no figures. Both rows need pretrained weights: --config.model.pretrained.",
    )
