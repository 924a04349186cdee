"""Pictures of a run: training curves, label maps in their colours, and samples side by side.

Drawn without pyplot, hence without global state or a display.

    python -m ctxseg.figures runs/zigzag-scenes picture.png      the first samples of an evaluated run
"""

import json
import math
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

INK = "#808080"  # axes and text: readable on white and on black, for the figures' own background is transparent
BLUE = "#3b82f6"


def training_curves(metrics: list[dict]) -> dict[str, Figure]:
    """Curves over training steps, a figure each, so that a page can put them side by side or below one another.

    Args:
        metrics: lines of metrics.jsonl, see `logs.read_metrics`.

    Returns:
        'loss' (each logged value, and their running mean over a twentieth of the lines), 'learning rate' and
        'evaluation mIoU' (with the groups' IoU, if any); without those of which nothing was logged.
    """
    figures = {}
    steps, losses = _series(metrics, "train", "loss")
    if steps:
        figures["loss"], axes = _figure("loss")
        if len(steps) < 40:
            axes.plot(steps, losses, color=BLUE, marker="." if len(steps) == 1 else None)
        else:
            axes.plot(steps, losses, color=BLUE, alpha=0.3, linewidth=0.8)
            axes.plot(steps, _running_mean(losses, len(losses) / 20), color=BLUE)

    steps, rates = _series(metrics, "train", "learning_rate")
    if steps:
        figures["learning rate"], axes = _figure("learning rate")
        axes.plot(steps, rates, color=BLUE, marker="." if len(steps) == 1 else None)
        axes.set_ylim(bottom=0)

    steps, scores = _series(metrics, "eval", "mIoU")
    if steps:
        figures["evaluation mIoU"], axes = _figure("evaluation mIoU")
        groups = dict.fromkeys(name for entry in metrics for name in entry.get("group_iou") or {})
        for group, colour in zip(groups, _colours(len(groups)), strict=True):
            points = _series(metrics, "eval", "group_iou", group)
            axes.plot(*points, color=colour, marker=".", linewidth=0.8, label=group)
        axes.plot(steps, scores, color=BLUE, marker="o", linewidth=2, label="mean over classes")
        if groups:
            axes.legend(fontsize="small", labelcolor=INK, framealpha=0)
        axes.set_ylim(0, None)
    return figures


def class_groups(results: dict) -> dict[str, list[str]]:
    """{group: its classes}, then the classes of no group as '' (all of them, where the data set has no groups)."""
    groups = dict(results.get("groups") or {})
    grouped = {name for members in groups.values() for name in members}
    rest = [name for name in results["per_class_iou"] if name not in grouped]
    return groups | ({"": rest} if rest else {})


def colourise(label: np.ndarray, palette) -> np.ndarray:
    """A label map in its data set's colours.

    Args:
        label: integer `[H,W]`; ids outside [0, K), 255 among them, are drawn as grey and black stripes.
        palette: `[K,3]`, RGB in 0..255.

    Returns:
        uint8 `[H,W,3]`.
    """
    label, palette = np.asarray(label).astype(np.int64), np.asarray(palette, np.uint8)
    y, x = np.indices(label.shape, sparse=True)
    stripes = np.where((x + y) // 4 % 2, 128, 0).astype(np.uint8)[..., None]
    known = (label >= 0) & (label < len(palette))
    return np.where(known[..., None], palette[np.where(known, label, 0)], stripes)


def prediction_grid(samples, palette, class_names=None, width: int = 256, gap: int = 4) -> np.ndarray:
    """A row for each sample: image, truth, prediction.

    Args:
        samples: (image uint8 `[h,w,3]`, label integer `[h,w]`, prediction integer `[h,w]`), of any sizes.
        palette: `[K,3]`, see `colourise`.
        class_names: K names for a legend below; None for no legend.
        width: pixels that each picture is scaled to (labels by nearest neighbour), its aspect kept.
        gap: grey pixels between pictures.

    Returns:
        uint8 `[H, 3·width + 2·gap, 3]`.
    """
    grey = 128
    rows = []
    for image, label, prediction in samples:
        height = max(1, round(width * image.shape[0] / image.shape[1]))
        pictures = [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))]
        pictures += [colourise(_nearest(ids, height, width), palette) for ids in (label, prediction)]
        space = np.full((height, gap, 3), grey, np.uint8)
        rows += [np.concatenate([pictures[0], space, pictures[1], space, pictures[2]], axis=1)]
        rows += [np.full((gap, 3 * width + 2 * gap, 3), grey, np.uint8)]
    if class_names is not None:
        return np.concatenate([*rows, _legend(palette, class_names, 3 * width + 2 * gap)])
    return np.concatenate(rows[:-1])


def _nearest(ids, height, width):
    """Integer `[h,w]` → `[height,width]`, nearest neighbour with half-pixel centres."""
    y = ((np.arange(height) + 0.5) * ids.shape[0] / height).astype(int)
    x = ((np.arange(width) + 0.5) * ids.shape[1] / width).astype(int)
    return np.asarray(ids)[y[:, None], x]


def _legend(palette, class_names, width, size=16):
    """Swatches and names in as many columns as fit, black on white: uint8 `[H,width,3]`."""
    font = ImageFont.load_default(size)
    cell = max(font.getlength(name) for name in class_names) + 3 * size
    columns = max(1, int(width // cell))
    picture = Image.new("RGB", (width, math.ceil(len(class_names) / columns) * 2 * size), "white")
    draw = ImageDraw.Draw(picture)
    for i, (name, colour) in enumerate(zip(class_names, palette, strict=True)):
        x, y = size // 2 + i % columns * width // columns, i // columns * 2 * size + size // 2
        draw.rectangle([x, y, x + size, y + size], fill=tuple(colour), outline="grey")
        draw.text((x + 1.5 * size, y + size / 2), name, fill="black", font=font, anchor="lm")
    return np.asarray(picture)


def _figure(title):
    """A figure of one plot over steps, in grey on nothing."""
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.set_title(title, color=INK)
    axes.set_xlabel("step", color=INK)
    axes.grid(color=INK, alpha=0.2)
    return figure, axes


def _series(metrics, kind, *path):
    """Steps and values of what `path`, as ("group_iou", "scale"), leads to in the lines of `kind` that have it."""
    steps, values = [], []
    for entry in metrics:
        value = entry if entry["kind"] == kind else None
        for name in path:
            value = (value or {}).get(name)
        if value is not None:
            steps.append(entry["step"])
            values.append(value)
    return steps, values


def _running_mean(values, length):
    """Exponential mean with a memory of `length` values, from the first value on without bias."""
    decay, total, weight, means = 1 - 1 / max(length, 1), 0.0, 0.0, []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        means.append(total / weight)
    return means


def _colours(count):
    """`count` distinct colours; none of them is BLUE unless there are more than nine."""
    return [matplotlib.colormaps["tab10"]((i + 1) % 10) for i in range(count)]


def run_grid(workdir, count: int = 3) -> np.ndarray:
    """`prediction_grid` of the first `count` samples of an evaluated run, with the legend of classes."""
    workdir = Path(workdir)
    results = json.loads((workdir / "results.json").read_text())
    with np.load(workdir / "samples.npz") as samples:
        rows = [
            [samples[f"{key}_{i}"] for key in ("image", "label", "prediction")]
            for i in range(min(count, len(samples["names"])))
        ]
    return prediction_grid(rows, results["palette"], results["class_names"])


if __name__ == "__main__":
    Image.fromarray(run_grid(sys.argv[1])).quantize(128).save(sys.argv[2], optimize=True)
