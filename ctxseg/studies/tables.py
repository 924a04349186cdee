"""Tables of results: their description in `configs/tables/`, and their output as Markdown, CSV and HTML."""

import csv
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ctxseg.errors import UserError
from ctxseg.runs.record import IOU
from ctxseg.views import page

# The scores of a run by its mode; for `train` also IOU followed by the name of a class. A run has the shares of its task.
SHARES = (
    "mIoU",
    "pixel accuracy",
    "mean accuracy",
    "mean F1",
    "frequency weighted IoU",
    "boundary IoU",
    "mask AP",
    "mask AP50",
    "mask AP75",
    "box AP",
    "box AP50",
    "box AP75",
)
SCORES = {
    "train": (*SHARES, "seconds per image", "parameters, M", "minutes"),
    "complexity": ("parameters, M", "multiply-adds, G", "milliseconds"),
}


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: heading of the column.
        score: one of `SCORES`, or `IoU of CLASS` for a class of the data set.
        overrides: {field: value} of the config, if the column has its own runs; a row's overrides take precedence.
        dataset: data set of the column; None: the row's data set.
        runs: whether the column has our results; False if a test server keeps the labels.
    """

    title: str = "mIoU"
    score: str = "mIoU"
    overrides: Mapping[str, Any] = {}
    dataset: str | None = None
    runs: bool = True


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        name: name in the table.
        system: name of the config file. None if there is no code for the row, if a test server keeps the labels, or if the paper starts it
            from weights that its other rows do not use. The table then shows only the paper's results, and its note the closest runs.
        overrides: {field: value} of the system's config.
        paper: the paper's result in each column: a number, a text, or None.
        dataset: data set of the row; None: the table's data set.
        on: {data set: {field: value}}: overrides of the row on one data set, in a table over several. They take precedence. None: the row
            has no run on this data set.
        start: a row whose run this row starts from, for example on another data set. A sweep trains it first; it is not a row of the
            table. None: the row starts from `config.model.pretrained`.
    """

    name: str
    system: str | None
    overrides: Mapping[str, Any] = {}
    paper: Sequence[float | str | None] = ()
    dataset: str | None = None
    start: "Row | None" = None
    on: Mapping[str, Mapping[str, Any] | None] = {}

    def runs_on(self, dataset: str) -> bool:
        """Whether the row has a run on a data set."""
        return self.system is not None and self.on.get(dataset, {}) is not None

    def overrides_on(self, dataset: str) -> dict[str, Any]:
        """{field: value} of the row's run on a data set."""
        return {**self.overrides, **(self.on.get(dataset) or {})}


class Table(NamedTuple):
    """A table of results. Its rows are compared with the first row.

    Attributes:
        name: name of its folder.
        source: paper and table number, or the fields of a grid.
        dataset: data set of the rows that name none.
        rows: the rows; the others are compared with the first.
        columns: the columns.
        mode: mode of every run: `train`, which ends with an evaluation, or `complexity`.
        folds: overrides of the runs over which each result is averaged, as in cross-validation.
        note: a sentence for the reader.
    """

    name: str
    source: str
    dataset: str
    rows: Sequence[Row]
    columns: Sequence[Column] = (Column(),)
    mode: str = "train"
    folds: Sequence[Mapping[str, Any]] = ({},)
    note: str = ""


def check(table: Table) -> None:
    """Checks a table before anything is trained for it.

    Raises:
        UserError: the first field with an invalid value, by row and column.
    """

    def expect(valid, place, field, value, rule):
        if not valid:
            raise UserError(f"table {table.name!r}{place}: {field} is {value!r}; expected {rule}")

    is_folder = isinstance(table.name, str) and re.fullmatch(r"[\w.,-]*\w[\w.,-]*", table.name)
    expect(is_folder, "", "name", table.name, "the name of a folder")
    for field in ("source", "dataset", "note"):
        expect(isinstance(getattr(table, field), str), "", field, getattr(table, field), "a text")
    expect(table.mode in [*SCORES], "", "mode", table.mode, " or ".join(SCORES))
    for field, kind, rule in (
        ("rows", Row, "Row"),
        ("columns", Column, "Column"),
        ("folds", Mapping, "{field: value}"),
    ):
        entries = getattr(table, field)
        valid = isinstance(entries, (list, tuple)) and not isinstance(entries, kind) and bool(entries)
        expect(valid and all(isinstance(e, kind) for e in entries), "", field, entries, f"a list of one or more {rule}")
    for field, names in (("rows", [row.name for row in table.rows]), ("columns", [c.title for c in table.columns])):
        valid = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
        expect(valid, "", f"the names of {field}", names, "different texts")
    for c, column in enumerate(table.columns):
        scores, place = SCORES[table.mode], f", column {c} ({column.title})"
        is_iou = table.mode == "train" and isinstance(column.score, str) and column.score.startswith(IOU)
        rule = f"one of {', '.join(scores)}{f', {IOU}CLASS' * (table.mode == 'train')}"
        expect(is_iou or column.score in [*scores], place, "score", column.score, rule)
        expect(isinstance(column.overrides, Mapping), place, "overrides", column.overrides, "{field: value}")
    for r, row in enumerate(table.rows):
        place = f", row {r} ({row.name})"
        expect(isinstance(row.overrides, Mapping), place, "overrides", row.overrides, "{field: value}")
        valid = isinstance(row.on, Mapping) and all(
            changes is None or isinstance(changes, Mapping) for changes in row.on.values()
        )
        expect(valid, place, "on", row.on, "{data set: {field: value}, or None}")
        started = row.start is None or isinstance(row.start, Row) and bool(row.start.system) and row.start.start is None
        expect(started, place, "start", row.start, "None, or a Row with a system that starts from no other row")
        valid = isinstance(row.paper, (list, tuple)) and len(row.paper) <= len(table.columns)
        valid = valid and all(map(_is_result, row.paper))
        rule = f"a list of at most {len(table.columns)} numbers, texts or None, one per column"
        expect(valid, place, "paper", row.paper, rule)


