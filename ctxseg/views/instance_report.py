"""The sections of a report on instance segmentation: average precision, curves, kinds of misses, samples."""

from PIL import Image

from ctxseg.evaluation.instance_samples import SHOWN
from ctxseg.evaluation.misses import KINDS
from ctxseg.views import curves, instance_pictures, page

TEMPLATE = "instances.html"
# Ends of the names of scores, see `evaluation.instances.evaluate`, and what they are.
SCORES = {
    "AP": "AP", "AP50": "AP at IoU 0.50", "AP75": "AP at IoU 0.75", "AP_small": "AP, small objects", "AP_medium": "AP, medium objects",
    "AP_large": "AP, large objects", "AR1": "AR, 1 detection", "AR10": "AR, 10 detections", "AR100": "AR, 100 detections",
    "AR_small": "AR, small objects", "AR_medium": "AR, medium objects", "AR_large": "AR, large objects",
}  # fmt: skip
MEASURES = (
    "AP: mean over IoU 0.50 to 0.95 and classes. AR: mean recall, with at most so many detections of a class in an image. "
    "Small: up to 32² pixels; large: from 96²."
)


def sections(runs) -> dict:
    """The values of `TEMPLATE` for one or several runs, see `reported_run.ReportedRun`."""
    evaluated = [run for run in runs if "mask_AP" in run.results]
    return {
        "tables": [_scores(evaluated), _classes(evaluated)] if evaluated else [],
        "precision": _curves(evaluated),
        "misses": misses(evaluated),
        "samples": _samples(runs),
    }


def _row(runs, kind, name, values):
    """A row of `parts.bars`, with differences from the first run."""
    cells = [page.bar(run, v, values[0] if i else None) for i, (run, v) in enumerate(zip(runs, values, strict=True))]
    return {"kind": kind, "name": name, "swatch": None, "cells": cells}


def _scores(runs):
    """COCO's scores of masks and of boxes."""
    rows = []
    for kind, heading in (("mask", "masks"), ("box", "boxes")):
        for end, name in SCORES.items():
            values = [run.results.get(f"{kind}_{end}") for run in runs]
            rows.append(
                _row(runs, "group" if end == "AP" else "class", f"{heading}: {name}" if end == "AP" else name, values)
            )
    return _table("Average precision", runs, rows, MEASURES)


def _classes(runs):
    """AP of the masks of each class."""
    rows = [_row(runs, "group", "all classes", [run.results.get("mask_AP") for run in runs])]
    for name in runs[0].results.get("per_class_AP", {}):
        rows.append(_row(runs, "class", name, [run.results.get("per_class_AP", {}).get(name) for run in runs]))
    return _table("Classes", runs, rows, "AP of masks.")


def _table(heading, runs, rows, note):
    notes = [note]
    absent = any(cell["number"] == page.number(None) for row in rows for cell in row["cells"])
    notes += ["–: no object."] * absent
    notes += [f"In brackets: difference from {runs[0].name}, in points."] * (len(runs) > 1)
    if len({(run.results.get("split"), run.results.get("protocol")) for run in runs}) > 1:
        notes.append("These runs were evaluated on different splits or with different protocols: see above.")
    return {"heading": heading, "runs": runs, "named": len(runs) > 1, "rows": rows, "notes": notes}


def _curves(runs):
    drawn = curves.precision_recall([run.results.get("curves", {}) for run in runs], [run.colour for run in runs])
    return [page.figure(figure, f"precision by recall: {name}") for name, figure in drawn.items()]


def misses(runs) -> dict:
    """How many misses of each kind, and pictures of some: the values of the template misses.html."""
    runs = [run for run in runs if "counts" in run.results.get("misses", {})]
    if not runs:
        return {"runs": [], "rows": [], "examples": []}
    rows = []
    for kind, meaning in KINDS.items():
        rows.append((kind, meaning, [f"{run.results['misses']['counts'].get(kind, 0):,}" for run in runs]))
    found = [f"{m.get('found', 0):,} of {m.get('objects', 0):,}" for m in (run.results["misses"] for run in runs)]
    rows.append(("objects found", "IoU of at least 0.5 with a detection of their class", found))
    examples = []
    for run in runs:
        pictures = [_example(run, picture) for kind in KINDS for picture in run.pictures if picture.kind == kind]
        examples.append({"run": run, "pictures": pictures})
    return {"runs": runs, "named": len(runs) > 1, "rows": rows, "examples": examples}


def _example(run, picture):
    """An example of a miss: the object outlined in white, and the detection in colour. The caption has the names: the picture is small."""
    truth, found = picture.objects, picture.detections
    none = [""]  # an object and a detection at most
    drawn = instance_pictures.draw(
        picture.image, truth.boxes, none, truth.masks, colour=instance_pictures.TRUTH, filled=False
    )
    drawn = instance_pictures.draw(drawn, found.boxes, none, found.masks, size=picture.image.shape[:2])
    names = [f"{name} {score:.2f}" for name, score in zip(_names(run, found), found.scores, strict=True)]
    names += [f"truth: {name}" for name in _names(run, truth)]
    image = page.picture(Image.fromarray(drawn), f"{picture.kind} in {picture.name}", "JPEG")
    return {"kind": picture.kind, "names": names, "name": picture.name, "image": image}


def _samples(runs):
    """For each sample, the truth and the detections of each run, side by side."""
    first = next((run for run in runs if run.pictures), None)
    if first is None:
        return {"note": "No pictures yet: an evaluation writes samples.npz."}
    entries = []
    for sample in (p for p in first.pictures if not p.kind):
        truth = instance_pictures.draw(
            sample.image,
            sample.objects.boxes,
            _names(first, sample.objects),
            sample.objects.masks,
            sample.objects.crowd,
        )
        panels = [("truth", page.picture(Image.fromarray(truth), f"{sample.name}: truth", "JPEG"))]
        for run in runs:
            own = next((p for p in run.pictures if not p.kind and p.name == sample.name), None)
            if own is None:
                panels.append((run.name, {"note": f"{run.name} does not have this sample."}))
                continue
            found = own.detections._asdict()
            drawn = instance_pictures.draw_detections(own.image, found, run.results["class_names"])
            panels.append((run.name, page.picture(Image.fromarray(drawn), f"{sample.name}: {run.name}", "JPEG")))
        entries.append({"name": sample.name, "panels": panels})
    return {"note": None, "figures": entries, "shown": f"{SHOWN:g}"}


def _names(run, instances):
    """The class of each object, and whether it is a crowd."""
    names = run.results["class_names"]
    pairs = zip(instances.classes, instances.crowd, strict=True)
    return [names[label] + (" (crowd)" if crowd else "") for label, crowd in pairs]
