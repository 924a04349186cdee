"""MSCI (Lin et al., ECCV 2018), Table 1: recurrent units, their cell states, and super-pixels."""

from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "voc2012") -> Table:
    # "The basic FCN" uses atrous convolution: none of its maps is coarser than stride 8.
    fcn = {"model.context.name": "none", "model.backbone.output_stride": 8}
    return Table(
        "msci_components",
        "MSCI, Table 1",
        dataset,
        [
            Row("no RNN", "msci", fcn, (77.8,)),
            Row("no cell states", "msci", {"model.context.cell_states": False}, (84.4,)),
            Row("no super-pixels", "msci", {"model.context.superpixels": False}, (84.3,)),
            Row("MSCI", "msci", {}, (85.1,)),
        ],
    )