def _is_result(x: Any) -> bool:
    """Whether `x` is a valid result of a paper: a finite number, a text or None."""
    return x is None or type(x) is str or type(x) in (int, float) and math.isfinite(x)


def on(table: Table, dataset: str | None) -> Table:
    """A table whose columns are data sets, reduced to the column of `dataset`, or else to the first column, run on `dataset`.

    Args:
        table: a table whose rows name no data set.
        dataset: None: the table is returned unchanged.
    """
    if dataset is None:
        return table
    datasets = [column.dataset for column in table.columns]
    c = datasets.index(dataset) if dataset in datasets else 0
    rows = [row._replace(paper=row.paper[c : c + 1]) for row in table.rows]
    note = "" if dataset in datasets else f"The paper's results are on {table.columns[c].title}."
    return table._replace(
        dataset=dataset,
        rows=[row for row in rows if row.runs_on(dataset) or row.paper[0] is not None],
        columns=[table.columns[c]._replace(title=table.columns[c].score, dataset=None)],
        note=" ".join(filter(None, (table.note, note))),
    )


class Orderings(NamedTuple):
    """How the pairs of rows that differ in the paper are ordered here, by their means.

    Attributes:
        same: number of pairs in the paper's order that differ by more than the variation between seeds.
        undecided: number of pairs that differ by less.
        reversed: (better in the paper, worse) for pairs in the opposite order.
    """

    same: int
    undecided: int
    reversed: list[tuple[str, str]]


def orderings(results: dict, column: int) -> Orderings:
    """The orderings of the rows that have both the paper's result and ours.

    The variation between seeds is the root of the sum of both rows' variances; with one seed it is 0.
    """
    rows = [(row["name"], row["cells"][column]) for row in results["rows"]]
    rows = [(name, cell) for name, cell in rows if type(cell["paper"]) in (int, float) and cell["mean"] is not None]
    same, undecided, reverse = 0, 0, []
    for pair in itertools.combinations(rows, 2):
        (better, a), (worse, b) = sorted(pair, key=lambda entry: -entry[1]["paper"])
        if a["paper"] == b["paper"]:
            continue
        difference, variation = a["mean"] - b["mean"], math.hypot(a["std"] or 0, b["std"] or 0)
        if abs(difference) <= variation:
            undecided += 1
        elif difference > 0:
            same += 1
        else:
            reverse.append((better, worse))
    return Orderings(same, undecided, reverse)


def cells(results: dict) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """The table as text: its head, a list of (title of the table's column or "", text), and a list of texts for each row."""
    several = len(results["columns"]) > 1
    head = [("", "#"), ("", "row")]
    for title in results["columns"]:
        texts = ("ours", "vs. first row", "95 %", "paper", "paper: vs. first row")
        head += [(title, text) for text in texts] if several else [("", text) for text in (title, *texts[1:])]
    head += [("", "parameters"), ("", "minutes")]
    # Differences between the paper's results have the same number of decimals as the results.
    papers = [[row["cells"][c]["paper"] for row in results["rows"]] for c in range(len(results["columns"]))]
    digits = [
        max((len(str(x).partition(".")[2]) for x in paper if type(x) in (int, float)), default=0) for paper in papers
    ]
    rows = []
    for i, row in enumerate(results["rows"]):
        line = [str(i), row["name"]]
        for cell, decimals in zip(row["cells"], digits, strict=True):
            ours = "–" if cell["mean"] is None else number(cell["mean"])
            if cell["std"] is not None:
                ours += f" ± {number(cell['std'], like=cell['mean'])}"
            if cell["ours"] and len(cell["ours"]) < results["seeds"]:
                ours += f" ({len(cell['ours'])} of {results['seeds']})"
            if row["failed"] and not cell["ours"]:
                ours = "failed"
            interval, paper_difference = cell["interval"], cell["paper_difference"]
            line += [
                ours,
                number(cell["difference"], "+", cell["mean"]),
                "–" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}",
                "–" if cell["paper"] is None else str(cell["paper"]),
                "–" if paper_difference is None else f"{paper_difference:+.{decimals}f}",
            ]
        parameters = f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else "–"
        rows.append([*line, parameters, number(row["minutes"])])
    empty = [k for k in range(2, len(head)) if all(line[k] == "–" for line in rows)]
    head, *rows = ([entry for k, entry in enumerate(line) if k not in empty] for line in (head, *rows))
    return head, rows


