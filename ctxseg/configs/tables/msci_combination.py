"""MSCI (Lin et al., ECCV 2018), Table 2: other ways to combine features of several levels, alone and on top of its connections."""

from ctxseg.configs.datasets import SMALL
from ctxseg.studies.tables import Column, Row, Table, on

# {name: (context, output stride in the paper that introduced it, MSCI's figures on the two data sets)}
ROWS = {
    "none": ("none", 8, (77.8, 41.2)),
    "PSP": ("ppm", 8, (81.1, 43.6)),
    "encoder-decoder": ("encoder_decoder", 32, (81.4, 44.3)),
    "ASPP": ("aspp", 8, (82.2, 46.0)),
    "encoder-decoder + ASPP": ("deeplabv3plus", 16, (82.5, 47.4)),
}


def get_table(dataset: str | None = None) -> Table:
    small = dataset in SMALL

    def row(name, connected):
        context, stride, paper = ROWS[name]
        overrides = {"model.context.name": context, "model.backbone.output_stride": 8 if small else stride}
        if context in ("aspp", "deeplabv3plus"):
            large = (12, 24, 36) if stride == 8 else (6, 12, 18)
            overrides["model.context.dilations"] = (2, 4, 6) if small else large
        if connected:
            return Row(
                f"{name}, on the connections", "msci", overrides | {"model.connections.name": "msci"}, (None, None)
            )
        return Row(name, "msci", overrides, paper)

    rows = [row(name, False) for name in ROWS]
    rows += [row(name, True) for name in ROWS if name != "none"]
    table = Table(
        "msci_combination",
        "MSCI, Table 2",
        "papers",
        [*rows, Row("MSCI", "msci", {}, (85.1, 50.3))],
        [Column("VOC 2012 val", dataset="voc2012"), Column("PASCAL-Context val", dataset="pascal_context")],
        note="For the other models on MSCI's connections, the paper only says that they gain 0.4 to 1.2 points. "
        "Its ASPP with an encoder-decoder is DeepLabV3+.",
    )
    return on(table, dataset)
