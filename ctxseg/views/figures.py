"""Figures of a run: label maps, samples side by side, confusion matrices, and maps from inside a network.

They are drawn from arrays, without pyplot, and so without global state or a display. `pictures.py` extracts the arrays from a run.
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

from ctxseg.data.colours import colourise
from ctxseg.views.style import RUNS, distinct_colours

# Width of a panel of a figure, in inches.
PANEL = 2.1
# Maximum number of classes for which a matrix shows its numbers.
MAX_NUMBERED = 24


def class_groups(results: dict) -> dict[str, list[str]]:
    """{group: its classes}, and under '' the classes without a group (all classes, if the data set has no groups)."""
    groups = dict(results.get("groups") or {})
    grouped = {name for members in groups.values() for name in members}
    rest = [name for name in results["per_class_iou"] if name not in grouped]
    return groups | ({"": rest} if rest else {})


def prediction_grid(samples, palette, class_names=None, width: int = 256, gap: int = 4, headings=None) -> np.ndarray:
    """Draws a row for each sample: image, truth, prediction, and any predictions of other networks.

    Args:
        samples: (image uint8 `[h,w,3]`, label integer `[h,w]`, prediction integer `[h,w]`, …), of any sizes, with the same number of
            predictions.
        palette: `[K,3]`, see `colourise`.
        class_names: K names for a legend below; None for no legend.
        width: width of each picture in pixels; the aspect is kept, and labels are scaled by nearest neighbour.
        gap: grey pixels between pictures.
        headings: a heading for each column, or None.

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
    """Names centred over columns, black on white, small enough for the longest: uint8 `[2·size,·,3]`."""
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


