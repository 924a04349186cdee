"""H-ReNet (Yan et al., 2016), Table 5: the maps that the ReNet layers read."""

from ctxseg.configs.tables.hrenet_variants import renet
from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "voc2012") -> Table:
    def row(paper, *levels):
        return Row(", ".join(reversed(levels)), "hrenet", renet(dataset, *levels), (paper,))

    return Table(
        "hrenet_levels",
        "H-ReNet, Table 5",
        dataset,
        [
            row(59.2, "pool4"),
            row(68.3, "pool5"),
            row(70.4, "conv7"),
            row(70.9, "pool5", "conv7"),
            row(71.1, "pool4", "pool5", "conv7"),
        ],
    )
