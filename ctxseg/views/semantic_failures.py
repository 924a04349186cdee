"""Where a segmenter fails: images, classes, boundaries, and regions of each size."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from ctxseg.errors import UserError
from ctxseg.evaluation import metrics
from ctxseg.views import curves, label_pictures, page
from ctxseg.views.semantic_report import Confusion, largest_confusions
from ctxseg.views.style import run_style

TEMPLATE = "semantic_failures.html"
# The anchor and the heading of each section.
CONTENTS = {
    "images": "Worst images",
    "classes": "Most confused classes",
    "boundaries": "Boundaries",
    "sizes": "Small and large regions",
}
# Numbers of images, of confusions, and of pictures of each confusion that are listed.
LISTED_IMAGES, LISTED_CONFUSIONS, LINKED_PICTURES = 20, 10, 3
# The accuracy of fewer regions says little; its bar is grey.
FEW_REGIONS = 10
OLDER = "This run was evaluated by an earlier version; --mode=evaluate adds this."
UNLABELLED = "No pixel of the split has a label."
CORRECT = "No pixel is wrong."


class Stored(NamedTuple):
    """A picture of samples.npz.

    Attributes:
        anchor: anchor on the page.
        name: name of the image.
        image: uint8 `[h,w,3]`.
        label: integer `[h,w]`.
        prediction: integer `[h,w]`.
        confusion: its confusion matrix, float64 `[K,K]`, rows = truth.
        iou: mean IoU of the classes in its truth or prediction; None without a labelled pixel.
    """

    anchor: str
    name: str
    image: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    confusion: np.ndarray
    iou: float | None


def sections(run) -> dict:
    """The values of `TEMPLATE`, see `reported_run.ReportedRun`."""
    names = class_names(run.results)
    palette = run.results.get("palette")
    # Pictures need the colours of the classes.
    worst = _stored(run.worst, len(names), "worst") if palette else []
    worst.sort(key=lambda picture: 2 if picture.iou is None else picture.iou)
    samples = {name: sample for name, sample in run.samples.items() if name not in run.worst}
    others = _stored(samples, len(names), "other") if palette else []
    images = _images(run, names, worst + others)
    confusions = _confusions(run.results, names, worst + others)
    linked = {row["anchor"] for row in images["rows"]}
    linked |= {anchor for row in confusions["rows"] for anchor, *_ in row["links"]}
    return {
        "images": images,
        "worst": [_entry(picture, names, palette) for picture in worst],
        "no_pictures": None if worst or images["note"] == UNLABELLED else _no_pictures(run.results),
        "classes": confusions,
        "others": [_entry(picture, names, palette) for picture in others if picture.anchor in linked],
        "boundaries": _distances(run.results.get("by_distance")),
        "boundary_iou": _boundary_iou(run.results, names),
        "sizes": _sizes(run.results.get("by_size"), names, palette),
        "colours": list(zip(names, palette, strict=True)) if palette else [],
        "older": OLDER,
        "few": FEW_REGIONS,
    }


def class_names(results: Mapping) -> list[str]:
    """The names of the classes, by id. Results of early versions have them only in their scores."""
    names = results.get("class_names") or list(results.get("per_class_iou", {}))
    size = len(results.get("confusion") or names)
    return names if len(names) == size else [str(i) for i in range(size)]


def confusion_of(label: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix of an image, int64 `[K,K]`, rows = truth. Ids of K and more in either map are not counted.

    Args:
        label: integer `[h,w]`.
        prediction: integer `[h,w]`.
        classes: K.
    """
    label, prediction = (np.asarray(x).astype(np.int64).ravel() for x in (label, prediction))
    counted = (label >= 0) & (label < classes) & (prediction >= 0) & (prediction < classes)
    cells = label[counted] * classes + prediction[counted]
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def _no_pictures(results):
    """Why there is no picture of the worst images."""
    if results.get("eval", {}).get("samples") == 0:
        return "No pictures: config.eval.samples was 0."
    return f"No pictures of the worst images: {OLDER}"


def _stored(pictures, classes, kind):
    """The pictures of `record.read_samples`."""
    stored = []
    for i, (name, (image, label, prediction)) in enumerate(pictures.items()):
        confusion = confusion_of(label, prediction, classes)
        counts = np.stack([np.diagonal(confusion), confusion.sum(1), confusion.sum(0)], axis=-1)
        stored.append(Stored(f"{kind}{i}", name, image, label, prediction, confusion, metrics.image_iou(counts)))
    return stored


