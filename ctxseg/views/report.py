"""One or several runs as one HTML page that needs nothing else: scores, curves, IoU, confusions, samples, settings."""

import base64
import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ctxseg.errors import UserError
from ctxseg.evaluation import bootstrap
from ctxseg.files import write_text
from ctxseg.progress import duration
from ctxseg.runs import provenance
from ctxseg.settings.fields import flatten_as_json
from ctxseg.views import curves, figures, page, reported_run

WIDTH = 512  # pixels of a sample's picture, at most
WORDS = 5  # confusions that are put in words


def write_report(folders, usual: Callable[[Path], dict | None] | None = None, path=None) -> Path:
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
    folders = [Path(folder) for folder in folders]
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
        path = folders[0] / "report.html" if len(runs) == 1 else folders[0].resolve().parent / "comparison.html"
    title = (
        f"{runs[0].name} on {runs[0].config['data']['name']}" if len(runs) == 1 else " · ".join(r.name for r in runs)
    )
    sections = [
        "".join(map(_headline, runs)),
        _section("Training", _curves(runs)),
        _section("IoU", _iou_table(runs)),
        _section("Confusions", "".join(_confusions(run, len(runs) > 1) for run in runs)),
        _section("Samples", _samples(runs)),
        _section("Settings", _settings(runs)),
    ]
    try:
        write_text(path, page.frame(title, "\n".join(sections)))
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from e
    return Path(path)


def _headline(run):
    """Scores in large, then what they were measured on."""
    results = run.results
    name = f"<h2 class=run>{_mark(run)}<a href='#{run.anchor}'>{page.text(run.name)}</a></h2>"
    if not results:
        scores = [entry for entry in run.metrics if entry["kind"] == "eval" and entry.get("mIoU") is not None]
        last = f" At step {scores[-1]['step']:,}, mIoU was {scores[-1]['mIoU']:.4f}." if scores else ""
        return f"{name}<p class=note>Not evaluated yet: there is no results.json.{last}</p>"
    scores = "".join(
        f"<div><b>{_number(results.get(key))}</b>{key.replace('_', ' ')}</div>"
        for key in ("mIoU", "pixel_accuracy", "mean_accuracy")
    )
    facts = {
        "data": run.other_data,
        "split": results.get("split"),
        "protocol": results.get("protocol"),
        "steps": f"{results['step']:,}" if "step" in results else None,
        "parameters": f"{results['parameters']:,}" if "parameters" in results else None,
        "time": duration(results["seconds"]) if "seconds" in results else None,
    }
    facts = "".join(f"<div><dt>{k}</dt><dd>{page.text(v)}</dd></div>" for k, v in facts.items() if v is not None)
    return f"{name}<div class=scores>{scores}</div>\n<dl>{facts}</dl>"


def _curves(runs):
    pictures = []
    for name, figure in curves.training_curves([run.metrics for run in runs]).items():
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        pictures.append(_image(svg.getvalue(), "svg+xml", f"{name} over training steps"))
    missing = [page.text(run.name) for run in runs if not run.metrics]
    note = f"<p class=note>Nothing logged yet: {', '.join(missing)}.</p>" if missing else ""
    return f"<div class=curves>{''.join(pictures)}</div>{note}"


def _iou_table(runs):
    """A row for each group and for each of its classes; of every run but the first, the difference to it too."""
    evaluated = [run for run in runs if "per_class_iou" in run.results]
    if not evaluated:
        return "<p class=note>Not evaluated yet.</p>"
    first = evaluated[0].results
    colours = dict(zip(first.get("class_names", []), first.get("palette", []), strict=False))
    groups, rows = figures.class_groups(first), []
    units = {(run.results.get("split"), run.results.get("protocol"), run.results.get("scored_at")) for run in evaluated}

    def row(kind, name, key, of):
        values = [run.results.get(key, {}).get(of) if of else run.results.get(key) for run in evaluated]
        cells = [
            _bar(run, value, values[0] if i else None)
            for i, (run, value) in enumerate(zip(evaluated, values, strict=True))
        ]
        return f"<tr class={kind}><th>{name}</th>{''.join(cells)}</tr>\n"

    rows.append(row("group", "all classes", "mIoU", None))
    for group, members in groups.items():
        if group:
            rows.append(row("group", page.text(group), "group_iou", group))
        elif len(groups) > 1:
            rows.append(f"<tr class=group><th>other classes</th>{'<td></td><td></td>' * len(evaluated)}</tr>\n")
        rows += [row("class", _swatch(colours.get(n)) + page.text(n), "per_class_iou", n) for n in members]
    heads = "".join(f"<th colspan=2>{_mark(run)}{page.text(run.name)}</th>" for run in evaluated)
    head = f"<tr class=note><th></th>{heads}</tr>" if len(runs) > 1 else ""
    compared = " compared" if len(evaluated) > 1 else ""
    absent = any(None in run.results["per_class_iou"].values() for run in evaluated)
    notes = ["–: neither in the truth nor predicted."] * absent
    notes += [f"In brackets: points more or less than {page.text(evaluated[0].name)}."] * (len(evaluated) > 1)
    notes += ["These runs were not tested alike (split, protocol): see above."] * (len(units) > 1)
    note = f"<p class=note>{' '.join(notes)}</p>" if notes else ""
    return (
        f"<div class=wide><table class='iou{compared}'>{head}{''.join(rows)}</table></div>{note}{_intervals(evaluated)}"
    )


