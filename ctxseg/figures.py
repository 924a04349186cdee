"""Pictures of a run: training curves, label maps in their colours, samples side by side, and what a network's maps hold.

Drawn from arrays, without pyplot, hence without global state or a display. `pictures.py` gets the arrays out of a run.
"""

import math

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

INK = "#808080"  # axes and text of curves: readable on white and on black, for their own background is transparent
# Colours of runs, told apart with any colour vision, on white and on black (Okabe & Ito 2008, without black and yellow).
RUNS = ("#3b82f6", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
PANEL = 2.1  # inches that a picture in a figure is wide
WRITTEN = 24  # classes up to which a matrix has its numbers written in


def training_curves(runs: list[list[dict]]) -> dict[str, Figure]:
    """Curves over training steps, a figure each, so that a page can put them side by side or below one another.

    Args:
        runs: of each run, lines of metrics.jsonl, see `logs.read_metrics`; drawn in the run's `run_style`.

    Returns:
        'loss' (their running mean over a twentieth of the lines, where these are many; of a single run also each value),
        'learning rate' and 'evaluation mIoU' (of a single run with the groups' IoU, if any); without those of which nothing
        was logged.
    """
    figures = {}
    for title, kind, field in (
        ("loss", "train", "loss"),
        ("learning rate", "train", "learning_rate"),
        ("evaluation mIoU", "eval", "mIoU"),
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
                values = _running_mean(values, len(values) / 20)
            colour, dashes = run_style(i)
            marker = "o" if kind == "eval" else "." if len(steps) == 1 else None
            axes.plot(steps, values, color=colour, linestyle=(0, dashes), marker=marker, label="mean over classes")
        if title != "loss":
            axes.set_ylim(bottom=0)
        if kind == "eval" and len(axes.lines) > len(curves):
            axes.legend(fontsize="small", labelcolor=INK, framealpha=0)
    return figures


def _group_curves(axes, metrics):
    """The IoU of each group of classes in the evaluations of a run."""
    groups = dict.fromkeys(name for entry in metrics for name in entry.get("group_iou") or {})
    for group, colour in zip(groups, _colours(len(groups)), strict=True):
        points = _series(metrics, "eval", "group_iou", group)
        axes.plot(*points, color=colour, marker=".", linewidth=0.8, label=group)


def run_style(i: int) -> tuple[str, tuple]:
    """Colour and dashes (lengths on and off, in line widths; () is solid) of the i-th of several runs: eighteen differ."""
    return RUNS[i % len(RUNS)], ((), (4, 1.5), (1, 1.5))[i // len(RUNS) % 3]


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


def prediction_grid(samples, palette, class_names=None, width: int = 256, gap: int = 4, headings=None) -> np.ndarray:
    """A row for each sample: image, truth, prediction, and other networks' predictions, if any.

    Args:
        samples: (image uint8 `[h,w,3]`, label integer `[h,w]`, prediction integer `[h,w]`, …), of any sizes, all as many.
        palette: `[K,3]`, see `colourise`.
        class_names: K names for a legend below; None for no legend.
        width: pixels that each picture is scaled to (labels by nearest neighbour), its aspect kept.
        gap: grey pixels between pictures.
        headings: a line above each column; None for none.

    Returns:
        uint8 `[H, n·width + (n − 1)·gap, 3]`, for n columns.
    """
    grey = 128
    total = len(samples[0]) * (width + gap) - gap
    rows = [] if headings is None else [_headings(headings, width, gap)]
    for image, *labels in samples:
        height = max(1, round(width * image.shape[0] / image.shape[1]))
        row = [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))]
        for ids in labels:
            row += [np.full((height, gap, 3), grey, np.uint8), colourise(_nearest(ids, height, width), palette)]
        rows += [np.concatenate(row, axis=1), np.full((gap, total, 3), grey, np.uint8)]
    if class_names is not None:
        return np.concatenate([*rows, _legend(palette, class_names, total)])
    return np.concatenate(rows[:-1])


def _headings(names, width, gap, size=16):
    """Names in the middle of columns, black on white, as small as the longest of them needs: uint8 `[2·size,·,3]`."""
    picture = Image.new("RGB", (len(names) * (width + gap) - gap, 2 * size), "white")
    longest = max(ImageFont.load_default(size).getlength(name) for name in names)
    font = ImageFont.load_default(min(size, size * width / max(longest, 1)))
    for i, name in enumerate(names):
        ImageDraw.Draw(picture).text((i * (width + gap) + width / 2, size), name, fill="black", font=font, anchor="mm")
    return np.asarray(picture)


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
    """`count` distinct colours; none of them is the first of `RUNS` unless there are more than nine."""
    return [matplotlib.colormaps["tab10"]((i + 1) % 10) for i in range(count)]


def overlay(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """`colours` float `[H,W,3]` in [0, 1], with the grey values of `image` uint8 `[H,W,3]` showing through: 0.7 and 0.3 of them."""
    grey = image.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    return 0.3 * grey[..., None] + 0.7 * colours


def attention_weights(samples, scales, palette, class_names) -> Figure:
    """A row for each sample: image, truth, prediction, and over the image what each scale weighs.

    Args:
        samples: (image uint8 `[H,W,3]`, label `[H,W]`, prediction `[H,W]`, weights `[H,W,S]` in [0, 1]).
        scales: S factors.
        palette: `[K,3]`.
        class_names: K names.
    """
    figure, rest = _sample_rows(samples, [f"weight of scale {s:g}" for s in scales], palette, class_names)
    for axes, (image, *_, weights) in zip(rest, samples, strict=True):
        for i, panel in enumerate(axes):
            panel.imshow(overlay(image, _heat(weights[..., i])))
    _colour_bar(figure, rest, "weight")
    return figure


def scale_choice(samples, scales, palette, class_names) -> Figure:
    """A row for each sample: image, truth, prediction, and over the image in a colour a scale, whose score won.

    Args:
        samples: (image uint8 `[H,W,3]`, label `[H,W]`, prediction `[H,W]`, index `[H,W]` in [0, S)).
        scales: S factors.
        palette: `[K,3]`.
        class_names: K names.
    """
    figure, rest = _sample_rows(samples, ["scale whose score won"], palette, class_names)
    colours = np.array([to_rgb(c) for c in _colours(len(scales))])
    for axes, (image, *_, index) in zip(rest, samples, strict=True):
        axes[0].imshow(overlay(image, colours[index]))
        shares = [f"scale {s:g}: {np.mean(index == i):.0%}" for i, s in enumerate(scales)]
        handles = [Patch(color=colours[i], label=share) for i, share in enumerate(shares)]
        axes[0].legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return figure


def class_distribution(samples, palette, class_names, shown: int = 4) -> Figure:
    """A row for each sample: image, truth, prediction, the most probable class of W, and the probabilities of the commonest classes.

    Args:
        samples: (image uint8 `[H,W,3]`, label `[H,W]`, prediction `[H,W]`, probabilities `[H,W,K]`): W of MCIBI, each pixel's
            distribution over the classes of the memory.
        palette: `[K,3]`.
        class_names: K names.
        shown: how many classes' probabilities, those with most of the image's.
    """
    shown = min(shown, len(class_names))
    figure, rest = _sample_rows(samples, ["most probable in W"] + [""] * shown, palette, class_names)
    for axes, (image, *_, probabilities) in zip(rest, samples, strict=True):
        axes[0].imshow(colourise(probabilities.argmax(-1), palette))
        commonest = np.argsort(-probabilities.mean((0, 1)), kind="stable")[:shown]
        for panel, k in zip(axes[1:], commonest, strict=True):
            panel.imshow(overlay(image, _heat(probabilities[..., k])))
            panel.set_title(class_names[k], fontsize=8)
    _colour_bar(figure, rest, "probability")
    return figure


def superpixels(samples) -> Figure:
    """A row for each sample: the boundaries of its regions, and the graph of those that touch, drawn between centroids.

    Args:
        samples: (image uint8 `[H,W,3]`, regions integer `[H,W]`, -1: none, touch `[N,N]`, non-zero where two regions touch).
    """
    figure, axes = _panels(len(samples), 2, _aspect(samples), 2 * PANEL)
    for (left, right), (image, regions, touch) in zip(axes, samples, strict=True):
        factor = max(1, 512 // regions.shape[1])  # so that a boundary is thinner than a pixel of the image
        large, ids = (np.repeat(np.repeat(x, factor, 0), factor, 1) for x in (image, regions))
        boundary = find_boundaries(ids, mode="inner", background=-1)
        left.imshow(np.where(boundary[..., None], np.array([255, 230, 0], np.uint8), large))
        left.set_title(f"{len(np.unique(regions[regions >= 0]))} super-pixels", fontsize=8)
        edges, points = region_graph(regions, touch)
        right.imshow(overlay(image, np.ones((*regions.shape, 3))))
        right.add_collection(LineCollection([[points[i], points[j]] for i, j in edges], colors=RUNS[0], linewidths=0.8))
        present = np.array(sorted(points.values())).reshape(-1, 2)
        right.plot(present[:, 0], present[:, 1], ".", color="black", markersize=3)
        right.set_title(f"{len(edges)} pairs that touch", fontsize=8)
    return figure


def region_graph(regions, touch):
    """The pairs (i, j), i < j, of `touch` `[N,N]`, and {region: its centroid (x, y)} of those in `regions` `[H,W]` (-1: none)."""
    y, x = np.indices(regions.shape)
    inside = regions >= 0
    ids = regions[inside]
    count = np.bincount(ids, minlength=len(touch))
    cx, cy = (np.bincount(ids, v[inside], len(touch)) / np.maximum(count, 1) for v in (x, y))
    points = {int(i): (float(cx[i]), float(cy[i])) for i in np.flatnonzero(count)}
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(np.asarray(touch), 1))], points


def feature_maps(image, rows: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Maps of a network in rows beside the image.

    Args:
        image: uint8 `[H,W,3]`.
        rows: {name of a row: {name of a map: the map}}. One of `[h,w,C]` is drawn by `principal_colours`, one of `[h,w]` in greys
            from its least to its greatest value.
    """
    columns = 1 + max(map(len, rows.values()))
    figure, axes = _panels(len(rows), columns, image.shape[0] / image.shape[1])
    axes[0, 0].imshow(image)
    axes[0, 0].set_title("image", fontsize=8)
    for panels, (row, maps) in zip(axes, rows.items(), strict=True):
        for i, (panel, (name, x)) in enumerate(zip(panels[1:], maps.items(), strict=False)):
            x = np.asarray(x, np.float64)
            size = f"{x.shape[0]}×{x.shape[1]}"
            if x.ndim == 3:
                colours, share = principal_colours(x)
                panel.imshow(colours)
                size += f", {share:.0%} of variance"
            else:
                panel.imshow(x, cmap="gray")
            panel.set_title(f"{row}\n{name}\n{size}" if i == 0 else f"{name}\n{size}", fontsize=7)
    figure.supxlabel("in colour: three principal components, and their share of the variance", fontsize=8)
    return figure


def principal_colours(x: np.ndarray):
    """The first three principal components over positions as red, green and blue, on one scale, grey where the map has its mean.

    Args:
        x: `[h,w,C]`.

    Returns:
        float64 `[h,w,3]` in [0, 1]; and the share of the variance that the three have, 0 of a constant map.
    """
    h, w, channels = x.shape
    centred = x.reshape(-1, channels) - x.mean((0, 1))
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:3]
    axes = (
        axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    )  # a component's sign is arbitrary
    parts = np.zeros((h * w, 3))
    parts[:, : len(axes)] = centred @ axes.T
    variance = (singular**2).sum()
    scale = np.percentile(np.abs(parts[:, 0]), 98)
    colours = 0.5 + 0.5 * (parts / scale if scale > 0 else parts * 0)
    return colours.clip(0, 1).reshape(h, w, 3), float((singular[:3] ** 2).sum() / variance) if variance > 0 else 0.0


def confusion_matrix(matrix, class_names) -> Figure:
    """Percent of each true class's pixels (a row) by predicted class (a column); classes that the truth lacks have an empty row.

    Args:
        matrix: `[K,K]` counts, rows = truth.
        class_names: K names.
    """
    matrix = np.asarray(matrix, np.float64)
    total = matrix.sum(1, keepdims=True)
    percent = np.where(total > 0, 100 * matrix / np.maximum(total, 1), np.nan)
    side = _matrix_side(len(class_names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    _matrix(axes, percent, class_names, (0, 100), "{:.0f}", "% of the true class's pixels", hide_below=0.5)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def memory(similarities: dict[str, np.ndarray], embeddings: dict, palette, class_names) -> Figure:
    """MCIBI's memory: how alike its entries are, and pixels' representations in the plane, of networks side by side.

    Args:
        similarities: {network: `[K,K]`, cosine between entries, NaN for a class never seen}.
        embeddings: {network: (points `[P,2]`, label `[P]` in [0, K), line below the name)}.
        palette: `[K,3]`.
        class_names: K names.
    """
    side = max(_matrix_side(len(class_names)), 2 * PANEL)
    panels = len(similarities) + len(embeddings)
    figure = Figure(figsize=(panels * side, side + 1.6), layout="compressed")
    axes = iter(np.ravel(figure.subplots(1, panels)))
    for name, similarity in similarities.items():
        panel = next(axes)
        low = min(0.0, np.nanmin(similarity)) if np.isfinite(similarity).any() else 0.0
        _matrix(panel, similarity, class_names, (low, 1), "{:.2f}", "cosine")
        panel.set_title(f"{name}\nsimilarity of the memory's entries", fontsize=9)
    present = sorted({int(k) for _, label, _ in embeddings.values() for k in np.unique(label)})
    for name, (points, label, line) in embeddings.items():
        panel = next(axes)
        colours = np.asarray(palette)[label] / 255
        panel.scatter(points[:, 0], points[:, 1], s=14, c=colours, edgecolors="black", linewidths=0.2)
        panel.set(xticks=[], yticks=[])
        panel.set_box_aspect(1)
        panel.set_title(f"{name}\n{line}", fontsize=9)
    _class_legend(figure, present, palette, class_names)
    return figure


def data_summary(summary: dict, sizes: dict[str, np.ndarray], palette) -> Figure:
    """How often the classes of a data set occur, commonest first, and the sizes of its images.

    Args:
        summary: see `prepare.summarise`. Bars are the first split, in the classes' colours; the others are marks.
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
        shown = names[i * rows : (i + 1) * rows]
        # Before the scale, which would look for limits itself, and warn where all bars are 0.
        panel.set(xlim=(low, 100))
        panel.set(xscale="log", ylim=(rows - 0.4, -0.6))
        colours = [np.array(palette[order.index(name)]) / 255 for name in shown]
        widths = [100 * shares[first][name] for name in shown]
        panel.barh(range(len(shown)), widths, color=colours, edgecolor=INK, linewidth=0.5)
        for y, width in enumerate(widths):
            if width == 0:
                panel.text(low * 1.1, y, f"none in {first}", fontsize=6, va="center", color=INK)
        for j, split in enumerate(others):
            points = [(100 * shares[split][n], y) for y, n in enumerate(shown) if shares[split][n] > 0]
            x, y = zip(*points, strict=True) if points else ((), ())
            marker = ("o", "D", "s", "^")[j % 4]
            panel.plot(x, y, marker, color="white", markeredgecolor="black", markersize=3.5, label=split)
        panel.set_yticks(range(len(shown)), shown, fontsize=7)
        panel.set_xlabel("% of labelled pixels")
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
    handles = []
    if others:
        bar = Patch(facecolor="#dddddd", edgecolor=INK, label=first)
        marks = panels[0].get_legend_handles_labels()[0]
        figure.legend(handles=[bar, *marks], fontsize=8, loc="outside lower left", ncols=len(splits), frameon=False)
    for i, (split, values) in enumerate(sizes.items()):
        different, times = np.unique(values, axis=0, return_counts=True)
        area = 12 + 150 * times / max(len(values), 1)
        ignored = splits[split]["ignored"]
        label = f"{split}: {len(values)} images, " + ("no pixels" if ignored is None else f"{ignored:.1%} ignored")
        colour = run_style(i)[0]
        # The first filled, the others as rings: sizes are often the same in all splits.
        last.scatter(*different.T[::-1], s=area, edgecolors=colour, facecolors=colour if i == 0 else "none", alpha=0.7)
        handles.append(Patch(edgecolor=colour, facecolor=colour if i == 0 else "none", label=label))
    limit = 1.15 * max((int(values.max()) for values in sizes.values() if values.size), default=1)
    last.set(xlabel="width", ylabel="height", xlim=(0, limit), ylim=(0, limit))
    last.set_title(f"sizes of {summary['data']}'s images, larger where more have one", fontsize=8)
    last.set_aspect("equal")
    figure.legend(handles=handles, fontsize=8, loc="outside lower right", frameon=False)
    return figure


def commonest(summary: dict) -> list[str]:
    """The classes of a data set's summary, see `prepare.summarise`, by their pixels in all splits, most first."""
    splits = list(summary["splits"].values())
    names = list(splits[0]["classes"])
    return sorted(names, key=lambda name: -sum(s["classes"][name]["pixels"] for s in splits))


def cosine_similarity(bank, seen) -> np.ndarray:
    """Cosine between every two rows of `bank` `[K,C]`, NaN with one that `seen` `[K]` leaves out: float64 `[K,K]`."""
    bank = np.asarray(bank, np.float64)
    unit = bank / np.maximum(np.linalg.norm(bank, axis=1, keepdims=True), 1e-12)
    seen = np.asarray(seen, bool)
    return np.where(seen[:, None] & seen, unit @ unit.T, np.nan)


def _matrix_side(classes):
    """Inches that a matrix of so many classes takes with its names."""
    return 1.5 + classes * (0.36 if classes <= WRITTEN else 0.17)


def _matrix(axes, values, class_names, limits, form, name, hide_below=-math.inf):
    """A heat map `[K,K]` with the classes' names, and in each cell its number, where K leaves room for it."""
    classes = len(class_names)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="#dddddd")
    picture = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
    size = 8 if classes <= WRITTEN else 5.5
    axes.set_xticks(range(classes), class_names, rotation=90, fontsize=size)
    axes.set_yticks(range(classes), class_names, fontsize=size)
    middle = (limits[0] + limits[1]) / 2
    for i, j in np.ndindex(values.shape) if classes <= WRITTEN else ():
        if values[i, j] >= hide_below:  # of NaN: no
            ink = "white" if values[i, j] < middle else "black"
            axes.text(j, i, form.format(values[i, j]), ha="center", va="center", color=ink, fontsize=6.5)
    axes.figure.colorbar(picture, ax=axes, shrink=0.6, label=name)


def _sample_rows(samples, titles, palette, class_names):
    """Panels, a row for each sample, with image, truth and prediction drawn: the figure, and `[rows,len(titles)]` panels to come."""
    figure, axes = _panels(len(samples), 3 + len(titles), _aspect(samples))
    present = set()
    for row, (image, label, prediction, *_) in zip(axes, samples, strict=True):
        for panel, picture in zip(
            row, (image, colourise(label, palette), colourise(prediction, palette)), strict=False
        ):
            panel.imshow(picture)
        present |= {int(k) for k in np.unique([label, prediction])}
    for panel, title in zip(axes[0], ["image", "truth", "prediction", *titles], strict=True):
        panel.set_title(title, fontsize=8)
    _class_legend(figure, sorted(k for k in present if k < len(class_names)), palette, class_names)
    return figure, axes[:, 3:]


def _panels(rows, columns, aspect, width=PANEL):
    """A figure of `rows` × `columns` axes without frames, each `width` inches wide and `aspect` times as high."""
    figure = Figure(figsize=(columns * width + 0.6, rows * (width * aspect + 0.35) + 0.5), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    return figure, axes


def _aspect(samples):
    """Of the highest picture among samples, whose first entry is an image."""
    return max(image.shape[0] / image.shape[1] for image, *_ in samples)


def _heat(values):
    return matplotlib.colormaps["inferno"](np.asarray(values, np.float64))[..., :3]


def _colour_bar(figure, axes, name):
    scale = matplotlib.cm.ScalarMappable(Normalize(0, 1), "inferno")
    figure.colorbar(scale, ax=axes, label=name, shrink=0.8, aspect=30, pad=0.01)


def _class_legend(figure, classes, palette, class_names):
    handles = [Patch(facecolor=np.array(palette[k]) / 255, edgecolor="grey", label=class_names[k]) for k in classes]
    lines = math.ceil(len(classes) * 1.5 / figure.get_size_inches()[0])  # of entries that are 1.5 inches wide
    columns = math.ceil(len(classes) / max(lines, 1)) or 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
