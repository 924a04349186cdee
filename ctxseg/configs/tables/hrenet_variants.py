"""H-ReNet (Yan et al., 2016), Table 4: the ReNet layers, normalisation, feature combination and DenseCRF."""

from ctxseg.configs.datasets import SMALL
from ctxseg.studies.tables import Row, Table


def baseline(dataset: str) -> dict:
    """Overrides that reduce H-ReNet to its baseline FCN."""
    return {"model.context.name": "none"} | _steps(dataset, 12_000)


def renet(dataset: str, *levels: str, entering: str = "batch") -> dict:
    """Overrides of H-ReNet: the maps that its ReNet layers read, by the paper's names, and how these are normalised.

    On small data sets, these are the maps at the same depth of the small backbone.
    """
    small = {"pool4": "res3", "pool5": "res4", "conv7": "res5"}
    names = tuple(small[name] for name in levels) if dataset in SMALL else levels
    overrides = {"model.context.levels": names, "model.context.entering": entering}
    return overrides | _steps(dataset, 40_000 if len(levels) > 1 else 30_000)


def _steps(dataset, count):
    """The paper's number of updates; the learning rate drops half way. Small data sets keep their own."""
    return {} if dataset in SMALL else {"train.steps": count, "optimizer.step_boundaries": (count // 2,)}


def get_table(dataset: str = "voc2012") -> Table:
    fcn, one_level = baseline(dataset), renet(dataset, "conv7")
    three_levels = renet(dataset, "pool4", "pool5", "conv7")
    crf = {"eval.crf.iterations": 2}
    return Table(
        "hrenet_variants",
        "H-ReNet, Table 4",
        dataset,
        [
            Row("baseline FCN", "hrenet", fcn, (63.4,)),
            Row("ReNet", "hrenet", renet(dataset, "conv7", entering="none"), (70.0,)),
            Row("ReNet, BN", "hrenet", one_level, (70.4,)),
            Row("ReNet, BN, three levels", "hrenet", three_levels, (71.1,)),
            Row("baseline FCN, DenseCRF", "hrenet", fcn | crf, (67.5,)),
            Row("ReNet, BN, DenseCRF", "hrenet", one_level | crf, (71.9,)),
            Row("ReNet, BN, three levels, DenseCRF", "hrenet", three_levels | crf, (72.6,)),
        ],
        note="The ticks of row (f) are unclear in the printed table; it is read as BN and DenseCRF. The paper gives the number of CRF "
        "iterations only for 72.6: 2 (Table 6). The two other rows use the same number.",
    )