def _intervals(evaluated):
    """How sure the differences in mIoU to the first run are, as far as the choice of images goes."""
    first, lines, note = evaluated[0], [], ""
    for run in evaluated[1:]:
        if first.images is None or run.images is None:
            continue
        if (first.images[0], first.images[1].shape) != (run.images[0], run.images[1].shape):
            lines.append(f"<li>{page.text(run.name)} was tested on other images than {page.text(first.name)}.</li>")
            continue
        note = (
            "<p class=note>95 % intervals of the difference in mIoU, had the split had other images: a paired bootstrap over its "
            f"{len(first.images[0])} images. What another seed would give is not in them.</p>"
        )
        found = bootstrap.difference(first.images[1][None], run.images[1][None])
        mean, low, high = (f"{100 * x:+.1f}" for x in found)
        sure = "" if found.low > 0 or found.high < 0 else ": either may be the better one"
        lines.append(f"<li>{page.text(run.name)} − {page.text(first.name)}: {mean} points, {low} to {high}{sure}.</li>")
    return f"<ul>{''.join(lines)}</ul>{note}" if lines else ""


def _bar(run, value, compared):
    bar = f'<div class=bar style="width:{100 * (value or 0):.2f}%;background:{run.colour}"></div>'
    difference = ""
    if compared is not None and value is not None:
        points = round(100 * (value - compared), 1)
        kind = "more" if points > 0 else "less" if points < 0 else "same"
        difference = f" <small class={kind}>({f'{points:+.1f}' if points else '±0.0'})</small>"
    return f"<td><div class=track>{bar}</div></td><td>{_number(value)}{difference}</td>"


def _confusions(run, named):
    """The matrix as a heat map of rows, and what most pixels off its diagonal are, in words."""
    name = f"<h3>{_mark(run)}{page.text(run.name)}</h3>" if named else ""
    matrix = np.array(run.results.get("confusion", []), np.float64)
    if not matrix.size:
        return f"{name}<p class=note>No confusion matrix: evaluate again (--mode=evaluate).</p>"
    classes = run.results["class_names"]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    off = np.where(np.eye(len(classes), dtype=bool), 0, matrix)
    largest = [np.unravel_index(i, off.shape) for i in np.argsort(-off, axis=None)[:WORDS]]
    words = [
        f"<li>{shares[t, p]:.1%} of <b>{page.text(classes[t])}</b> is called <b>{page.text(classes[p])}</b></li>"
        for t, p in largest
        if off[t, p]
    ]
    return f"{name}<div class=wide>{_heat_map(shares, classes)}</div><ul>{''.join(words)}</ul>"


def _heat_map(shares, classes):
    """Truth down, prediction across; every cell has its meaning as a title, and its percentage if there are few classes."""
    size, left = 26 if len(classes) <= 25 else 9, 130
    cells = []
    for t, p in np.argwhere(shares >= 0.0005):
        x, y, share = left + size * p, left + size * t, shares[t, p]
        title = f"<title>{page.text(classes[t])} → {page.text(classes[p])}: {share:.1%}</title>"
        cells.append(
            f"<rect x={x} y={y} width={size} height={size} fill-opacity='{0.06 + 0.94 * share:.2f}'>{title}</rect>"
        )
        if size > 20 and share >= 0.005:
            shade = " class=on" if share > 0.5 else ""
            cells.append(f"<text x={x + size / 2} y={y + size / 2 + 4}{shade}>{100 * share:.0f}</text>")
    for i, name in enumerate(classes):
        at = left + size * (i + 0.5)
        cells.append(f"<text class=name x={left - 6} y={at + 3}>{page.text(name)}</text>")
        cells.append(f"<text class=name transform='translate({at + 3},{left - 6}) rotate(90)'>{page.text(name)}</text>")
    side = left + size * len(classes) + 2
    label = "confusion matrix, truth down and prediction across, percent of each row"
    frame = f"<rect class=frame x={left} y={left} width={side - left - 2} height={side - left - 2} />"
    form = f"class='matrix s{size}' viewBox='0 0 {side} {side}' width={side} role=img aria-label='{label}'"
    return f"<svg {form}>{frame}{''.join(cells)}</svg>"