def _entry(picture, names, palette):
    """A picture with its IoU and its most frequent confusion."""
    largest = largest_confusions(picture.confusion, 1)
    words = CORRECT
    if largest:
        share = page.percent(largest[0].of_errors)
        words = f"Most frequent confusion: {_words(largest[0], names)}, {share} of its wrong pixels."
    image = page.picture(Image.fromarray(picture.image), f"{picture.name}: image", "JPEG")
    panels = {
        "image": [image],
        "truth": [label_pictures.labels(picture.label, palette, f"{picture.name}: truth")],
        "prediction": [label_pictures.labels(picture.prediction, palette, f"{picture.name}: prediction")],
        "errors": [
            image | {"alt": ""},  # it is described beside
            label_pictures.errors(picture.label, picture.prediction, f"{picture.name}: errors"),
        ],
    }
    return {
        "anchor": picture.anchor,
        "name": picture.name,
        "iou": page.number(picture.iou),
        "words": words,
        "panels": panels,
    }


def _words(confusion: Confusion, names) -> str:
    return f"{names[confusion.truth]} predicted as {names[confusion.predicted]}"


def _images(run, names, pictures):
    """The images with the lowest IoU, with links to their pictures."""
    if run.images is None:
        return {"note": OLDER, "sentence": None, "rows": []}
    image_names, counts = run.images
    hits, truth, predicted = np.moveaxis(counts.astype(np.int64), -1, 0)
    missed, added = truth - hits, predicted - hits
    if counts.shape[1] != len(names) or min(missed.min(initial=0), added.min(initial=0)) < 0:
        raise UserError(
            f"{run.folder / 'images.npz'} is damaged: expected counts of {len(names)} classes, none of which has more correct pixels than "
            "pixels; evaluate again (--mode=evaluate)"
        )
    iou = np.array([metrics.image_iou(of_image) for of_image in counts], float)  # NaN for None
    wrong = missed.sum(-1)
    ranked = [int(i) for i in np.argsort(iou, kind="stable") if not np.isnan(iou[i])]
    if not ranked:
        return {"note": UNLABELLED, "sentence": None, "rows": []}
    listed = ranked[:LISTED_IMAGES]
    anchors = {picture.name: picture.anchor for picture in pictures}

    def largest(pixels, i):
        """The class with the most of these pixels of an image, and its share of the wrong pixels."""
        k = int(pixels[i].argmax())
        return f"{names[k]} ({page.percent(pixels[i, k] / wrong[i])})" if pixels[i, k] else "–"

    rows = [
        {
            "name": image_names[i],
            "anchor": anchors.get(image_names[i]),
            "iou": page.number(float(iou[i])),
            "accuracy": page.percent(1 - wrong[i] / truth[i].sum()),
            "missed": largest(missed, i),
            "added": largest(added, i),
        }
        for i in listed
    ]
    median = page.number(float(np.median(iou[ranked])))
    sentence = f"IoU is {rows[0]['iou']} in the worst image, and {median} in the median of {page.counted(len(ranked), 'image')}."
    if len(listed) < len(ranked) and wrong.sum():
        share = page.percent(wrong[listed].sum() / wrong.sum())
        sentence += f" The {len(listed)} worst have {share} of all wrong pixels."
    return {"note": None, "sentence": sentence, "rows": rows}


def _confusions(results, names, pictures):
    """The most frequent confusions with links to the pictures that have the most of each."""
    matrix = np.array(results.get("confusion", []), np.float64)
    if not matrix.size:
        return {"note": OLDER, "sentence": None, "rows": []}
    largest = largest_confusions(matrix, LISTED_CONFUSIONS)
    if not largest:
        note = CORRECT if matrix.any() else UNLABELLED
        return {"note": note, "sentence": None, "rows": []}
    rows = []
    for confusion in largest:
        cell = confusion.truth, confusion.predicted
        ranked = sorted((p for p in pictures if p.confusion[cell]), key=lambda p: -p.confusion[cell])
        links = [
            (p.anchor, p.name, page.percent(p.confusion[cell] / confusion.pixels)) for p in ranked[:LINKED_PICTURES]
        ]
        rows.append(
            {
                "truth": names[confusion.truth],
                "predicted": names[confusion.predicted],
                "of_truth": page.percent(confusion.of_truth),
                "of_errors": page.percent(confusion.of_errors),
                "links": links,
            }
        )
    sentence = f"{rows[0]['of_errors']} of the wrong pixels are {_words(largest[0], names)}"
    if len(rows) > 1:
        sentence += f"; the {len(rows)} confusions below have {page.percent(sum(c.of_errors for c in largest))} of them"
    return {"note": None, "sentence": f"{sentence}.", "rows": rows}


