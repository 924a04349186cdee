"""Where a detector fails: misses by kind, objects of each size, and classes."""

from ctxseg.evaluation.misses import KINDS
from ctxseg.views import instance_report, page
from ctxseg.views.style import run_style

TEMPLATE = "instance_failures.html"
# The anchor and the heading of each section.
CONTENTS = {"misses": "Misses", "sizes": "Small and large objects", "classes": "Classes with the lowest AP"}
SIZES = ("small", "medium", "large")
LISTED_CLASSES = 20
COLUMNS = [page.Column(name, run_style(i)[0]) for i, name in enumerate(("masks", "boxes"))]


def sections(run) -> dict:
    """The values of `TEMPLATE`, see `reported_run.ReportedRun`."""
    return {
        "misses": instance_report.misses([run]),
        "missed": _missed(run.results.get("misses", {})),
        "sizes": _sizes(run.results),
        "classes": _classes(run.results),
    }


def _missed(counted):
    """How many objects were found, and the most frequent kind of miss; None if they were not counted."""
    if "counts" not in counted:
        return None
    sentence = f"{counted.get('found', 0):,} of {counted.get('objects', 0):,} objects were found."
    frequent = max(KINDS, key=lambda kind: counted["counts"].get(kind, 0))
    number = counted["counts"].get(frequent, 0)
    return f"{sentence} The most frequent kind of miss is “{frequent}” ({number:,})." if number else sentence


def _row(kind, name, values):
    cells = [page.bar(column, value) for column, value in zip(COLUMNS, values, strict=True)]
    return {"kind": kind, "name": name, "swatch": None, "cells": cells}


def _table(rows, *notes):
    return {"runs": COLUMNS, "named": True, "rows": rows, "notes": notes}


def _sizes(results):
    """AP of the objects of each size."""
    scores = {size: [results.get(f"{kind}_AP_{size}") for kind in ("mask", "box")] for size in SIZES}
    rows = [_row("group", "all objects", [results.get("mask_AP"), results.get("box_AP")])]
    rows += [_row("class", size, pair) for size, pair in scores.items()]
    known = [f"{page.number(mask)} for {size}" for size, (mask, _) in scores.items() if mask is not None]
    sentence = (
        f"AP of masks is {' and '.join(filter(None, (', '.join(known[:-1]), known[-1])))} objects." if known else None
    )
    return {"sentence": sentence, "table": _table(rows, instance_report.MEASURES, "–: no object of this size.")}


def _classes(results):
    """The classes with the lowest AP of masks; those without objects are left out."""
    masks, boxes = results.get("per_class_AP", {}), results.get("per_class_box_AP", {})
    ranked = sorted((name for name in masks if masks[name] is not None), key=masks.get)
    if not ranked:
        return {"sentence": None, "table": None}
    rows = [_row("class", name, [masks[name], boxes.get(name)]) for name in ranked[:LISTED_CLASSES]]
    sentence = f"AP of masks is lowest for {ranked[0]}, {page.number(masks[ranked[0]])}; the mean is {page.number(results.get('mask_AP'))}."
    notes = [f"The {LISTED_CLASSES} lowest of {len(ranked)} classes."] if len(ranked) > LISTED_CLASSES else []
    return {"sentence": sentence, "table": _table(rows, *notes)}