def number(value, sign="", like=None):
    """One decimal, or two digits if `like`, by default the value itself, is less than one; – for None."""
    if value is None:
        return "–"
    like = abs(value if like is None else like)
    return f"{value:{sign}.1f}" if like >= 1 or value == 0 else f"{value:{sign}.2g}"


def setting(results: dict) -> str:
    """The data set and the number of seeds."""
    if not results["seeds"]:
        return "only the paper's figures"
    dataset = "the paper's data sets" if results["dataset"] == "papers" else results["dataset"]
    return f"here on {dataset}, {results['seeds']} seed{'s' * (results['seeds'] != 1)}"


def remarks(results: dict) -> list[str]:
    """Remarks below the table, a paragraph each."""
    paragraphs = [results["note"]] * bool(results["note"])
    for column, title in enumerate(results["columns"]):
        same, undecided, reverse = orderings(results, column)
        count = same + undecided + len(reverse)
        if count:
            prefix = f"{title}: pairs" if len(results["columns"]) > 1 else "Pairs"
            names = "; ".join(f"“{a}” is below “{b}”" for a, b in reverse)
            several = results["seeds"] > 1
            paragraphs.append(
                f"{prefix} of rows that differ in the paper: {count}. In the same order here: {same}."
                + f" Within the variation between seeds: {undecided}." * several
                + f" Reversed: {len(reverse)}{f' ({names})' if reverse else ''}."
                + " One seed does not show the variation between seeds." * (not several)
            )
        counts: dict[int, list[int]] = {}
        for i, row in enumerate(results["rows"]):
            for classes in row["cells"][column]["classes"]:
                counts.setdefault(classes, []).append(i)
        if len(counts) > 1:
            prefix = f"{title}: the" if len(results["columns"]) > 1 else "The"
            means = "; ".join(
                f"{k} in runs of row {', '.join(map(str, dict.fromkeys(v)))}" for k, v in sorted(counts.items())
            )
            paragraphs.append(f"{prefix} mean is over the classes in the truth or in the prediction: {means}.")
    if any(cell["interval"] for row in results["rows"] for cell in row["cells"]):
        paragraphs.append(
            "95 %: a confidence interval for the difference, from a paired bootstrap over images. It says how much the difference would "
            "vary with other images, not with other seeds. ± is the standard deviation over seeds."
        )
    return paragraphs + [f"failed: {row['name']}: {row['failed']}" for row in results["rows"] if row["failed"]]


def markdown(results: dict) -> str:
    """The table in Markdown, with its source and setting above and the remarks below."""
    head, rows = cells(results)
    texts = [[f"{column}: {text}" if column else text for column, text in head], *rows]
    lines = [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in texts]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n\n".join([f"**{results['source']}**; {setting(results)}", "\n".join(lines), *remarks(results)]) + "\n"


def as_csv(results: dict) -> str:
    """The table as CSV: a line for each row and column, with the results of all seeds; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    statistics = ("mean", "std", "difference", "low", "high", "paper", "paper_difference")
    seeds = range(results["seeds"])
    writer.writerow(
        ["row", "name", "column", *statistics, "parameters", "minutes", *(f"seed {seed}" for seed in seeds)]
    )
    for r, row in enumerate(results["rows"]):
        for title, cell in zip(results["columns"], row["cells"], strict=True):
            low, high = cell["interval"] or (None, None)
            values = [(cell | {"low": low, "high": high})[name] for name in statistics]
            ours = [cell["ours"].get(seed) for seed in seeds]
            writer.writerow([r, row["name"], title, *values, row["parameters"], row["minutes"], *ours])
    return out.getvalue()


def as_html(results: dict, run_folders: Sequence[Sequence[str]]) -> str:
    """The table as a page with links to each run's report.html; `run_folders` are the folders of each row's runs, relative to the page."""
    head, rows = cells(results)
    head = [*head, ("", "runs")]
    return page.render(
        "table.html",
        title=results["source"],
        setting=setting(results),
        groups=[(title, len(list(columns))) for title, columns in itertools.groupby(title for title, _ in head)],
        head=[text for _, text in head],
        rows=[(row, list(dict.fromkeys(folders))) for row, folders in zip(rows, run_folders, strict=True)],
        remarks=remarks(results),
    )
