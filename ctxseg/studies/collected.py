"""The results of the runs of a table, collected: their means over seeds, and the differences between rows."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from ctxseg.errors import UserError
from ctxseg.evaluation import bootstrap
from ctxseg.runs import record
from ctxseg.studies.execution import Run, read_scores, say, unique
from ctxseg.studies.tables import Table


def tabulate(table: Table, runs: Mapping[tuple, Run], failed: Mapping[str, str]) -> dict:
    """The table of the results so far.

    Args:
        table: the table.
        runs: result of `sweep.plan`.
        failed: result of `execute`.

    Returns:
        `name`, `source`, `dataset`, `note`, `seeds`, `columns`, and `rows`. A row has `name`, `failed`, `parameters`, `minutes`, and
        `cells`, one per column: `ours`, {seed: result, the mean over folds} of finished runs; their `mean` and `std`; `paper`;
        `difference` and `paper_difference` from the first row; `interval` of the difference in mIoU, see `bootstrap`; `classes`, the
        numbers of classes over which mIoU is averaged, which may differ between runs; `runs`, their folders. Missing values are None.
    """
    seeds, folds = (sorted({key[i] for key in runs}) for i in (2, 3))
    finished: dict[str, dict[str, float]] = {}
    faults = dict(failed)
    for run in unique(runs.values()):
        try:
            if scores := read_scores(run):
                finished[run.folder] = scores
        except UserError as e:
            faults.setdefault(run.folder, str(e))
    rows: list[dict[str, Any]] = []
    for r, row in enumerate(table.rows):
        cells: list[dict[str, Any]] = []
        for c, column in enumerate(table.columns):
            ours: dict[int, float] = {}
            folders: list[str] = []
            for seed in seeds:
                fold_folders = [runs[r, c, seed, f].folder for f in folds if (r, c, seed, f) in runs]
                values = [finished[folder][column.score] for folder in fold_folders if folder in finished]
                if fold_folders and len(values) == len(fold_folders) and None not in values:
                    ours[seed] = statistics.mean(values)
                folders += [folder for folder in fold_folders if folder in finished]
            cell_scores = [finished[folder] for folder in folders]
            cell: dict[str, Any] = {
                "ours": ours,
                "mean": statistics.mean(ours.values()) if ours else None,
                "std": statistics.stdev(ours.values()) if len(ours) > 1 else None,
                "paper": row.paper[c] if c < len(row.paper) else None,
                "difference": None,
                "paper_difference": None,
                "interval": None,
                "classes": sorted({s["classes"] for s in cell_scores if column.score == "mIoU" and "classes" in s}),
                "runs": folders,
            }
            if rows:
                first = rows[0]["cells"][c]
                cell["difference"] = _minus(cell["mean"], first["mean"])
                cell["paper_difference"] = _minus(cell["paper"], first["paper"])
                if column.score == "mIoU":
                    cell["interval"] = _interval(first["runs"], cell["runs"])
            cells.append(cell)
        row_scores = [finished[folder] for cell in cells for folder in cell["runs"]]
        parameters = _mean(row_scores, "parameters, M")
        row_faults = [faults[run.folder] for key, run in runs.items() if key[0] == r and run.folder in faults]
        rows.append(
            {
                "name": row.name,
                "cells": cells,
                "parameters": None if parameters is None else round(1e6 * parameters),
                "minutes": _mean(row_scores, "minutes"),
                "failed": row_faults[0] if row_faults else None,
            }
        )
    description = {key: getattr(table, key) for key in ("name", "source", "dataset", "note")}
    return description | {"seeds": len(seeds), "columns": [column.title for column in table.columns], "rows": rows}


def _mean(scores, name):
    """The mean of a score over runs; None without runs, or without the score."""
    return statistics.mean(s[name] for s in scores) if scores and name in scores[0] else None


def _minus(value, first):
    """The difference of two numbers; None if one of them is not a number."""
    return value - first if all(type(x) in (int, float) for x in (value, first)) else None


def _interval(first, second):
    """The interval of the difference in mIoU, in points, between the runs in two lists of folders; None without the same images."""
    try:
        systems = [[record.read_image_counts(folder) for folder in folders] for folders in (first, second)]
    except UserError as e:
        say(f"warning: {e}")
        return None
    runs = [run for system in systems for run in system]
    if not first or not second or None in runs or any(names != runs[0][0] for names, _ in runs):
        return None
    difference = bootstrap.difference(*(np.stack([counts for _, counts in system]) for system in systems))
    return [100 * difference.low, 100 * difference.high]
