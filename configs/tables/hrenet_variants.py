"""H-ReNet (Yan et al., 2016), Table 4: the ReNet layers, normalisation, feature combination and DenseCRF."""

from configs.datasets import SMALL
from ctxseg.tables import Row, Table


def levels(dataset: str, *names: str) -> tuple[str, ...]:
    """Maps of VGG-16, finest first; on small data, those of the same depth of the small backbone."""
    small = {"pool4": "res3", "pool5": "res4", "conv7": "res5"}
    return tuple(small[name] for name in names) if dataset in SMALL else names


def steps(dataset: str, count: int) -> dict:
    """The paper's number of updates, the rate falling half way; small data has its own."""
    return {} if dataset in SMALL else {"train.steps": count, "optimizer.step_boundaries": (count // 2,)}


def get_table(dataset: str = "voc2012") -> Table:
    none = {"model.context.name": "none"} | steps(dataset, 12_000)
    norm = {"model.context.entering": "batch"}
    several = norm | {"model.context.levels": levels(dataset, "pool4", "pool5", "conv7")} | steps(dataset, 40_000)
    crf = {"eval.crf.iterations": 10}
    return Table(
        "hrenet_variants",
        "H-ReNet, Table 4",
        dataset,
        [
            Row("baseline FCN", "hrenet", none, (63.4,)),
            Row("ReNet", "hrenet", {}, (70.0,)),
            Row("ReNet, BN", "hrenet", norm, (70.4,)),
            Row("ReNet, BN, three levels", "hrenet", several, (71.1,)),
            Row("baseline FCN, DenseCRF", "hrenet", none | crf, (67.5,)),
            Row("ReNet, BN, DenseCRF", "hrenet", norm | crf, (71.9,)),
            Row("ReNet, BN, three levels, DenseCRF", "hrenet", several | crf, (72.6,)),
        ],
        note="The printed table leaves open which ticks row (f) has; it is read as BN and DenseCRF.",
    )
