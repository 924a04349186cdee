"""H-ReNet (Yan et al., 2016), Table 5: the maps that the ReNet layers read."""

from configs.tables.hrenet_variants import levels, steps
from ctxseg.tables import Row, Table


def get_table(dataset: str = "voc2012") -> Table:
    def row(paper, *names):
        overrides = {"model.context.entering": "batch", "model.context.levels": levels(dataset, *names)}
        more = steps(dataset, 40_000) if len(names) > 1 else {}
        return Row(", ".join(reversed(names)), "hrenet", overrides | more, (paper,))

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
