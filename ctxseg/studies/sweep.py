"""Sweeps: train the rows of a table over several seeds, each run in its own folder, and collect the results in a table.

A table of a paper is a file in `configs/tables/`; a grid of overrides also becomes a table.
"""

import itertools
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence

from ctxseg import data, files
from ctxseg.errors import UserError
from ctxseg.evaluation import splits
from ctxseg.runs import provenance, workdir
from ctxseg.settings import reading
from ctxseg.settings.fields import flatten_as_json
from ctxseg.studies import complexity, tables
from ctxseg.studies.collected import tabulate
from ctxseg.studies.execution import Run, commands, execute, read_scores, say, unique
from ctxseg.studies.tables import Row, Table
from ctxseg.tasks import task_of
from ctxseg.training import checks

# The field that names the run that a row starts from.
PRETRAINED = "model.pretrained"


def grid(system: str, dataset: str, sweeps: Sequence[str]) -> Table:
    """The table of all combinations of `sweeps`, each "field=value,value,…"; the last one varies fastest.

    Values with commas are in brackets: "data.crop=(64,64),(96,96)".

    Raises:
        UserError: a sweep without a field or a value, or a repeated field or value.
    """
    fields = {}
    for text in sweeps:
        field, _, values = text.removeprefix("config.").partition("=")
        # A comma outside brackets, which are not nested.
        parts = [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", values)]
        if not field or not all(parts):
            raise UserError(f"--sweep={text}: expected FIELD=VALUE,VALUE,…, such as model.context.stages=1,2,3")
        if field in fields:
            raise UserError(f"--sweep is given twice for {field}; give all its values at once")
        if len(set(parts)) < len(parts):
            raise UserError(f"--sweep={text}: expected different values")
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
    """Plans all runs of a table. Rows or columns with the same config share a run.

    An override must be read by at least one of its runs: for one in `common`, a run of any row; for one of a column or row, a run of that
    column or row. Runs that do not read an override are planned without it.

    Args:
        table: the table.
        seeds: number of seeds of each row: 0 … seeds−1. Complexity does not depend on the seed and uses one.
        folder: folder of the sweep.
        common: arguments of every run, "--config.a.b=value"; they take precedence over rows and columns.
        resolve: arguments → config without unread values; UserError if they are invalid.

    Returns:
        {(row, column, seed, fold): run} in the order of the table, all rows of a seed before the next seed.

    Raises:
        UserError: an invalid row, two equal rows, an override that nothing reads, or an override of the seed.
    """
    if seeds < 1:
        raise UserError(f"--seeds is {seeds}; expected at least 1")
    common_fields = set(map(_field, common))
    table_overrides = [
        *(changes for row in table.rows for changes in (row.overrides, *filter(None, row.on.values()))),
        *(column.overrides for column in table.columns),
        *table.folds,
    ]
    if "seed" in common_fields or any("seed" in overrides for overrides in table_overrides):
        raise UserError("config.seed is set by --seeds; remove it")
    runs: dict[tuple, Run] = {}
    run_of_config: dict[str, Run] = {}
    # Overrides, as (where it is given, its field): those that some run reads; and those that some run does not read, with what they need.
    read: set[tuple[str, str]] = set()
    unread_needs: dict[tuple[str, str], str] = {}
    for seed, (f, fold) in itertools.product(range(seeds if table.mode == "train" else 1), enumerate(table.folds)):
        for (r, row), (c, column) in itertools.product(enumerate(table.rows), enumerate(table.columns)):
            dataset = column.dataset or row.dataset or table.dataset
            if not row.runs_on(dataset) or not column.runs:
                continue
            overrides = dict(column.overrides) | row.overrides_on(dataset) | dict(fold)
            if table.mode == "train":
                overrides["seed"] = seed
            start = [f"--config=configs/{row.system}.py:{dataset}"] + [f"--mode={table.mode}"] * (table.mode != "train")
            # Each field only once: ml_collections joins a tuple that is given twice.
            changes = [*common, *(f"--config.{k}={v}" for k, v in overrides.items() if k not in common_fields)]
            first = None
            try:
                if row.start:
                    first = _start(row.start, dataset, common, seed, folder, resolve, run_of_config)
                    changes = [change for change in changes if _field(change) != PRETRAINED]
                    changes.append(f"--config.{PRETRAINED}={first.folder}")
                config = resolve([*start, *changes])
                chosen = complexity.chosen(config) if table.mode == "complexity" else None
                unread = reading.unread(config, table.mode, chosen)
                arguments = [*start, *(change for change in changes if _field(change) not in unread)]
                if len(arguments) < len(start) + len(changes):
                    config = resolve(arguments)
            except UserError as e:
                raise UserError(f"{table.name}, row {r} ({row.name}): {e}") from e
            places = {field: f", column {c} ({column.title})" for field in column.overrides}
            places |= {field: f", row {r} ({row.name})" for field in row.overrides_on(dataset)}
            places |= {field: f", fold {f}" for field in fold} | dict.fromkeys(common_fields, "")
            read |= {(place, field) for field, place in places.items() if field not in unread}
            unread_needs |= {(place, field): unread[field] for field, place in places.items() if field in unread}
            key = json.dumps(flatten_as_json(config), sort_keys=True)
            if key not in run_of_config:
                column_title = f", {column.title}" if len(table.columns) > 1 else ""
                fold_title = f", fold {f}" if len(table.folds) > 1 else ""
                name = _slug(f"{r} {row.name}{column_title}{fold_title} {seed}")
                run_of_config[key] = Run(
                    f"{row.name}{column_title}{fold_title}, seed {seed}" if table.mode == "train" else row.name,
                    (*arguments, f"--workdir={os.path.join(folder, name)}"),
                    config,
                    os.path.join(folder, name),
                    table.mode,
                    first,
                )
            runs[r, c, seed, f] = run_of_config[key]
    for (place, field), needs in unread_needs.items():
        if (place, field) not in read:
            raise UserError(f"{table.name}{place}: {reading.message(field, needs)}")
    _check_distinct(table, runs, common_fields)
    return runs


def _start(row, dataset, common, seed, folder, resolve, run_of_config):
    """The run that a row starts from, which `row` describes. Overrides of all rows apply to it where it reads them."""
    fields = set(map(_field, common))
    start = [f"--config=configs/{row.system}.py:{row.dataset or dataset}"]
    own = [f"--config.{k}={v}" for k, v in {**row.overrides, "seed": seed}.items() if k not in fields]
    changes = [*common, *own]
    unread = reading.unread(resolve([*start, *changes]), "train")
    arguments = [*start, *(change for change in changes if _field(change) not in unread)]
    config = resolve(arguments)
    key = json.dumps(flatten_as_json(config), sort_keys=True)
    if key not in run_of_config:
        name = os.path.join(folder, _slug(f"start {row.name} {seed}"))
        title = f"{row.name}, seed {seed}"
        run_of_config[key] = Run(title, (*arguments, f"--workdir={name}"), config, name, "train")
    return run_of_config[key]


def _field(argument):
    """The field of "--config.a.b=value"."""
    return re.match(r"--?(?:no)?config\.([^=]+)", argument)[1]


def _check_distinct(table, runs, common_fields):
    """UserError for two rows with the same run in every column, or two folds of a row with the same run."""
    row_folders, fold_numbers = {}, {}
    for (r, c, seed, f), run in runs.items():
        row_folders.setdefault(r, []).append(run.folder)
        fold_numbers.setdefault((r, c, seed), {}).setdefault(run.folder, []).append(f)
    for same in (folds for by_folder in fold_numbers.values() for folds in by_folder.values() if len(folds) > 1):
        raise UserError(
            f"{table.name}: folds {same[0]} and {same[1]} are the same run: they set the same values, or an override replaces them"
        )
    for a, b in itertools.combinations(row_folders, 2):
        if row_folders[a] == row_folders[b]:
            first, second = table.rows[a], table.rows[b]
            replaced = [f for f in common_fields if first.overrides.get(f) != second.overrides.get(f)]
            reason = f"--config.{replaced[0]} replaces their difference" if replaced else "they set the same values"
            raise UserError(f"{table.name}: rows {a} ({first.name}) and {b} ({second.name}) are the same run: {reason}")


def _slug(text):
    """`text` as the name of a folder."""
    return re.sub(r"[^a-z0-9.=]+", "-", text.lower()).strip("-")


def parse_rows(text: str, count: int) -> tuple[int, ...]:
    """ "0,2-4" → (0, 2, 3, 4). UserError if there is no such row among `count`."""
    rows: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        numbers = ends and range(int(ends[1]), int(ends[2] or ends[1]) + 1)
        if not numbers or numbers[-1] >= count:
            raise UserError(f"--rows={text}: expected row numbers from 0 to {count - 1}, such as 0,2-3")
        rows += numbers
    return tuple(dict.fromkeys(rows))


def check(runs: Sequence[Run]) -> None:
    """Checks everything but the data that could stop a run before its first step, including the shapes of every network to be trained.

    Raises:
        UserError: the first invalid run, and the reason.
    """
    checked = set()
    for run in unique(runs):
        config = run.config
        try:
            if run.mode == "complexity":
                complexity.check(config)
                continue
            class_names = data.metadata(config.data)["class_names"]
            checks.check_fields(config, class_names)
            network = json.dumps([config.model.to_dict(), config.data.crop, config.data.name], sort_keys=True)
            if network not in checked and read_scores(run) is None:
                checked.add(network)
                checks.check_network(config, class_names)
        except UserError as e:
            raise UserError(f"{run.title}: {e}") from e


def check_scores(table: Table, runs: Mapping[tuple, Run]) -> None:
    """UserError for a column of a score that one of its runs does not have: of another task, or of a class that its data set lacks."""
    for (_, column, *_), run in runs.items():
        name, place = (
            table.columns[column].score,
            f"table {table.name!r}, column {column} ({table.columns[column].title})",
        )
        scores = task_of(run.config).SCORES if run.mode == "train" else ()
        if name.startswith(tables.IOU) and "mIoU" in scores:
            classes = list(data.metadata(run.config.data)["class_names"])
            if name.removeprefix(tables.IOU) not in classes:
                raise UserError(
                    f"{place}: score is {name!r}; expected a class of {run.config.data.name}: {', '.join(classes)}"
                )
        elif name not in scores and (name in tables.SHARES or name.startswith(tables.IOU)):
            raise UserError(f"{place}: score is {name!r}; expected one of {run.config.system}: {', '.join(scores)}")


def check_folders(runs: Sequence[Run]) -> None:
    """UserError if a folder has a run with another config: its results would be taken into the table."""
    for run in unique(runs):
        saved = os.path.join(run.folder, "config.json")
        if os.path.exists(saved):
            workdir.check_same(saved, run.config)


def prepare(runs: Sequence[Run]) -> None:
    """Builds the missing data sets of the runs, so that a fault in one is reported only once.

    Raises:
        UserError: as `data.load`, a missing split, or a run that was trained on other data.
    """
    built = {}
    for run in unique(runs):
        config = run.config
        key = config.data.name, config.data.data_dir, config.data.manual_dir
        if run.mode == "train" and key not in built:
            built[key] = data.load(*key)
        if run.mode == "train":
            splits.check_split(built[key], config.train.split, "config.train.split")
            splits.check_split(splits.load_tested(config), config.eval.split)
            others = [other for _, other in splits.load_mixture(config, built[key])]
            dataset = provenance.describe(built[key], config.data.manual_dir, others)
            provenance.check(run.folder, dataset, "choose another --workdir, or remove that run")


def write(results: dict, folder: str) -> str:
    """Writes table.md, table.csv, table.json and report.html to `folder`. Returns the path of report.html. OSError if that fails."""
    files.write_text(os.path.join(folder, "table.md"), tables.markdown(results))
    files.write_text(os.path.join(folder, "table.csv"), tables.as_csv(results))
    files.write_json(os.path.join(folder, "table.json"), results)
    run_folders = [
        [os.path.relpath(run, folder) for cell in row["cells"] for run in cell["runs"]] for row in results["rows"]
    ]
    page = os.path.join(folder, "report.html")
    files.write_text(page, tables.as_html(results, run_folders))
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
    """`--mode=sweep`: executes the unfinished runs of the rows, prints the table and writes it to `folder`.

    Args:
        rows: numbers of the rows to run, see `parse_rows`; "" for all. The table includes existing results of the other rows.
        dry_run: only print the commands.

    The other arguments are those of `plan` and `execute`.

    Returns:
        The number of failed runs.

    Raises:
        UserError: an invalid run, before any training; or an interruption.
    """
    tables.check(table)
    if files.is_remote(folder):
        raise UserError(
            f"--workdir={folder}: expected a local folder, since a sweep locks its runs and keeps their logs there"
        )
    chosen = parse_rows(rows, len(table.rows)) if rows else range(len(table.rows))
    runs = plan(table, seeds, folder, common, resolve)
    selected = [run for (row, *_), run in runs.items() if row in chosen]
    check_scores(table, runs)
    check_folders(list(runs.values()))
    say(f"checking {len(unique(selected))} runs")  # a large network takes seconds
    check(selected)
    if dry_run:
        for line in commands(selected):
            print(line)
        return 0
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise UserError(f"--workdir={folder} cannot be used: {e.strerror}; choose another --workdir") from e
    prepare(selected)
    failed = execute(selected, command, jobs)
    results = tabulate(table, runs, failed)
    try:
        page = write(results, folder)
    except OSError as e:
        raise UserError(
            f"{e.filename} cannot be written: {e.strerror}; run the same command to write the table again"
        ) from e
    print(tables.markdown(results), page, sep="\n")
    return len(failed)
