"""H-ReNet (Yan et al., 2016), "Multi-layer Feature Combination": the normalisation of the three concatenated maps."""

from ctxseg.configs.tables.hrenet_variants import renet
from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "voc2012") -> Table:
    l2 = renet(dataset, "pool4", "pool5", "conv7", entering="l2")
    return Table(
        "hrenet_normalisation",
        "H-ReNet, Multi-layer Feature Combination",
        dataset,
        [
            Row("BN", "hrenet", renet(dataset, "pool4", "pool5", "conv7"), (71.1,)),
            *(
                Row(f"L2, λ = {scale}", "hrenet", l2 | {"model.context.l2_scale": float(scale)}, ("no improvement",))
                for scale in (100, 1000, 10000)
            ),
        ],
        note="The paper chooses λ on held-out images. It gives no figures for L2, only that there is no improvement.",
    )
