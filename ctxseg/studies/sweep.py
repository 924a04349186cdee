"""Sweeps: the rows of a table, each trained over several seeds in folders of their own, and the table made of what they gave.

A table of a paper is a file in `configs/tables/`; a grid of overrides becomes a table too.
"""

import itertools
import json
import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ctxseg import data, files
from ctxseg.errors import UserError
from ctxseg.evaluation import bootstrap, evaluate
from ctxseg.runs import provenance, record, workdir
from ctxseg.settings import reading
from ctxseg.settings.fields import flatten_as_json
from ctxseg.studies import complexity, tables
from ctxseg.studies.execution import Run, commands, execute, read_scores, say, unique
from ctxseg.studies.tables import Row, Table
from ctxseg.training import checks


def grid(system: str, dataset: str, sweeps: Sequence[str]) -> Table:
    """The table of all combinations of `sweeps`, each "field=value,value,…"; the last one varies fastest.

    Values with commas are in brackets: "data.crop=(64,64),(96,96)".

    Raises:
        UserError: one that has no field or no value, or a field that comes twice.
    """
    fields = {}
    for text in sweeps:
        field, _, values = text.removeprefix("config.").partition("=")
        # A comma outside of brackets, which are not nested.
        parts = [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", values)]
        if not field or not all(parts):
            raise UserError(f"--sweep={text} cannot be: it wants FIELD=VALUE,VALUE,…, as model.context.stages=1,2,3")
        if field in fields:
            raise UserError(f"--sweep is given twice for {field}: give all its values in one")
        if len(set(parts)) < len(parts):
            raise UserError(f"--sweep={text} has a value twice")
        fields[field] = parts
    names = [field.rpartition(".")[2] for field in fields]
    names = [short if names.count(short) == 1 else field for short, field in zip(names, fields, strict=True)]
    rows = []
    for chosen in itertools.product(*fields.values()):
        name = ", ".join(f"{name}={value}" for name, value in zip(names, chosen, strict=True))
        rows.append(Row(name or system, system, dict(zip(fields, chosen, strict=True))))
    name = f"{system}-{','.join(fields) or 'seeds'}"
    return Table(name, f"{system}: {' × '.join(fields) or 'seeds'}", dataset, rows)


def plan(table: Table, seeds: int, folder: str, common: Sequence[str], resolve: Callable) -> dict[tuple, Run]:
    """All runs of a table. What several rows or columns have in common is one run.

    An override must be read by one of the runs that it is for: one in `common` by a run of any row, a column's by one of the column, a
    row's by one of the row. From the others it is left out.

    Args:
        table: the rows.
        seeds: of each row: 0 … seeds−1. What a network costs does not depend on it: one.
        folder: of the sweep.
        common: arguments of every run, "--config.a.b=value"; they override rows and columns.
        resolve: arguments → config, without what nothing reads; UserError if they cannot be.

    Returns:
        {(row, column, seed, fold): run}, in the order of the table, all rows of a seed before the next one.

    Raises:
        UserError: a row that cannot be run; two that are the same; an override that nothing reads; or a seed that is set otherwise than
            by `seeds`.
    """
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}, but must be at least 1")
    given = set(map(_field, common))
    of_table = [*(row.overrides for row in table.rows), *(column.overrides for column in table.columns), *table.folds]
    if "seed" in given or any("seed" in overrides for overrides in of_table):
        raise UserError("config.seed is what --seeds counts: leave it out")
    runs: dict[tuple, Run] = {}
    known: dict[str, Run] = {}
    used: set[tuple[str, str]] = set()
    idle: dict[tuple[str, str], str] = {}
    for seed, (f, fold) in itertools.product(range(seeds if table.mode == "train" else 1), enumerate(table.folds)):
        for (r, row), (c, column) in itertools.product(enumerate(table.rows), enumerate(table.columns)):
            if row.system is None or not column.runs:
                continue
            overrides = dict(column.overrides) | dict(row.overrides) | dict(fold)
            if table.mode == "train":
                overrides["seed"] = seed
            dataset = column.dataset or row.dataset or table.dataset
            start = [f"--config=configs/{row.system}.py:{dataset}"] + [f"--mode={table.mode}"] * (table.mode != "train")
            # Not both: a tuple that is given twice is joined.
            changes = [*common, *(f"--config.{k}={v}" for k, v in overrides.items() if k not in given)]
            try:
                config = resolve([*start, *changes])
                chosen = complexity.chosen(config) if table.mode == "complexity" else None
                unread = reading.unread(config, table.mode, chosen)
                arguments = [*start, *(change for change in changes if _field(change) not in unread)]
                if len(arguments) < len(start) + len(changes):
                    config = resolve(arguments)
            except UserError as e:
                raise UserError(f"{table.name}, row {r} ({row.name}): {e}") from e
            places = {field: f", column {c} ({column.title})" for field in column.overrides}
            places |= {field: f", row {r} ({row.name})" for field in row.overrides}
            places |= {field: f", fold {f}" for field in fold} | dict.fromkeys(given, "")
            used |= {(place, field) for field, place in places.items() if field not in unread}
            idle |= {(place, field): unread[field] for field, place in places.items() if field in unread}
            same = json.dumps(flatten_as_json(config), sort_keys=True)
            if same not in known:
                of_column = f", {column.title}" if len(table.columns) > 1 else ""
                of_fold = f", fold {f}" if len(table.folds) > 1 else ""
                name = _slug(f"{r} {row.name}{of_column}{of_fold} {seed}")
                known[same] = Run(
                    f"{row.name}{of_column}{of_fold}, seed {seed}" if table.mode == "train" else row.name,
                    (*arguments, f"--workdir={os.path.join(folder, name)}"),
                    config,
                    os.path.join(folder, name),
                    table.mode,
                )
            runs[r, c, seed, f] = known[same]
    for (place, field), why in idle.items():
        if (place, field) not in used:
            raise UserError(f"{table.name}{place}: {reading.message(field, why)}")
    _check_distinct(table, runs, given)
    return runs


