"""ZigZagNet (Lin et al., CVPR 2019), Table 1: context exchange, feature fusion and dense pathways."""

from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "voc2012") -> Table:
    def row(name, paper, *parts):
        # Without fusion there is only one pass, and `exchange` has no effect.
        fields = ("exchange", "fusion", "dense") if "fusion" in parts else ("fusion", "dense")
        switches = {f"model.context.{field}": field in parts for field in fields}
        if not parts:  # the encoder-decoder: neither region context nor gate
            switches |= {"model.context.region_context": "none", "model.context.context_norm": "none"}
        return Row(name, "zigzag", switches, (paper,))

    return Table(
        "zigzag_components",
        "ZigZagNet, Table 1",
        dataset,
        [
            row("none of the three", 82.5),
            row("no fusion", 83.6, "exchange", "dense"),
            row("no exchange", 84.2, "fusion", "dense"),
            row("no dense pathways", 84.9, "exchange", "fusion"),
            row("ZigZagNet", 86.0, "exchange", "fusion", "dense"),
        ],
    )
