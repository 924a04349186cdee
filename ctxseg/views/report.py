"""Reports on one or several runs as a self-contained HTML page: scores, curves, IoU, confusions, samples, settings."""

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

# Maximum width of the picture of a sample, in pixels.
MAX_WIDTH = 512
# Number of confusions that are listed in words.
LISTED_CONFUSIONS = 5


def write_report(folders, read_base: Callable[[epath.Path], dict | None] | None = None, path=None) -> epath.Path:
    """Writes a page from config.json, metrics.jsonl, results.json and samples.npz of one or several runs.

    The page says what is missing, such as an evaluation. Differences are from the first run.

    Args:
        folders: folders of the runs.
        read_base: folder → config of the run without overrides, a nested mapping, or None if unknown. With it, the page lists the
            overrides and the command of each run.
        path: path of the page; default: report.html in the run's folder, or for several runs comparison.html beside the first run's folder.

    Returns:
        The path of the page.

    Raises:
        UserError: a missing folder or one without a run, a damaged file, runs on different data, or `path` cannot be written.
    """
    folders = [epath.Path(folder) for folder in folders]
    runs = [reported_run.read(folder, i, len(folders), read_base) for i, folder in enumerate(folders)]
    for folder, run in zip(folders, runs, strict=True):
        first, second = (r.config["data"]["name"] for r in (runs[0], run))
        if first != second:
            raise UserError(
                f"{folder} is a run on {second}, but {folders[0]} on {first}; a report needs runs on the same data"
            )
        first, second = (r.tested for r in (runs[0], run))
        if first is not None and second is not None and not provenance.same(first, second):
            raise UserError(
                f"{folder} is a run on {provenance.words(second)}, but {folders[0]} on {provenance.words(first)}; a report needs runs on "
                "the same data"
            )
    if path is None:
        # Not report.html: beside the runs of a sweep, that is its table.
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
    """The HTML of the page."""
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
    """The scores, and facts about their evaluation."""
    results = run.results
    if not results:
        scores = [entry for entry in run.metrics if entry["kind"] == "eval" and entry.get("mIoU") is not None]
        last = f" At step {scores[-1]['step']:,}, mIoU was {scores[-1]['mIoU']:.4f}." if scores else ""
        return {"run": run, "note": f"Not evaluated yet: results.json is missing.{last}"}
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
    """The training curves as pictures, and the names of runs without a log."""
    pictures = []
    for name, figure in curves.training_curves([run.metrics for run in runs]).items():
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        pictures.append(_image(svg.getvalue(), "svg+xml", f"{name} over training steps"))
    return {"pictures": pictures, "missing": [run.name for run in runs if not run.metrics]}


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


def _bar(run, value, compared):
    """A cell with the bar of an IoU, and its difference from `compared`."""
    difference = kind = None
    if compared is not None and value is not None:
        points = round(100 * (value - compared), 1)
        kind = "more" if points > 0 else "less" if points < 0 else "same"
        difference = f"{points:+.1f}" if points else "±0.0"
    width = f"{100 * (value or 0):.2f}"
    return {"width": width, "colour": run.colour, "number": _number(value), "difference": difference, "kind": kind}


def _confusions(run):
    """The confusion matrix as a heat map, and its most frequent confusions in words."""
    matrix = np.array(run.results.get("confusion", []), np.float64)
    if not matrix.size:
        return {"matrix": None}
    classes = run.results["class_names"]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    off = np.where(np.eye(len(classes), dtype=bool), 0, matrix)
    largest = [np.unravel_index(i, off.shape) for i in np.argsort(-off, axis=None)[:LISTED_CONFUSIONS]]
    words = [(f"{shares[t, p]:.1%}", classes[t], classes[p]) for t, p in largest if off[t, p]]
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
        stack = [_picture(Image.fromarray(image), f"{name}: image", "JPEG")]
        stack.append(_labels(label, palette, f"{name}: truth"))
        for wrong in (False, True):
            for run in runs:
                if name not in run.samples:
                    stack.append({"note": f"{run.name} does not have this sample."})
                elif wrong:
                    stack.append(_errors(*run.samples[name][1:], f"{name}: errors of {run.name}"))
                else:
                    stack.append(_labels(run.samples[name][2], palette, f"{name}: {run.name}"))
        entries.append({"name": name, "stack": stack})
    layers = ["image", "truth", *(run.name for run in runs), *(f"errors of {run.name}" for run in runs)]
    return {"note": None, "layers": layers, "figures": entries, "legend": list(zip(classes, palette, strict=True))}


def _small(picture, method):
    """`picture`, reduced to `MAX_WIDTH` if it is wider."""
    width = min(picture.width, MAX_WIDTH)
    return picture.resize((width, max(round(picture.height * width / picture.width), 1)), method)


def _picture(picture, alt, form):
    """A picture for the page, encoded as `form`, JPEG or PNG."""
    data = io.BytesIO()
    if form == "JPEG":
        _small(picture, Image.Resampling.BILINEAR).save(data, form, quality=85)
    else:
        _small(picture, Image.Resampling.NEAREST).save(data, form, optimize=True)
    return _image(data.getvalue(), form.lower(), alt)


def _labels(label, palette, alt):
    """A label map in the colours of `palette`; 255 is grey."""
    picture = Image.fromarray(np.asarray(label, np.uint8))
    colours = np.full((256, 3), 128, np.uint8)
    colours[: len(palette)] = palette
    picture.putpalette(colours.tobytes())
    return _picture(picture, alt, "PNG")


def _errors(label, prediction, alt):
    """Red where the prediction is wrong, grey where pixels are ignored, and transparent elsewhere, over the image."""
    wrong = np.where(label == 255, 2, label != prediction).astype(np.uint8)
    picture = Image.fromarray(wrong)
    picture.putpalette([0, 0, 0, 214, 39, 40, 128, 128, 128])
    picture.info["transparency"] = bytes([0, 230, 150])
    return _picture(picture, alt, "PNG")


def _settings(runs):
    """The fields that are overridden or differ between the runs, the command of each run, and the whole configs, collapsed."""
    flat = [flatten_as_json({k: v for k, v in run.config.items() if k != "dataset"}) for run in runs]
    fields = sorted({k for run in runs for k in run.overrides} | _different(flat))
    base = flatten_as_json(runs[0].base)
    show_base = len(runs) == 1 and base
    heads = [("this run", None), ("without override", None)] if show_base else [(run.name, run.anchor) for run in runs]
    rows = []
    for field in fields:
        cells = [_code(f[field]) if field in f else None for f in flat]
        rows.append((field, [*cells, _code(base.get(field))] if show_base else cells))
    note = "No field is overridden." if any(run.base for run in runs) else None
    return {"heads": heads, "rows": rows, "note": note, "commands": [_command(run) for run in runs]}


def _different(flat):
    """The fields that differ between the flat configs. Fields that one of them lacks are newer than its run, and skipped."""
    keys = set.intersection(*map(set, flat))
    return {k for k in keys if any(f[k] != flat[0][k] for f in flat)}


def _command(run):
    """The command of a run for a shell, None if unknown, and its config as JSON."""
    command = " \\\n    ".join([run.command[0], *map(shlex.quote, run.command[1:])]) if run.base else None
    return {"run": run, "command": command, "config": json.dumps(run.config, indent=2)}


def _image(data, kind, alt):
    """An encoded image as a data URL."""
    return {"note": None, "alt": alt, "src": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}


def _number(score):
    """Four decimals, – for None."""
    return "–" if score is None else f"{score:.4f}"


def _code(value):
    """A field's value as text."""
    return value if isinstance(value, str) else json.dumps(value)