def _field(argument):
    """The field of "--config.a.b=value"."""
    return re.match(r"--?(?:no)?config\.([^=]+)", argument)[1]


def _check_distinct(table, runs, given):
    """UserError for two rows that are one run in every column, or two folds of one: a comparison of something with itself."""
    of_rows, of_folds = {}, {}
    for (r, c, seed, f), run in runs.items():
        of_rows.setdefault(r, []).append(run.folder)
        of_folds.setdefault((r, c, seed), {}).setdefault(run.folder, []).append(f)
    for same in (folds for of in of_folds.values() for folds in of.values() if len(folds) > 1):
        raise UserError(
            f"{table.name}: folds {same[0]} and {same[1]} are the same run: they set the same values, or what parts them is overridden"
        )
    for a, b in itertools.combinations(of_rows, 2):
        if of_rows[a] == of_rows[b]:
            first, second = table.rows[a], table.rows[b]
            parting = [f for f in given if first.overrides.get(f) != second.overrides.get(f)]
            why = f"--config.{parting[0]} overrides what parts them" if parting else "they set the same values"
            raise UserError(f"{table.name}: rows {a} ({first.name}) and {b} ({second.name}) are the same run: {why}")


def _slug(text):
    return re.sub(r"[^a-z0-9.=]+", "-", text.lower()).strip("-")


def parse_rows(text: str, count: int) -> tuple[int, ...]:
    """ "0,2-4" → (0, 2, 3, 4). UserError if that is not of `count` rows."""
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        chosen = ends and range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        if not chosen or chosen[-1] >= count:
            raise UserError(f"--rows={text} cannot be: it wants numbers of rows, 0 to {count - 1}, as 0,2-3")
        found += chosen
    return tuple(dict.fromkeys(found))


def check(runs: Sequence[Run]) -> None:
    """Finds what would stop a run before its first step, but for the data; of those to be made, every network in the abstract.

    Raises:
        UserError: the first run that cannot be, and why.
    """
    known = set()
    for run in unique(runs):
        config = run.config
        try:
            if run.mode == "complexity":
                complexity.check(config)
                continue
            class_names = data.metadata(config.data)["class_names"]
            checks.check_fields(config, class_names)
            network = json.dumps([config.model.to_dict(), config.data.crop, config.data.name], sort_keys=True)
            if network not in known and read_scores(run) is None:
                known.add(network)
                checks.check_network(config, class_names)
        except UserError as e:
            raise UserError(f"{run.title}: {e}") from e


