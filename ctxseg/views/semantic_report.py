"""The sections of a report on semantic segmentation: IoU by class, confusions, calibration, samples."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from ctxseg.evaluation import bootstrap
from ctxseg.views import curves, figures, label_pictures, page

TEMPLATE = "semantic.html"
# Number of confusions that are listed in words.
LISTED_CONFUSIONS = 5


class Confusion(NamedTuple):
    """Pixels of a class that are predicted as another class.

    Attributes:
        truth: id of the true class.
        predicted: id of the predicted class.
        pixels: their number.
        of_truth: their share of the pixels of the true class.
        of_errors: their share of all wrong pixels.
    """

    truth: int
    predicted: int
    pixels: float
    of_truth: float
    of_errors: float


def largest_confusions(matrix: np.ndarray, count: int) -> list[Confusion]:
    """The most frequent confusions, at most `count`, of a confusion matrix `[K,K]` of pixels, rows = truth."""
    matrix = np.asarray(matrix, np.float64)
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, matrix)
    largest = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None, kind="stable")[:count]]
    return [
        Confusion(int(t), int(p), *map(float, (wrong[t, p], wrong[t, p] / matrix[t].sum(), wrong[t, p] / wrong.sum())))
        for t, p in largest
        if wrong[t, p]
    ]


def sections(runs) -> dict:
    """The values of `TEMPLATE` for one or several runs, see `reported_run.ReportedRun`."""
    several = len(runs) > 1
    return {
        "iou": _iou(runs),
        "confusions": [{"run": run, "named": several} | _confusions(run) for run in runs],
        "calibration": _calibration(runs) | {"named": several},
        "samples": _samples(runs),
    }


def _iou(runs):
    """A row for each group and each of its classes, with differences from the first run."""
    evaluated = [run for run in runs if "per_class_iou" in run.results]
    if not evaluated:
        return {"runs": []}
    first = evaluated[0].results
    colours = dict(zip(first.get("class_names", []), first.get("palette", []), strict=False))
    groups, rows = figures.class_groups(first), []
    protocols = {
        (run.results.get("split"), run.results.get("protocol"), run.results.get("scored_at")) for run in evaluated
    }

    def row(kind, name, key, entry, swatch=None):
        values = [run.results.get(key, {}).get(entry) if entry else run.results.get(key) for run in evaluated]
        cells = [
            page.bar(run, v, values[0] if i else None) for i, (run, v) in enumerate(zip(evaluated, values, strict=True))
        ]
        return {"kind": kind, "name": name, "swatch": swatch, "cells": cells}

    rows.append(row("group", "all classes", "mIoU", None))
    for group, members in groups.items():
        if group:
            rows.append(row("group", group, "group_iou", group))
        elif len(groups) > 1:
            rows.append({"kind": "group", "name": "other classes", "swatch": None, "cells": [None] * len(evaluated)})
        rows += [row("class", name, "per_class_iou", name, colours.get(name)) for name in members]
    absent = any(None in run.results["per_class_iou"].values() for run in evaluated)
    notes = ["–: neither in the truth nor predicted."] * absent
    notes += [f"In brackets: difference from {evaluated[0].name}, in points."] * (len(evaluated) > 1)
    if len(protocols) > 1:
        notes.append("These runs were evaluated on different splits or with different protocols: see above.")
    lines, images = _intervals(evaluated)
    return {
        "runs": evaluated, "named": len(runs) > 1, "rows": rows, "notes": notes, "intervals": lines, "images": images,
    }  # fmt: skip


def _intervals(evaluated):
    """Lines with the interval of each difference in mIoU from the first run, and the number of images of the bootstrap."""
    first, lines, images = evaluated[0], [], 0
    for run in evaluated[1:]:
        if first.images is None or run.images is None:
            continue
        if (first.images[0], first.images[1].shape) != (run.images[0], run.images[1].shape):
            lines.append(f"{run.name} was evaluated on other images than {first.name}.")
            continue
        images = len(first.images[0])
        difference = bootstrap.difference(first.images[1][None], run.images[1][None])
        mean, low, high = (f"{100 * x:+.1f}" for x in difference)
        verdict = "" if difference.low > 0 or difference.high < 0 else ": no significant difference"
        lines.append(f"{run.name} − {first.name}: {mean} points, {low} to {high}{verdict}.")
    return lines, images


def _confusions(run):
    """The confusion matrix as a heat map, and its most frequent confusions in words."""
    matrix = np.array(run.results.get("confusion", []), np.float64)
    if not matrix.size:
        return {"matrix": None}
    classes = run.results["class_names"]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    largest = largest_confusions(matrix, LISTED_CONFUSIONS)
    words = [(f"{c.of_truth:.1%}", classes[c.truth], classes[c.predicted]) for c in largest]
    return {"matrix": _heat_map(shares, classes), "words": words}


def _heat_map(shares, classes):
    """Rows are truth, columns predictions. Every cell has a title, and its percentage if there are few classes."""
    size, left = 26 if len(classes) <= 25 else 9, 130
    cells = []
    for t, p in np.argwhere(shares >= 0.0005):
        share = shares[t, p]
        cells.append(
            {
                "x": int(left + size * p),
                "y": int(left + size * t),
                "opacity": f"{0.06 + 0.94 * share:.2f}",
                "title": f"{classes[t]} → {classes[p]}: {share:.1%}",
                "text": f"{100 * share:.0f}" if size > 20 and share >= 0.005 else None,
                "dark": bool(share > 0.5),
            }
        )
    return {"size": size, "left": left, "side": left + size * len(classes) + 2, "cells": cells, "names": classes}


def _calibration(runs):
    """The reliability diagram of the runs, and the ECE of each; without a run that has them, no picture."""
    runs = [run for run in runs if run.results.get("ECE") is not None and "reliability" in run.results]
    if not runs:
        return {"picture": None}
    drawn = curves.reliability([run.results["reliability"] for run in runs], [run.colour for run in runs])
    picture = page.figure(drawn, "reliability: accuracy of the pixels by their confidence")
    return {"picture": picture, "errors": [(run, page.number(run.results["ECE"])) for run in runs]}


def _samples(runs):
    """Every sample as a stack of layers over the image; a switch selects the visible layer."""
    first = next((run for run in runs if run.samples), None)
    if first is None:
        return {"note": "No pictures yet: an evaluation writes samples.npz."}
    palette, classes = first.results.get("palette"), first.results.get("class_names")
    if not palette or not classes:
        return {"note": "No pictures: results.json has no class names or colours."}
    entries = []
    for name, (image, label, _) in first.samples.items():
        stack = [page.picture(Image.fromarray(image), f"{name}: image", "JPEG")]
        stack.append(label_pictures.labels(label, palette, f"{name}: truth"))
        for wrong in (False, True):
            for run in runs:
                if name not in run.samples:
                    stack.append({"note": f"{run.name} does not have this sample."})
                elif wrong:
                    stack.append(label_pictures.errors(*run.samples[name][1:], f"{name}: errors of {run.name}"))
                else:
                    stack.append(label_pictures.labels(run.samples[name][2], palette, f"{name}: {run.name}"))
        entries.append({"name": name, "stack": stack})
    layers = ["image", "truth", *(run.name for run in runs), *(f"errors of {run.name}" for run in runs)]
    return {"note": None, "layers": layers, "figures": entries, "legend": list(zip(classes, palette, strict=True))}
