"""ZigZagNet (Lin et al., CVPR 2019), Table 2: other ways to encode the context of regions."""

from ctxseg.configs.datasets import SMALL
from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "voc2012") -> Table:
    aspp = {"model.context.dilations": (2, 4, 6)} if dataset in SMALL else {}

    def row(name, context, paper, overrides):
        return Row(name, "zigzag", {"model.context.region_context": context} | overrides, (paper,))

    return Table(
        "zigzag_region_context",
        "ZigZagNet, Table 2",
        dataset,
        [
            row("global fully connected, zoom-out", "global_image", 82.7, {}),
            row("global fully connected, path aggregation", "global_subregion", 83.0, {}),
            row("large kernel", "gcn", 83.4, {}),
            row("PSP", "ppm", 84.1, {}),
            row("ASPP", "aspp", 84.7, aspp),
            row("sum of context maps", "rce", 85.2, {"model.context.combine": "sum"}),
            row("ZigZagNet", "rce", 86.0, {}),
        ],
    )