def check_classes(table: Table, runs: Mapping[tuple, Run]) -> None:
    """UserError for a column of a class that the data set of one of its runs does not have."""
    for (_, column, *_), run in runs.items():
        name = table.columns[column].score
        if name.startswith(tables.IOU):
            classes = list(data.metadata(run.config.data)["class_names"])
            if name.removeprefix(tables.IOU) not in classes:
                raise UserError(
                    f"table {table.name!r}, column {column} ({table.columns[column].title}): score is {name!r}, but the classes of "
                    f"{run.config.data.name} are {', '.join(classes)}"
                )


def check_folders(runs: Sequence[Run]) -> None:
    """UserError if a folder holds the run of another config: its figures would stand in the same table."""
    for run in unique(runs):
        saved = os.path.join(run.folder, "config.json")
        if os.path.exists(saved):
            workdir.check_same(saved, run.config)


def prepare(runs: Sequence[Run]) -> None:
    """Builds the data sets of the runs, or finds them built, so that a fault in one is said once.

    Raises:
        UserError: as `data.load`, a split that a run asks for is not there, or a run was made of other data.
    """
    built = {}
    for run in runs:
        config = run.config
        key = config.data.name, config.data.data_dir, config.data.manual_dir
        if run.mode == "train" and key not in built:
            built[key] = data.load(*key)
        if run.mode == "train":
            evaluate.split_source(built[key], config.train.split, 0, "config.train.split")
            evaluate.split_source(evaluate.load_tested(config), config.eval.split, 0)
            dataset = provenance.describe(built[key], config.data.manual_dir)
            provenance.check(run.folder, dataset, "choose another --workdir, or remove that run")


def tabulate(table: Table, runs: Mapping[tuple, Run], failed: Mapping[str, str]) -> dict:
    """The table as far as there are results.

    Returns:
        `name`, `source`, `dataset`, `note`, `seeds`, `columns`, and `rows`: of each `name`, `failed`, `parameters`, `minutes`, and
        `cells`, one a column: `ours`, {seed: figure, of folds the mean} of what is finished; their `mean` and `std`; `paper`;
        `difference` and `paper_difference` to the first row; `interval` of the difference of mIoU, see `bootstrap`; `classes`, how
        many mIoU is the mean of, in one run or another; `runs`, the folders. None where something is missing.
    """
    seeds, folds = (sorted({key[i] for key in runs}) for i in (2, 3))
    found: dict[str, dict[str, float]] = {}
    faults = dict(failed)
    for run in unique(runs.values()):
        try:
            if figures := read_scores(run):
                found[run.folder] = figures
        except UserError as e:
            faults.setdefault(run.folder, str(e))
    rows: list[dict[str, Any]] = []
    for r, row in enumerate(table.rows):
        cells: list[dict[str, Any]] = []
        for c, column in enumerate(table.columns):
            ours: dict[int, float] = {}
            made: list[str] = []
            for seed in seeds:
                of_folds = [runs[r, c, seed, f].folder for f in folds if (r, c, seed, f) in runs]
                values = [found[folder][column.score] for folder in of_folds if folder in found]
                if of_folds and len(values) == len(of_folds) and None not in values:
                    ours[seed] = statistics.mean(values)
                made += [folder for folder in of_folds if folder in found]
            scores = [found[folder] for folder in made]
            cell: dict[str, Any] = {
                "ours": ours,
                "mean": statistics.mean(ours.values()) if ours else None,
                "std": statistics.stdev(ours.values()) if len(ours) > 1 else None,
                "paper": row.paper[c] if c < len(row.paper) else None,
                "difference": None,
                "paper_difference": None,
                "interval": None,
                "classes": sorted({s["classes"] for s in scores if column.score == "mIoU" and "classes" in s}),
                "runs": made,
            }
            if rows:
                first = rows[0]["cells"][c]
                cell["difference"] = _minus(cell["mean"], first["mean"])
                cell["paper_difference"] = _minus(cell["paper"], first["paper"])
                if column.score == "mIoU":
                    cell["interval"] = _interval(first["runs"], cell["runs"])
            cells.append(cell)
        scores = [found[folder] for cell in cells for folder in cell["runs"]]
        wrong = [faults[run.folder] for key, run in runs.items() if key[0] == r and run.folder in faults]
        rows.append(
            {
                "name": row.name,
                "cells": cells,
                "parameters": round(1e6 * statistics.mean(s["parameters, M"] for s in scores)) if scores else None,
                "minutes": statistics.mean(s["minutes"] for s in scores) if scores and "minutes" in scores[0] else None,
                "failed": wrong[0] if wrong else None,
            }
        )
    about = {key: getattr(table, key) for key in ("name", "source", "dataset", "note")}
    return about | {"seeds": len(seeds), "columns": [column.title for column in table.columns], "rows": rows}


