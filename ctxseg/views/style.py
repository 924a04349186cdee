"""Colours of figures and pages."""

import matplotlib

# Axes and text of curves, which have a transparent background: readable on white and on black.
INK = "#808080"
# Colours of runs, distinguishable with any colour vision, on white and on black (Okabe & Ito 2008, without black and yellow).
RUNS = ("#3b82f6", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")


def run_style(i: int) -> tuple[str, tuple]:
    """Colour and dashes (lengths on and off, in line widths; () is solid) of the i-th run; the first eighteen differ."""
    return RUNS[i % len(RUNS)], ((), (4, 1.5), (1, 1.5))[i // len(RUNS) % 3]


def distinct_colours(count):
    """`count` distinct colours; none of them is the first of `RUNS` unless there are more than nine."""
    return [matplotlib.colormaps["tab10"]((i + 1) % 10) for i in range(count)]
