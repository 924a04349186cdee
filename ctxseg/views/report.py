"""Reports on one or several runs as a self-contained HTML page: scores, curves, the sections of their task, settings."""

import json
import os
import shlex
from collections.abc import Callable

from etils import epath

from ctxseg import program
from ctxseg.errors import UserError
from ctxseg.files import resolved, write_text
from ctxseg.progress import duration
from ctxseg.runs import provenance, record
from ctxseg.settings.fields import flatten_as_json
from ctxseg.views import curves, instance_report, page, reported_run, semantic_report

# The sections of each task.
VIEWS = {record.SEMANTIC: semantic_report, record.INSTANCES: instance_report}
# The name of the page on where a run fails, see `failures`.
FAILURES = "failures.html"


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
        first, second = (r.task for r in (runs[0], run))
        if first != second:
            raise UserError(
                f"{folder} is a run of {second} segmentation, but {folders[0]} of {first}; a report needs one task"
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
        write_text(path, _page(title, runs, epath.Path(path)))
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from e
    return epath.Path(path)


def _page(title, runs, path):
    """The HTML of the page."""
    view = VIEWS[runs[0].task]
    return page.render(
        "report.html",
        title=title,
        headlines=[headline(run) for run in runs],
        failures=_failures(runs, path),
        curves=_curves(runs),
        sections=view.TEMPLATE,
        **view.sections(runs),
        settings=_settings(runs),
    )


def headline(run) -> dict:
    """The scores of a run, and facts about their evaluation."""
    results = run.results
    if not results:
        name = record.headline_scores({"task": run.task})[0]
        scores = [entry for entry in run.metrics if entry["kind"] == "eval" and entry.get(name) is not None]
        last = f" At step {scores[-1]['step']:,}, {_words(name)} was {scores[-1][name]:.4f}." if scores else ""
        return {"run": run, "note": f"Not evaluated yet: results.json is missing.{last}"}
    scores = [(_words(key), page.number(results.get(key))) for key in record.headline_scores(results)]
    facts = {
        **{_words(key): page.number(results[key]) for key in ("boundary_IoU", "ECE") if results.get(key) is not None},
        "data": run.other_data,
        "split": results.get("split"),
        "protocol": results.get("protocol"),
        "weights": "averages of the parameters (config.eval.averages)"
        if results.get("eval", {}).get("averages")
        else None,
        "steps": f"{results['step']:,}" if "step" in results else None,
        "parameters": f"{results['parameters']:,}" if "parameters" in results else None,
        "time": duration(results["seconds"]) if "seconds" in results else None,
    }
    return {"run": run, "note": None, "scores": scores, "facts": [(k, v) for k, v in facts.items() if v is not None]}


def _failures(runs, path):
    """The link to the page on where the run fails, if that is beside this page, and the command that writes it; None for several runs."""
    if len(runs) > 1 or not runs[0].results:
        return None
    folder = runs[0].folder
    exists = path.parent == folder and (folder / FAILURES).exists()
    command = f"{program.NAME} --mode=failures --workdir={shlex.quote(os.fspath(folder))}"
    return {"link": FAILURES if exists else None, "command": command}


def _words(score):
    """The name of a score in results.json as text."""
    return score.replace("_", " ")


def _curves(runs):
    """The training curves as pictures, the share of the time in which each run waited for data, and the names of runs without a log."""
    pictures = []
    for name, figure in curves.training_curves([run.metrics for run in runs]).items():
        pictures.append(page.figure(figure, f"{name} over training steps"))
    shares = [(run, _waiting(run.metrics)) for run in runs]
    waiting = [(run, f"{100 * share:.1f} %") for run, share in shares if share is not None]
    return {"pictures": pictures, "waiting": waiting, "missing": [run.name for run in runs if not run.metrics]}


def _waiting(metrics):
    """The share of the training time in which the devices waited for data, None if it was not logged."""
    previous, waited, total = 0, 0.0, 0.0
    for entry in metrics:
        if entry["kind"] == "train":
            steps, previous = entry["step"] - previous, entry["step"]
            speed, share = entry.get("images_per_second"), entry.get("waiting_for_data")
            if speed and share is not None:
                time = steps / speed  # in units that the batch size makes seconds
                waited, total = waited + share * time, total + time
    return waited / total if total else None


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


def _code(value):
    """A field's value as text."""
    return value if isinstance(value, str) else json.dumps(value)