def _minus(value, first):
    return value - first if all(type(x) in (int, float) for x in (value, first)) else None


def _interval(first, second):
    """Of the difference in mIoU between the runs in two lists of folders, in points; None if they were not tested on the same images."""
    try:
        found = [[record.read_image_counts(folder) for folder in folders] for folders in (first, second)]
    except UserError as e:
        say(f"warning: {e}")
        return None
    images = [of for part in found for of in part]
    if not first or not second or None in images or any(names != images[0][0] for names, _ in images):
        return None
    difference = bootstrap.difference(*(np.stack([counts for _, counts in part]) for part in found))
    return [100 * difference.low, 100 * difference.high]


def write(made: dict, folder: str) -> str:
    """Writes table.md, table.csv, table.json and report.html into `folder`; returns the path of the last. OSError if it cannot."""
    files.write_text(os.path.join(folder, "table.md"), tables.markdown(made))
    files.write_text(os.path.join(folder, "table.csv"), tables.as_csv(made))
    files.write_json(os.path.join(folder, "table.json"), made)
    pages = [[os.path.relpath(run, folder) for cell in row["cells"] for run in cell["runs"]] for row in made["rows"]]
    page = os.path.join(folder, "report.html")
    files.write_text(page, tables.as_html(made, pages))
    return page


def sweep(
    table: Table,
    folder: str,
    common: Sequence[str],
    resolve: Callable,
    command: Sequence[str],
    seeds: int = 1,
    rows: str = "",
    jobs: int = 1,
    dry_run: bool = False,
) -> int:
    """`--mode=sweep`: makes the runs of the rows that are not finished, prints the table and writes it into `folder`.

    Args:
        rows: numbers of the rows to run, see `parse_rows`; "" for all. The table has what there is of the others.
        dry_run: print the commands instead.

    The others are those of `plan` and `execute`.

    Returns:
        How many runs failed.

    Raises:
        UserError: before anything trains, what cannot be run; or an interruption.
    """
    tables.check(table)
    if files.is_remote(folder):
        raise UserError(
            f"--workdir={folder}: expected a folder of this machine, where a sweep locks its runs and keeps their logs"
        )
    chosen = parse_rows(rows, len(table.rows)) if rows else range(len(table.rows))
    runs = plan(table, seeds, folder, common, resolve)
    wanted = [run for (row, *_), run in runs.items() if row in chosen]
    check_classes(table, runs)
    check_folders(list(runs.values()))
    say(f"checking {len(unique(wanted))} runs")  # large networks take seconds each
    check(wanted)
    if dry_run:
        for line in commands(wanted):
            print(line)
        return 0
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise UserError(f"--workdir={folder} cannot be used: {e.strerror}") from e
    prepare(wanted)
    failed = execute(wanted, command, os.path.join(folder, "compiled"), jobs)
    made = tabulate(table, runs, failed)
    try:
        page = write(made, folder)
    except OSError as e:
        raise UserError(f"{e.filename} cannot be written: {e.strerror}; the same command writes the table again") from e
    print(tables.markdown(made), page, sep="\n")
    return len(failed)