def _distances(counts):
    """Accuracy and wrong pixels by distance to a boundary."""
    if not counts or not counts["limits"]:
        return {"note": OLDER}
    limits, pixels, correct = (np.array(counts[key], np.float64) for key in ("limits", "pixels", "correct"))
    wrong = pixels - correct
    if not pixels.any():
        return {"note": UNLABELLED}
    if not wrong.any():
        return {"note": CORRECT}
    shares, errors = pixels / pixels.sum(), wrong / wrong.sum()
    accuracies = [float(c / n) if n else None for c, n in zip(correct, pixels, strict=True)]
    within, among = np.cumsum(errors), np.cumsum(shares)
    rows = [
        (name, [page.percent(value) for value in values])
        for name, *values in zip(_bins(limits, ""), shares, accuracies, errors, within, strict=True)
    ]
    # The smallest distance that has half of the wrong pixels says the most.
    (half,) = np.nonzero(within[:-1] >= 0.5)
    i = int(half[0]) if len(half) else len(limits) - 1
    sentence = (
        f"{page.percent(within[i])} of the wrong pixels are within {page.counted(limits[i], 'pixel')} of a boundary, where "
        f"{page.percent(among[i])} of all pixels are."
    )
    drawn = curves.by_distance(limits.tolist(), accuracies, shares.tolist(), errors.tolist())
    pictures = [
        page.figure(figure, f"{name} by distance to a boundary, see the table") for name, figure in drawn.items()
    ]
    return {"note": None, "sentence": sentence, "rows": rows, "pictures": pictures}


def _bins(limits, unit, factor=1):
    """The names of the bins up to each limit, and above the last."""
    words = [f"{factor * limit:g}" for limit in limits]
    pairs = zip(words[:-1], words[1:], strict=True)
    return [f"≤ {words[0]}{unit}", *(f"{low}–{high}{unit}" for low, high in pairs), f"> {words[-1]}{unit}"]


def _boundary_iou(results, names):
    """IoU and boundary IoU of each class, the largest difference first: a table of `parts.bars`, None without boundary IoU."""
    boundary, iou = results.get("per_class_boundary_iou"), results.get("per_class_iou", {})
    if not boundary:
        return None
    columns = [page.Column(name, run_style(i)[0]) for i, name in enumerate(("IoU", "boundary IoU"))]
    colours = dict(zip(names, results.get("palette") or [], strict=False))

    def row(kind, name, first, second):
        cells = [page.bar(columns[0], first), page.bar(columns[1], second, first)]
        return {"kind": kind, "name": name, "swatch": colours.get(name), "cells": cells}

    def loss(name):
        pair = iou.get(name), boundary.get(name)
        return -1.0 if None in pair else pair[0] - pair[1]

    rows = [row("group", "all classes", results.get("mIoU"), results.get("boundary_IoU"))]
    ordered = sorted(names, key=loss, reverse=True)
    rows += [row("class", name, iou.get(name), boundary.get(name)) for name in ordered]
    notes = ["In brackets: boundary IoU minus IoU, in points; the largest loss is first."]
    return {"runs": columns, "named": True, "rows": rows, "notes": notes}


def _sizes(counts, names, palette):
    """Accuracy of the regions of each size, of all classes and of each."""
    if not counts or not counts["limits"]:
        return {"note": OLDER}
    bins = _bins(counts["limits"], " %", 100)
    empty = [0] * len(bins)
    regions, pixels, correct = (
        np.array([counts[key].get(name, empty) for name in names], np.float64)
        for key in ("regions", "pixels", "correct")
    )
    if not regions.any():
        return {"note": UNLABELLED}
    columns = [page.Column(name, run_style(0)[0]) for name in bins]
    colours = dict(zip(names, palette or [], strict=False))

    def row(kind, name, numbers, pixels, correct):
        cells = []
        for column, n, total, right in zip(columns, numbers.tolist(), pixels.tolist(), correct.tolist(), strict=True):
            shown = column if n >= FEW_REGIONS else column._replace(colour="var(--faint)")
            cells.append(page.bar(shown, right / total, note=page.counted(n, "region")) if total else None)
        return {"kind": kind, "name": name, "swatch": colours.get(name), "cells": cells}

    rows = [row("group", "all classes", regions.sum(0), pixels.sum(0), correct.sum(0))]
    rows += [row("class", *values) for values in zip(names, regions, pixels, correct, strict=True) if values[1].any()]
    accuracy = {
        name.replace("≤", "at most").replace(">", "more than"): page.percent(right / total)
        for name, total, right in zip(bins, pixels.sum(0), correct.sum(0), strict=True)
        if total
    }
    smallest, *others = accuracy
    sentence = f"{accuracy[smallest]} of the pixels are correct in regions of {smallest} of the image"
    sentence += f", and {accuracy[others[-1]]} in regions of {others[-1]}." if others else "; there are no others."
    return {"note": None, "sentence": sentence, "table": {"runs": columns, "named": True, "rows": rows, "notes": []}}
