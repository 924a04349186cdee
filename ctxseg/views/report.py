"""One or several runs as one HTML page that needs nothing else: scores, curves, IoU, confusions, samples, settings."""

import base64
import io
import json
import shlex
from collections.abc import Callable

import numpy as np
from etils import epath
from PIL import Image

from ctxseg.errors import UserError
from ctxseg.evaluation import bootstrap
from ctxseg.files import resolved, write_text
from ctxseg.progress import duration
from ctxseg.runs import provenance
from ctxseg.settings.fields import flatten_as_json
from ctxseg.views import curves, figures, page, reported_run

WIDTH = 512  # pixels of a sample's picture, at most
WORDS = 5  # confusions that are put in words


def write_report(folders, usual: Callable[[epath.Path], dict | None] | None = None, path=None) -> epath.Path:
    """Writes a page on what is there of config.json, metrics.jsonl, results.json and samples.npz of one or several runs.

    What is missing (a run that is not evaluated yet) is said in its place on the page. Differences are to the first run.

    Args:
        folders: of the runs.
        usual: folder → the run's config without overrides, a nested mapping, or None if there is none. With it, the page lists what
            differs, and the command that makes each run.
        path: of the page; default report.html in the run's folder; of several, comparison.html beside the first's folder.

    Returns:
        The path of the page.

    Raises:
        UserError: no such folder, not a run's, one of the files is damaged, runs on different data, or `path` cannot be written.
    """
    folders = [epath.Path(folder) for folder in folders]
    runs = [reported_run.read(folder, i, len(folders), usual) for i, folder in enumerate(folders)]
    for folder, run in zip(folders, runs, strict=True):
        of = [r.config["data"]["name"] for r in (runs[0], run)]
        if of[0] != of[1]:
            raise UserError(
                f"{folder} is a run on {of[1]}, and {folders[0]} on {of[0]}: a report is of runs on the same data"
            )
        of = [r.tested for r in (runs[0], run)]
        if None not in of and not provenance.same(*of):
            raise UserError(
                f"{folder} is of {provenance.words(of[1])}, and {folders[0]} of {provenance.words(of[0])}: a report is of runs on the "
                "same data"
            )
    if path is None:
        # Not report.html there: of the runs of a sweep, that is its table.
        path = folders[0] / "report.html" if len(runs) == 1 else resolved(folders[0]).parent / "comparison.html"
    title = (
        f"{runs[0].name} on {runs[0].config['data']['name']}" if len(runs) == 1 else " · ".join(r.name for r in runs)
    )
    try:
        write_text(path, _page(title, runs))
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from e
    return epath.Path(path)


def _page(title, runs):
    several = len(runs) > 1
    return page.render(
        "report.html",
        title=title,
        headlines=[_headline(run) for run in runs],
        curves=_curves(runs),
        iou=_iou(runs),
        confusions=[{"run": run, "named": several} | _confusions(run) for run in runs],
        samples=_samples(runs),
        settings=_settings(runs),
    )


def _headline(run):
    """Scores in large, then what they were measured on."""
    results = run.results
    if not results:
        scores = [entry for entry in run.metrics if entry["kind"] == "eval" and entry.get("mIoU") is not None]
        last = f" At step {scores[-1]['step']:,}, mIoU was {scores[-1]['mIoU']:.4f}." if scores else ""
        return {"run": run, "note": f"Not evaluated yet: there is no results.json.{last}"}
    scores = [(key.replace("_", " "), _number(results.get(key))) for key in ("mIoU", "pixel_accuracy", "mean_accuracy")]
    facts = {
        "data": run.other_data,
        "split": results.get("split"),
        "protocol": results.get("protocol"),
        "steps": f"{results['step']:,}" if "step" in results else None,
        "parameters": f"{results['parameters']:,}" if "parameters" in results else None,
        "time": duration(results["seconds"]) if "seconds" in results else None,
    }
    return {"run": run, "note": None, "scores": scores, "facts": [(k, v) for k, v in facts.items() if v is not None]}


