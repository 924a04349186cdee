"""A run as one HTML page that needs nothing else: scores, curves, IoU per class, samples, settings."""

import base64
import html
import io
import json
import shlex
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from ctxseg import figures
from ctxseg.errors import UserError
from ctxseg.logs import duration, read_metrics, write_text
from ctxseg.workdir import flatten


def write_report(workdir, base=None) -> Path:
    """Writes `workdir`/report.html from what is there of config.json, metrics.jsonl, results.json and samples.npz.

    What is missing (a run that is not evaluated yet) is said in its place on the page.

    Args:
        workdir: a run's folder. samples.npz has `names` (strings) and, for each i, uint8 `image_i` `[h,w,3]`, `label_i`
            and `prediction_i` `[h,w]`.
        base: the config without overrides, a nested mapping. With it, the page lists what differs and the command that
            makes the run.

    Returns:
        The path of the page.

    Raises:
        UserError: no such folder, not a run's or that of another config, or one of the files is damaged.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is not a folder")
    config, results = (_read_json(workdir / name) for name in ("config.json", "results.json"))
    metrics = read_metrics(workdir)
    if not config:
        raise UserError(f"{workdir / 'config.json'} is missing: --workdir is not the folder of a run")
    _check_config(config, base, workdir)
    _check_results(results, workdir)
    system = results.get("system") or config.get("system") or workdir.resolve().name
    data = results.get("data") or config.get("data", {}).get("name", "")
    title = f"{system} on {data}" if data else system
    sections = [
        _headline(results, metrics),
        _section("Training", _curves(metrics)),
        _section("IoU", _iou_table(results)),
        _section("Samples", _samples(workdir / "samples.npz", results)),
        _section("Settings", _settings(config, base)),
    ]
    page = _PAGE.format(title=html.escape(title), style=_STYLE, body="\n".join(sections))
    write_text(workdir / "report.html", page)
    return workdir / "report.html"


def _check_config(config, base, workdir):
    """UserError if the run is of another system or data set than `base`."""
    try:
        found = f"{config['system']}.py:{config['data']['name']}"
    except (KeyError, TypeError) as e:
        raise UserError(f"{workdir / 'config.json'} is damaged: it has no system, or no data.name") from e
    if base is not None and found != f"{base['system']}.py:{base['data']['name']}":
        raise UserError(f"--workdir={workdir} holds another run, that of --config=configs/{found}")


def _check_results(results, workdir):
    """UserError if results.json does not hold numbers where scores are."""
    scores = [results.get(key) for key in ("mIoU", "pixel_accuracy", "mean_accuracy", "step", "seconds", "parameters")]
    for key in ("per_class_iou", "group_iou"):
        of = results.get(key, {})
        scores += of.values() if isinstance(of, dict) else [of or ""]
    if not all(score is None or type(score) in (int, float) for score in scores):
        raise UserError(
            f"{workdir / 'results.json'} is damaged: a score is no number; evaluate again (--mode=evaluate)"
        )


def _headline(results, metrics):
    """Scores in large, then what they were measured on."""
    if not results:
        scores = [entry for entry in metrics if entry["kind"] == "eval" and entry.get("mIoU") is not None]
        last = f" At step {scores[-1]['step']:,}, mIoU was {scores[-1]['mIoU']:.4f}." if scores else ""
        return f"<p class=note>Not evaluated yet: there is no results.json.{last}</p>"
    scores = "".join(
        f"<div><b>{_number(results.get(key))}</b>{name}</div>"
        for key, name in [("mIoU", "mIoU"), ("pixel_accuracy", "pixel accuracy"), ("mean_accuracy", "mean accuracy")]
    )
    facts = {
        "split": results.get("split"),
        "protocol": results.get("protocol"),
        "steps": f"{results['step']:,}" if "step" in results else None,
        "parameters": f"{results['parameters']:,}" if "parameters" in results else None,
        "time": duration(results["seconds"]) if "seconds" in results else None,
    }
    facts = "".join(f"<div><dt>{k}</dt><dd>{_text(v)}</dd></div>" for k, v in facts.items() if v is not None)
    return f"<div class=scores>{scores}</div>\n<dl>{facts}</dl>"


def _curves(metrics):
    if not metrics:
        return "<p class=note>Nothing logged yet: metrics.jsonl is missing or empty.</p>"
    pictures = []
    for name, figure in figures.training_curves(metrics).items():
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        pictures.append(_image(svg.getvalue(), "svg+xml", f"{name} over training steps"))
    return f"<div class=curves>{''.join(pictures)}</div>"


def _iou_table(results):
    """A row for each group and for each of its classes."""
    if "per_class_iou" not in results:
        return "<p class=note>Not evaluated yet.</p>"
    colours = dict(zip(results.get("class_names", []), results.get("palette", []), strict=False))
    iou, groups, rows = results["per_class_iou"], figures.class_groups(results), []
    for group, members in groups.items():
        if group:
            rows.append(_iou_row("group", _text(group), results.get("group_iou", {}).get(group)))
        elif len(groups) > 1:
            rows.append("<tr class=group><th>other classes</th><td></td><td></td></tr>\n")
        rows += [_iou_row("class", _swatch(colours.get(name)) + _text(name), iou.get(name)) for name in members]
    note = "<p class=note>–: neither in the truth nor predicted.</p>" if None in iou.values() else ""
    return f"<table class=iou>{''.join(rows)}</table>{note}"


def _iou_row(kind, name, iou):
    bar = f'<div class=track><div class=bar style="width:{100 * (iou or 0):.2f}%"></div></div>'
    return f"<tr class={kind}><th>{name}</th><td>{bar}</td><td>{_number(iou)}</td></tr>\n"


def _samples(path, results):
    if not path.exists():
        return "<p class=note>No pictures yet: an evaluation writes samples.npz.</p>"
    if not results.get("palette") or not results.get("class_names"):
        return "<p class=note>No pictures: results.json does not have the classes' names and colours.</p>"
    try:
        with np.load(path) as arrays:
            samples = [
                (str(name), [arrays[f"{kind}_{i}"] for kind in ("image", "label", "prediction")])
                for i, name in enumerate(arrays["names"])
            ]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as e:
        raise UserError(f"{path} is damaged ({e}): evaluate again") from e
    rows = []
    for name, sample in samples:
        png = io.BytesIO()
        Image.fromarray(figures.prediction_grid([sample], results["palette"])).save(png, "png", optimize=True)
        picture = _image(png.getvalue(), "png", f"{name}: image, truth and prediction")
        rows.append(f"<figure>{picture}<figcaption>{_text(name)}</figcaption></figure>\n")
    classes = zip(results["class_names"], results["palette"], strict=True)
    legend = "".join(f"<li>{_swatch(colour)}{_text(name)}</li>" for name, colour in classes)
    return (
        f"<ul class=legend>{legend}<li><i class='swatch ignored'></i>ignored</li></ul>"
        f"<div class=columns><span>image</span><span>truth</span><span>prediction</span></div>{''.join(rows)}"
    )


def _settings(config, base):
    """The command that makes the run, what it overrides, and the whole config folded away."""
    command = table = ""
    if base is not None:
        usual, flat = flatten(base), flatten(config)
        differ = {k: v for k, v in flat.items() if k not in usual or usual[k] != v}
        flags = [f"--config=configs/{flat.get('system')}.py:{flat.get('data.name')}"]
        flags += [f"--config.{k}={tuple(v) if isinstance(v, list) else v}" for k, v in differ.items()]
        command = " \\\n    ".join(["python main.py", *map(shlex.quote, flags)])
        cells = [(_text(k).replace(".", ".<wbr>"), _code(v), _code(usual.get(k))) for k, v in differ.items()]
        rows = [f"<tr><th>{field}</th><td>{here}</td><td>{before}</td></tr>" for field, here, before in cells]
        if rows:
            head = "<tr class=note><th>field</th><th>here</th><th>without override</th></tr>"
            table = f"<table>{head}{''.join(rows)}</table>"
        else:
            table = "<p class=note>Nothing is overridden.</p>"
    command = f"<pre>{_text(command)}</pre>" if command else ""
    everything = _text(json.dumps(config, indent=2))
    return f"{command}{table}<details><summary>the whole configuration</summary><pre>{everything}</pre></details>"


def _read_json(path):
    """The object in the file, {} if there is no file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no object")
    except ValueError as e:
        raise UserError(f"{path} is damaged ({e}): remove it") from e
    return value