def _samples(runs):
    """Every sample as a stack of layers over the image, of which a switch above shows one."""
    shown = next((run for run in runs if run.samples), None)
    if shown is None:
        return "<p class=note>No pictures yet: an evaluation writes samples.npz.</p>"
    palette, classes = shown.results.get("palette"), shown.results.get("class_names")
    if not palette or not classes:
        return "<p class=note>No pictures: results.json does not have the classes' names and colours.</p>"
    layers = ["image", "truth", *(run.name for run in runs), *(f"errors of {run.name}" for run in runs)]
    switch, rules = [], []
    for i, name in enumerate(layers):
        checked = " checked" if i == 2 else ""
        switch.append(
            f"<input type=radio name=layer id=layer{i}{checked}><label for=layer{i}>{page.text(name)}</label>"
        )
        rules.append(f"#layer{i}:checked ~ .samples .stack > :nth-child({i + 1})")
    figures_ = []
    for name, (image, label, _) in shown.samples.items():
        stack = [_picture(Image.fromarray(image), f"{name}: image", "JPEG")]
        stack.append(_labels(label, palette, f"{name}: truth"))
        for wrong in (False, True):
            for run in runs:
                if name not in run.samples:
                    stack.append(f"<p class=note>{page.text(run.name)} has no such sample.</p>")
                elif wrong:
                    stack.append(_errors(*run.samples[name][1:], f"{name}: errors of {run.name}"))
                else:
                    stack.append(_labels(run.samples[name][2], palette, f"{name}: {run.name}"))
        figures_.append(
            f"<figure><div class=stack>{''.join(stack)}</div><figcaption>{page.text(name)}</figcaption></figure>\n"
        )
    legend = "".join(f"<li>{_swatch(c)}{page.text(n)}</li>" for n, c in zip(classes, palette, strict=True))
    return (
        f"<style>{', '.join(rules)} {{ visibility: visible }}</style>"
        f"<fieldset class=switch><legend class=note>what the pictures show</legend>{''.join(switch)}"
        f"<div class=samples>{''.join(figures_)}</div></fieldset>"
        f"<ul class=legend>{legend}<li><i class='swatch ignored'></i>ignored</li>"
        "<li><i class='swatch wrong'></i>wrong</li></ul>"
    )


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
    table = ""
    if fields:
        heads = [f"<th><a href='#{run.anchor}'>{page.text(run.name)}</a></th>" for run in runs]
        usual = flatten_as_json(runs[0].usual)
        with_usual = len(runs) == 1 and usual
        if with_usual:
            heads = ["<th>here</th>", "<th>without override</th>"]
        rows = []
        for field in fields:
            cells = [_code(f[field]) if field in f else "–" for f in flat]
            if with_usual:
                cells.append(_code(usual.get(field)))
            rows.append(
                f"<tr><th>{page.text(field).replace('.', '.<wbr>')}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
            )
        head = f"<tr class=note><th>field</th>{''.join(heads)}</tr>"
        table = f"<div class=wide><table>{head}{''.join(rows)}</table></div>"
    elif any(run.usual for run in runs):
        table = "<p class=note>Nothing is overridden.</p>"
    return table + "".join(map(_command, runs))


def _different(flat):
    """The fields that are not the same in all of the flat configs; one that a config lacks is younger than its run."""
    keys = set.intersection(*map(set, flat))
    return {k for k in keys if any(f[k] != flat[0][k] for f in flat)}


def _command(run):
    command = " \\\n    ".join([run.command[0], *map(shlex.quote, run.command[1:])]) if run.usual else ""
    command = f"<pre>{page.text(command)}</pre>" if command else ""
    everything = page.text(json.dumps(run.config, indent=2))
    return (
        f"<h3 id={run.anchor}>{_mark(run)}{page.text(run.name)}</h3>{command}"
        f"<details><summary>the whole configuration</summary><pre>{everything}</pre></details>"
    )


def _section(heading, content):
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>"


def _mark(run):
    """The run's colour, as a dot."""
    return f"<i class=mark style='background:{run.colour}'></i>"


def _image(data, kind, alt):
    return f'<img alt="{page.text(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _swatch(colour):
    return f"<i class=swatch style='background:rgb({','.join(str(int(c)) for c in colour)})'></i>" if colour else ""


def _number(score):
    return "–" if score is None else f"{score:.4f}"


def _code(value):
    return f"<code>{page.text(value)}</code>"
