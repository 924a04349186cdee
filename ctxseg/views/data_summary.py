"""A picture of the contents of a data set."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ctxseg.data.summary import commonest
from ctxseg.views.style import INK, run_style


def draw(summary: dict, sizes: dict[str, np.ndarray], palette) -> Figure:
    """The frequencies of the classes of a data set, most frequent first, and the sizes of its images.

    Args:
        summary: see `summary.summarise`. The first split is drawn as bars in the classes' colours, the others as markers.
        sizes: {split: integer `[N,2]`, height and width of each image}.
        palette: `[K,3]`, in the order of the summary's classes.
    """
    splits, names = summary["splits"], commonest(summary)
    order = list(next(iter(splits.values()))["classes"])
    columns = math.ceil(len(names) / 60)
    rows = math.ceil(len(names) / columns)
    height = max(3.4, 1.1 + 0.17 * rows)
    figure = Figure(figsize=(4.2 * columns + 4, height), layout="constrained")
    *panels, last = figure.subplots(1, columns + 1, squeeze=False)[0]
    shares = {s: {n: c["share"] or 0 for n, c in values["classes"].items()} for s, values in splits.items()}
    positive = [100 * x for values in shares.values() for x in values.values() if x > 0]
    low = 10.0 ** math.floor(math.log10(min(positive, default=1) / 1.5))
    first, *others = splits
    for i, panel in enumerate(panels):
        panel_names = names[i * rows : (i + 1) * rows]
        # Set before the scale, which would otherwise look for limits, and warn if all bars are 0.
        panel.set(xlim=(low, 100))
        panel.set(xscale="log", ylim=(rows - 0.4, -0.6))
        colours = [np.array(palette[order.index(name)]) / 255 for name in panel_names]
        widths = [100 * shares[first][name] for name in panel_names]
        panel.barh(range(len(panel_names)), widths, color=colours, edgecolor=INK, linewidth=0.5)
        for y, width in enumerate(widths):
            if width == 0:
                panel.text(low * 1.1, y, f"none in {first}", fontsize=6, va="center", color=INK)
        for j, split in enumerate(others):
            points = [(100 * shares[split][n], y) for y, n in enumerate(panel_names) if shares[split][n] > 0]
            right, down = zip(*points, strict=True) if points else ((), ())
            marker = ("o", "D", "s", "^")[j % 4]
            panel.plot(right, down, marker, color="white", markeredgecolor="black", markersize=3.5, label=split)
        panel.set_yticks(range(len(panel_names)), panel_names, fontsize=7)
        panel.set_xlabel("% of objects" if "objects" in splits[first] else "% of labelled pixels")
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
    handles = []
    if others:
        bar = Patch(facecolor="#dddddd", edgecolor=INK, label=first)
        marks = panels[0].get_legend_handles_labels()[0]
        figure.legend(handles=[bar, *marks], fontsize=8, loc="outside lower left", ncols=len(splits), frameon=False)
    for i, (split, values) in enumerate(sizes.items()):
        unique, counts = np.unique(values, axis=0, return_counts=True)
        area = 12 + 150 * counts / max(len(values), 1)
        ignored = splits[split]["ignored"]
        labels = "no pixels" if ignored is None else f"{ignored:.1%} ignored"
        if "objects" in splits[split]:
            labels = f"{splits[split]['objects']} objects"
        label = f"{split}: {len(values)} images, {labels}"
        colour = run_style(i)[0]
        # The first split is filled and the others are rings, since splits often have the same sizes.
        last.scatter(*unique.T[::-1], s=area, edgecolors=colour, facecolors=colour if i == 0 else "none", alpha=0.7)
        handles.append(Patch(edgecolor=colour, facecolor=colour if i == 0 else "none", label=label))
    limit = 1.15 * max((int(values.max()) for values in sizes.values() if values.size), default=1)
    last.set(xlabel="width", ylabel="height", xlim=(0, limit), ylim=(0, limit))
    last.set_title(f"image sizes of {summary['data']}; larger marks are more frequent", fontsize=8)
    last.set_aspect("equal")
    figure.legend(handles=handles, fontsize=8, loc="outside lower right", frameon=False)
    return figure