def _section(heading, content):
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>"


def _image(data, kind, alt):
    return f'<img alt="{_text(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _swatch(colour):
    return f"<i class=swatch style='background:rgb({','.join(str(int(c)) for c in colour)})'></i>" if colour else ""


def _number(score):
    return "–" if score is None else f"{score:.4f}"


def _text(value):
    return html.escape(value if isinstance(value, str) else json.dumps(value))


def _code(value):
    return f"<code>{_text(value)}</code>"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c1e21; --faint: #666d75; --line: #dfe2e6; --page: #fff; --panel: #f5f6f8; --bar: #3b82f6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --faint: #9aa1a9; --line: #33383e; --page: #15181c; --panel: #1f2328; }
}
* { box-sizing: border-box; }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: .5rem 0 1rem; font-size: 1.6rem; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; border-bottom: 1px solid var(--line); }
.note, dt, figcaption, .columns { color: var(--faint); font-size: .875rem; }
.scores { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem; }
.scores div, pre { padding: .75rem; background: var(--panel); border-radius: .5rem; }
.scores div { color: var(--faint); font-size: .875rem; }
.scores b { display: block; color: var(--ink); font-size: 1.5rem; font-variant-numeric: tabular-nums; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; }
dd { margin: 0; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: .5rem; }
img { display: block; width: 100%; }
.curves img { max-width: 28rem; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .2rem .5rem .2rem 0; text-align: left; font-weight: normal; vertical-align: middle; }
.iou th { width: 35%; }
.iou td:last-child { width: 4.5rem; text-align: right; padding-right: 0; font-variant-numeric: tabular-nums; }
.group th, .group td { padding-top: .75rem; font-weight: bold; }
.track { background: var(--panel); border-radius: 2px; }
.bar { height: .7rem; background: var(--bar); opacity: .7; border-radius: 2px; }
.group .bar { opacity: 1; }
.swatch { display: inline-block; width: .8rem; height: .8rem; margin-right: .5rem; vertical-align: -1px;
  border: 1px solid var(--faint); }
.ignored { background: repeating-linear-gradient(135deg, #000 0 3px, #808080 3px 6px); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; font-size: .875rem; }
.columns { display: grid; grid-template-columns: repeat(3, 1fr); text-align: center; }
figure { margin: 0 0 .75rem; }
pre { overflow: auto; white-space: pre-wrap; font-size: .8125rem; }
summary { cursor: pointer; }
"""
