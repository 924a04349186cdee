"""H-ReNet (Yan et al., 2016), "LSTM v.s. IRNN": the cell of the ReNet layers, at the same number of parameters."""

from ctxseg.configs.datasets import SMALL
from ctxseg.configs.tables.hrenet_variants import renet
from ctxseg.studies.tables import Row, Table


def irnn_units(inputs: int, units: int) -> int:
    """Units that give a group of IRNNs on `inputs` channels about as many parameters as a group of LSTMs with `units`."""

    def parameters(gates, d):
        # Both directions of the vertical layer, then of the horizontal layer, whose input has 2d channels.
        return 2 * gates * d * (inputs + d + 1) + 2 * gates * d * (2 * d + d + 1)

    return min(range(units, 4 * units), key=lambda d: abs(parameters(1, d) - parameters(4, units)))


def get_table(dataset: str = "voc2012") -> Table:
    lstm = renet(dataset, "conv7")
    units = irnn_units(144, 48) if dataset in SMALL else irnn_units(1024, 120)
    irnn = {"model.context.cell": "irnn", "model.context.units": (units,)}
    return Table(
        "hrenet_cell",
        "H-ReNet, LSTM v.s. IRNN",
        dataset,
        [
            Row("LSTM", "hrenet", lstm, (70.4,)),
            Row("IRNN", "hrenet", lstm | irnn, (67.2,)),
        ],
    )
