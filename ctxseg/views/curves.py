"""Curves over training steps, of precision over recall, of accuracy over confidence, and by distance to a boundary."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ctxseg.views.style import INK, RUNS, distinct_colours, run_style


def training_curves(runs: list[list[dict]]) -> dict[str, Figure]:
    """Curves over training steps, one figure each, which a page can lay out.

    Args:
        runs: the lines of metrics.jsonl of each run, see `metrics_log.read_metrics`; drawn in the run's `run_style`.

    Returns:
        'loss' (with many lines, the running mean over a twentieth of them; for a single run also each value), 'learning rate',
        'evaluation mIoU' (for a single run also the IoU of groups of classes, if any) and 'evaluation mask AP'. Quantities that were not
        logged have no figure.
    """
    figures = {}
    for title, kind, field in (
        ("loss", "train", "loss"),
        ("learning rate", "train", "learning_rate"),
        ("evaluation mIoU", "eval", "mIoU"),
        ("evaluation mask AP", "eval", "mask_AP"),
    ):
        curves = {i: _series(metrics, kind, field) for i, metrics in enumerate(runs)}
        curves = {i: (steps, values) for i, (steps, values) in curves.items() if steps}
        if not curves:
            continue
        figures[title], axes = _figure(title)
        if kind == "eval" and len(runs) == 1:
            _group_curves(axes, runs[0])
        for i, (steps, values) in curves.items():
            if field == "loss" and len(steps) >= 40:
                if len(runs) == 1:
                    axes.plot(steps, values, color=run_style(i)[0], alpha=0.3, linewidth=0.8)
                values = running_mean(values, len(values) / 20)
            colour, dashes = run_style(i)
            marker = "o" if kind == "eval" else "." if len(steps) == 1 else None
            axes.plot(steps, values, color=colour, linestyle=(0, dashes), marker=marker, label="mean over classes")
        if title != "loss":
            axes.set_ylim(bottom=0)
        if kind == "eval" and len(axes.lines) > len(curves):
            axes.legend(fontsize="small", labelcolor=INK, framealpha=0)
    return figures


def _group_curves(axes, metrics):
    """Draws the IoU of each group of classes in the evaluations of a run."""
    groups = dict.fromkeys(name for entry in metrics for name in entry.get("group_iou") or {})
    for group, colour in zip(groups, distinct_colours(len(groups)), strict=True):
        points = _series(metrics, "eval", "group_iou", group)
        axes.plot(*points, color=colour, marker=".", linewidth=0.8, label=group)


def by_distance(limits: list[float], accuracies: list, pixels: list[float], errors: list[float]) -> dict[str, Figure]:
    """Accuracy by distance to the nearest boundary, and where the wrong pixels are.

    Args:
        limits: upper limits of all bins of distance but the last, which has none, in pixels.
        accuracies: share of the pixels of each bin that are correct; None for a bin without pixels.
        pixels: share of all pixels in each bin.
        errors: share of all wrong pixels in each bin.

    Returns:
        'accuracy', a bar for each bin, and 'share of pixels', two cumulative curves.
    """
    positions, names = range(len(accuracies)), [*(f"{limit:g}" for limit in limits), "∞"]
    below = "distance to a boundary of up to … pixels"
    bars, axes = _figure("accuracy", below)
    axes.bar(positions, [value or 0 for value in accuracies], color=run_style(0)[0])
    sums, lines = _figure("share of pixels", below)
    for shares, i, dashes, label in ((errors, 4, (), "wrong pixels"), (pixels, 0, (4, 1.5), "all pixels")):
        style = {"color": run_style(i)[0], "linestyle": (0, dashes), "marker": "o"}
        lines.plot(positions, np.cumsum(shares), label=label, **style)
    lines.legend(fontsize="small", labelcolor=INK, framealpha=0, loc="lower right")
    for panel in (axes, lines):
        panel.set(ylim=(0, 1.02))
        panel.set_xticks(positions, names)
    return {"accuracy": bars, "share of pixels": sums}


def precision_recall(runs: list[dict], colours: list[str]) -> dict[str, Figure]:
    """Precision over recall of masks and of boxes, thick at IoU 0.50 and thin at 0.75.

    Args:
        runs: `curves` of each run, see `evaluation.instances.evaluate`.
        colours: of the runs.

    Returns:
        {'masks': figure, 'boxes': figure}, without those that no run has.
    """
    figures = {}
    for kind, title in (("mask", "masks"), ("box", "boxes")):
        lines = [(curves.get(f"{kind}_AP50"), curves.get(f"{kind}_AP75")) for curves in runs]
        if not any(any(pair) for pair in lines):
            continue
        figures[title], axes = _figure(title, "recall")
        for pair, colour in zip(lines, colours, strict=True):
            for values, width in zip(pair, (2.2, 1.0), strict=True):
                if values:
                    axes.plot(np.linspace(0, 1, len(values)), values, color=colour, linewidth=width)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.set_ylabel("precision", color=INK)
    return figures


def reliability(runs: list[dict], colours: list[str]) -> Figure:
    """The reliability diagram: the accuracy of the pixels of each bin over their mean confidence. The larger a point, the more pixels.

    Args:
        runs: `reliability` of each run, see `evaluation.calibration.summary`.
        colours: of the runs.
    """
    figure, axes = _figure("reliability", "confidence")
    axes.plot([0, 1], [0, 1], color=INK, linestyle=(0, (4, 2)), linewidth=1)
    for run, colour in zip(runs, colours, strict=True):
        bins = [
            (c, a, n)
            for c, a, n in zip(run["confidence"], run["accuracy"], run["pixels"], strict=True)
            if c is not None and a is not None
        ]
        if bins:
            confidence, accuracy, pixels = zip(*bins, strict=True)
            axes.plot(confidence, accuracy, color=colour, linewidth=1.5)
            axes.scatter(confidence, accuracy, s=6 + 150 * np.array(pixels) / sum(pixels), color=colour, zorder=3)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    axes.set_ylabel("accuracy", color=INK)
    return figure


def range_test(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float | None
) -> Figure:
    """The losses of a learning-rate range test over the rate, which is on a logarithmic axis, and a line at the suggested rate."""
    figure, axes = _figure("learning-rate range test", "learning rate")
    axes.set_xscale("log")
    axes.plot(rates, losses, color=RUNS[0], alpha=0.3, linewidth=0.8, label="loss")
    axes.plot(rates, smoothed, color=RUNS[0], label="smoothed loss")
    if suggestion is not None:
        axes.axvline(suggestion, color=RUNS[4], linestyle="--", label=f"suggested: {suggestion:.2g}")
    # A diverged loss would flatten the rest of the curve.
    first, lowest = smoothed[0], min(smoothed)
    axes.set_ylim(max(0.0, lowest - 0.1 * (first - lowest)), max(first + 0.5 * (first - lowest), 1.05 * first))
    axes.set_ylabel("loss", color=INK)
    axes.legend(fontsize="small", labelcolor=INK, framealpha=0)
    return figure


def _figure(title, below="step"):
    """A figure with one plot, in grey on a transparent background."""
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.set_title(title, color=INK)
    axes.set_xlabel(below, color=INK)
    axes.grid(color=INK, alpha=0.2)
    return figure, axes


def _series(metrics, kind, *path):
    """Steps and values at `path`, such as ("group_iou", "scale"), in the lines of `kind` that have it."""
    steps, values = [], []
    for entry in metrics:
        value = entry if entry["kind"] == kind else None
        for name in path:
            value = (value or {}).get(name)
        if value is not None:
            steps.append(entry["step"])
            values.append(value)
    return steps, values


def running_mean(values: Sequence[float], length: float) -> list[float]:
    """Exponential moving average over about `length` values, with bias correction."""
    decay, total, weight, means = 1 - 1 / max(length, 1), 0.0, 0.0, []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        means.append(total / weight)
    return means
