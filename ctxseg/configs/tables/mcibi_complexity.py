"""MCIBI (Jin et al., ICCV 2021), Table 3: the cost of context modules on an input of 1×2048×128×128."""

from ctxseg.studies.tables import Column, Row, Table

PAPER = {  # parameters in millions, multiply-adds in billions, milliseconds on a V100
    "ASPP": (42.21, 674.47, 101.44),
    "PPM": (23.07, 309.45, 29.57),
    "CCNet": (23.92, 397.38, 56.90),
    "DANet": (23.92, 392.02, 62.64),
    "ANN": (20.32, 335.24, 49.66),
    "DNL": (24.12, 395.25, 68.62),
    "APCNet": (30.46, 413.12, 54.20),
    "DCA": (14.82, 242.80, 47.64),
    "ASPP + DCA": (45.63, 730.56, 125.03),
}


def get_table(dataset: str = "ade20k") -> Table:
    scores = ("parameters, M", "multiply-adds, G", "milliseconds")
    return Table(
        "mcibi_complexity",
        "MCIBI, Table 3",
        dataset,
        [Row(name, "fcn", {"complexity.contexts": (name.lower(),)}, figures) for name, figures in PAPER.items()],
        [Column(score, score) for score in scores],
        mode="complexity",
        note="DCA is measured with as many classes as the data set has. In the paper, ASPP + DCA costs less than its two parts together.",
    )