def overlay(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """`colours`, float `[H,W,3]` in [0, 1], blended 0.7 to 0.3 with the grey values of `image`, uint8 `[H,W,3]`."""
    grey = image.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    return 0.3 * grey[..., None] + 0.7 * colours


def attention_weights(samples, scales, palette, class_names) -> Figure:
    """Draws a row for each sample: image, truth, prediction, and the weight of each scale over the image.

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
    """Draws a row for each sample: image, truth, prediction, and over the image, in one colour per scale, the scale with the highest score.

    Args:
        samples: (image uint8 `[H,W,3]`, label `[H,W]`, prediction `[H,W]`, index `[H,W]` in [0, S)).
        scales: S factors.
        palette: `[K,3]`.
        class_names: K names.
    """
    figure, rest = _sample_rows(samples, ["scale with the highest score"], palette, class_names)
    colours = np.array([to_rgb(c) for c in distinct_colours(len(scales))])
    for axes, (image, *_, index) in zip(rest, samples, strict=True):
        axes[0].imshow(overlay(image, colours[index]))
        shares = [f"scale {s:g}: {np.mean(index == i):.0%}" for i, s in enumerate(scales)]
        handles = [Patch(color=colours[i], label=share) for i, share in enumerate(shares)]
        axes[0].legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    return figure


def class_distribution(samples, palette, class_names, count: int = 4) -> Figure:
    """Draws a row for each sample: image, truth, prediction, the most probable class in W, and the probabilities of the main classes.

    Args:
        samples: (image uint8 `[H,W,3]`, label `[H,W]`, prediction `[H,W]`, probabilities `[H,W,K]`). The probabilities are W of
            MCIBI, the distribution of each pixel over the classes of the memory.
        palette: `[K,3]`.
        class_names: K names.
        count: number of classes to show, those with the highest mean probability in the image.
    """
    count = min(count, len(class_names))
    figure, rest = _sample_rows(samples, ["most probable in W"] + [""] * count, palette, class_names)
    for axes, (image, *_, probabilities) in zip(rest, samples, strict=True):
        axes[0].imshow(colourise(probabilities.argmax(-1), palette))
        main_classes = np.argsort(-probabilities.mean((0, 1)), kind="stable")[:count]
        for panel, k in zip(axes[1:], main_classes, strict=True):
            panel.imshow(overlay(image, _heat(probabilities[..., k])))
            panel.set_title(class_names[k], fontsize=8)
    _colour_bar(figure, rest, "probability")
    return figure


def superpixels(samples) -> Figure:
    """Draws a row for each sample: the boundaries of its regions, and their adjacency graph, drawn between centroids.

    Args:
        samples: (image uint8 `[H,W,3]`, regions integer `[H,W]`, -1 for no region, adjacency `[N,N]`, non-zero for adjacent regions).
    """
    figure, axes = _panels(len(samples), 2, _aspect(samples), 2 * PANEL)
    for (left, right), (image, regions, adjacency) in zip(axes, samples, strict=True):
        factor = max(1, 512 // regions.shape[1])  # makes a boundary thinner than a pixel of the image
        large, ids = (np.repeat(np.repeat(x, factor, 0), factor, 1) for x in (image, regions))
        boundary = find_boundaries(ids, mode="inner", background=-1)
        left.imshow(np.where(boundary[..., None], np.array([255, 230, 0], np.uint8), large))
        left.set_title(f"{len(np.unique(regions[regions >= 0]))} super-pixels", fontsize=8)
        edges, points = region_graph(regions, adjacency)
        right.imshow(overlay(image, np.ones((*regions.shape, 3))))
        right.add_collection(LineCollection([[points[i], points[j]] for i, j in edges], colors=RUNS[0], linewidths=0.8))
        present = np.array(sorted(points.values())).reshape(-1, 2)
        right.plot(present[:, 0], present[:, 1], ".", color="black", markersize=3)
        right.set_title(f"{len(edges)} adjacent pairs", fontsize=8)
    return figure


def region_graph(regions, adjacency):
    """The pairs (i, j), i < j, in `adjacency` `[N,N]`, and {region: centroid (x, y)} of those in `regions` `[H,W]` (-1: none)."""
    y, x = np.indices(regions.shape)
    inside = regions >= 0
    ids = regions[inside]
    count = np.bincount(ids, minlength=len(adjacency))
    cx, cy = (np.bincount(ids, v[inside], len(adjacency)) / np.maximum(count, 1) for v in (x, y))
    points = {int(i): (float(cx[i]), float(cy[i])) for i in np.flatnonzero(count)}
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(np.asarray(adjacency), 1))], points


def feature_maps(image, rows: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Draws maps of a network in rows beside the image.

    Args:
        image: uint8 `[H,W,3]`.
        rows: {name of a row: {name of a map: map}}. A map `[h,w,C]` is drawn by `principal_colours`, a map `[h,w]` in grey, from its
            minimum to its maximum.
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
    figure.supxlabel("colours: three principal components, with their share of the variance", fontsize=8)
    return figure


def principal_colours(x: np.ndarray):
    """The first three principal components over positions as red, green and blue, on a common scale, with the mean in grey.

    Args:
        x: `[h,w,C]`.

    Returns:
        float64 `[h,w,3]` in [0, 1]; and the three components' share of the variance, 0 for a constant map.
    """
    h, w, channels = x.shape
    centred = x.reshape(-1, channels) - x.mean((0, 1))
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:3]
    # The sign of a component is arbitrary: its largest entry is made positive.
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
    components = np.zeros((h * w, 3))
    components[:, : len(axes)] = centred @ axes.T
    variance = (singular**2).sum()
    scale = np.percentile(np.abs(components[:, 0]), 98)
    colours = 0.5 + 0.5 * (components / scale if scale > 0 else components * 0)
    return colours.clip(0, 1).reshape(h, w, 3), float((singular[:3] ** 2).sum() / variance) if variance > 0 else 0.0


def confusion_matrix(matrix, class_names) -> Figure:
    """Draws the percentage of the pixels of each true class (row) by predicted class (column); absent true classes have an empty row.

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
    _matrix(axes, percent, class_names, (0, 100), "{:.0f}", "% of the pixels of the true class", hide_below=0.5)
    axes.set(xlabel="predicted", ylabel="true")
    return figure


def memory(similarities: dict[str, np.ndarray], embeddings: dict, palette, class_names) -> Figure:
    """Draws MCIBI's memory: the similarity of its entries, and pixel representations in 2D, of networks side by side.

    Args:
        similarities: {network: `[K,K]`, cosine between entries, NaN for a class that was never seen}.
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


def cosine_similarity(bank, seen) -> np.ndarray:
    """Cosine between the rows of `bank` `[K,C]`, NaN for rows that are False in `seen` `[K]`: float64 `[K,K]`."""
    bank = np.asarray(bank, np.float64)
    unit = bank / np.maximum(np.linalg.norm(bank, axis=1, keepdims=True), 1e-12)
    seen = np.asarray(seen, bool)
    return np.where(seen[:, None] & seen, unit @ unit.T, np.nan)


def _matrix_side(classes):
    """The side of a matrix with its class names, in inches."""
    return 1.5 + classes * (0.36 if classes <= MAX_NUMBERED else 0.17)


def _matrix(axes, values, class_names, limits, form, name, hide_below=-math.inf):
    """Draws a heat map `[K,K]` with class names, and with numbers up to `MAX_NUMBERED` classes."""
    classes = len(class_names)
    colours = matplotlib.colormaps["viridis"].with_extremes(bad="#dddddd")
    picture = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1])
    size = 8 if classes <= MAX_NUMBERED else 5.5
    axes.set_xticks(range(classes), class_names, rotation=90, fontsize=size)
    axes.set_yticks(range(classes), class_names, fontsize=size)
    middle = (limits[0] + limits[1]) / 2
    for i, j in np.ndindex(values.shape) if classes <= MAX_NUMBERED else ():
        if values[i, j] >= hide_below:  # False for NaN
            ink = "white" if values[i, j] < middle else "black"
            axes.text(j, i, form.format(values[i, j]), ha="center", va="center", color=ink, fontsize=6.5)
    axes.figure.colorbar(picture, ax=axes, shrink=0.6, label=name)


def _sample_rows(samples, titles, palette, class_names):
    """A figure with a row for each sample and image, truth and prediction drawn, and its remaining panels `[rows,len(titles)]`."""
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
    """A figure with `rows` × `columns` axes without frames, each `width` inches wide and `aspect` times as high."""
    figure = Figure(figsize=(columns * width + 0.6, rows * (width * aspect + 0.35) + 0.5), layout="compressed")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    return figure, axes


def _aspect(samples):
    """The largest ratio of height to width of the images, the first entries of `samples`."""
    return max(image.shape[0] / image.shape[1] for image, *_ in samples)


def _heat(values):
    """Colours `[…,3]` of values in [0, 1]."""
    return matplotlib.colormaps["inferno"](np.asarray(values, np.float64))[..., :3]


def _colour_bar(figure, axes, name):
    scale = matplotlib.cm.ScalarMappable(Normalize(0, 1), "inferno")
    figure.colorbar(scale, ax=axes, label=name, shrink=0.8, aspect=30, pad=0.01)


def _class_legend(figure, classes, palette, class_names):
    """Draws a legend of `classes` below the figure."""
    handles = [Patch(facecolor=np.array(palette[k]) / 255, edgecolor="grey", label=class_names[k]) for k in classes]
    lines = math.ceil(len(classes) * 1.5 / figure.get_size_inches()[0])  # an entry is 1.5 inches wide
    columns = math.ceil(len(classes) / max(lines, 1)) or 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