def _curves(runs):
    pictures = []
    for name, figure in curves.training_curves([run.metrics for run in runs]).items():
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        pictures.append(_image(svg.getvalue(), "svg+xml", f"{name} over training steps"))
    return {"pictures": pictures, "missing": [run.name for run in runs if not run.metrics]}


def _iou(runs):
    """A row for each group and for each of its classes; of every run but the first, the difference to it too."""
    evaluated = [run for run in runs if "per_class_iou" in run.results]
    if not evaluated:
        return {"runs": []}
    first = evaluated[0].results
    colours = dict(zip(first.get("class_names", []), first.get("palette", []), strict=False))
    groups, rows = figures.class_groups(first), []
    units = {(run.results.get("split"), run.results.get("protocol"), run.results.get("scored_at")) for run in evaluated}

    def row(kind, name, key, of, swatch=None):
        values = [run.results.get(key, {}).get(of) if of else run.results.get(key) for run in evaluated]
        cells = [
            _bar(run, v, values[0] if i else None) for i, (run, v) in enumerate(zip(evaluated, values, strict=True))
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
    notes += [f"In brackets: points more or less than {evaluated[0].name}."] * (len(evaluated) > 1)
    notes += ["These runs were not tested alike (split, protocol): see above."] * (len(units) > 1)
    lines, images = _intervals(evaluated)
    return {
        "runs": evaluated, "named": len(runs) > 1, "rows": rows, "notes": notes, "intervals": lines, "images": images,
    }  # fmt: skip


def _intervals(evaluated):
    """How sure the differences in mIoU to the first run are, as far as the choice of images goes: lines, and of how many images."""
    first, lines, images = evaluated[0], [], 0
    for run in evaluated[1:]:
        if first.images is None or run.images is None:
            continue
        if (first.images[0], first.images[1].shape) != (run.images[0], run.images[1].shape):
            lines.append(f"{run.name} was tested on other images than {first.name}.")
            continue
        images = len(first.images[0])
        found = bootstrap.difference(first.images[1][None], run.images[1][None])
        mean, low, high = (f"{100 * x:+.1f}" for x in found)
        sure = "" if found.low > 0 or found.high < 0 else ": either may be the better one"
        lines.append(f"{run.name} − {first.name}: {mean} points, {low} to {high}{sure}.")
    return lines, images


def _bar(run, value, compared):
    difference = kind = None
    if compared is not None and value is not None:
        points = round(100 * (value - compared), 1)
        kind = "more" if points > 0 else "less" if points < 0 else "same"
        difference = f"{points:+.1f}" if points else "±0.0"
    width = f"{100 * (value or 0):.2f}"
    return {"width": width, "colour": run.colour, "number": _number(value), "difference": difference, "kind": kind}


def _confusions(run):
    """The matrix as a heat map of rows, and what most pixels off its diagonal are, in words."""
    matrix = np.array(run.results.get("confusion", []), np.float64)
    if not matrix.size:
        return {"matrix": None}
    classes = run.results["class_names"]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    off = np.where(np.eye(len(classes), dtype=bool), 0, matrix)
    largest = [np.unravel_index(i, off.shape) for i in np.argsort(-off, axis=None)[:WORDS]]
    words = [(f"{shares[t, p]:.1%}", classes[t], classes[p]) for t, p in largest if off[t, p]]
    return {"matrix": _heat_map(shares, classes), "words": words}


def _heat_map(shares, classes):
    """Truth down, prediction across; every cell has its meaning as a title, and its percentage if there are few classes."""
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


def _samples(runs):
    """Every sample as a stack of layers over the image, of which a switch above shows one."""
    shown = next((run for run in runs if run.samples), None)
    if shown is None:
        return {"note": "No pictures yet: an evaluation writes samples.npz."}
    palette, classes = shown.results.get("palette"), shown.results.get("class_names")
    if not palette or not classes:
        return {"note": "No pictures: results.json does not have the classes' names and colours."}
    found = []
    for name, (image, label, _) in shown.samples.items():
        stack = [_picture(Image.fromarray(image), f"{name}: image", "JPEG")]
        stack.append(_labels(label, palette, f"{name}: truth"))
        for wrong in (False, True):
            for run in runs:
                if name not in run.samples:
                    stack.append({"note": f"{run.name} has no such sample."})
                elif wrong:
                    stack.append(_errors(*run.samples[name][1:], f"{name}: errors of {run.name}"))
                else:
                    stack.append(_labels(run.samples[name][2], palette, f"{name}: {run.name}"))
        found.append({"name": name, "stack": stack})
    layers = ["image", "truth", *(run.name for run in runs), *(f"errors of {run.name}" for run in runs)]
    return {"note": None, "layers": layers, "figures": found, "legend": list(zip(classes, palette, strict=True))}


def _small(picture, method):
    width = min(picture.width, WIDTH)
    return picture.resize((width, max(round(picture.height * width / picture.width), 1)), method)


def _picture(picture, alt, form):
    data = io.BytesIO()
    if form == "JPEG":
        _small(picture, Image.Resampling.BILINEAR).save(data, form, quality=85)
    else:
        _small(picture, Image.Resampling.NEAREST).save(data, form, optimize=True)
    return _image(data.getvalue(), form.lower(), alt)


def _labels(label, palette, alt):
    """A label map with its palette; 255 is grey."""
    picture = Image.fromarray(np.asarray(label, np.uint8))
    colours = np.full((256, 3), 128, np.uint8)
    colours[: len(palette)] = palette
    picture.putpalette(colours.tobytes())
    return _picture(picture, alt, "PNG")


def _errors(label, prediction, alt):
    """Red where the prediction is wrong, grey where nothing is asked, and clear elsewhere, so that the image shows."""
    wrong = np.where(label == 255, 2, label != prediction).astype(np.uint8)
    picture = Image.fromarray(wrong)
    picture.putpalette([0, 0, 0, 214, 39, 40, 128, 128, 128])
    picture.info["transparency"] = bytes([0, 230, 150])
    return _picture(picture, alt, "PNG")


def _settings(runs):
    """What differs from the configs' files and between the runs, and the command that makes each; the whole configs folded away."""
    flat = [flatten_as_json({k: v for k, v in run.config.items() if k != "dataset"}) for run in runs]
    fields = sorted({k for run in runs for k in run.overrides} | _different(flat))
    usual = flatten_as_json(runs[0].usual)
    with_usual = len(runs) == 1 and usual
    heads = [("here", None), ("without override", None)] if with_usual else [(run.name, run.anchor) for run in runs]
    rows = []
    for field in fields:
        cells = [_code(f[field]) if field in f else None for f in flat]
        rows.append((field, [*cells, _code(usual.get(field))] if with_usual else cells))
    note = "Nothing is overridden." if any(run.usual for run in runs) else None
    return {"heads": heads, "rows": rows, "note": note, "commands": [_command(run) for run in runs]}


def _different(flat):
    """The fields that are not the same in all of the flat configs; one that a config lacks is younger than its run."""
    keys = set.intersection(*map(set, flat))
    return {k for k in keys if any(f[k] != flat[0][k] for f in flat)}


def _command(run):
    command = " \\\n    ".join([run.command[0], *map(shlex.quote, run.command[1:])]) if run.usual else None
    return {"run": run, "command": command, "config": json.dumps(run.config, indent=2)}


def _image(data, kind, alt):
    return {"note": None, "alt": alt, "src": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}


def _number(score):
    return "–" if score is None else f"{score:.4f}"


def _code(value):
    return value if isinstance(value, str) else json.dumps(value)
