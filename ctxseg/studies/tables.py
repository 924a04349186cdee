"""Tables of results: what a file in `configs/tables/` describes, and how a table reads as Markdown, CSV and a page."""

import csv
import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ctxseg.errors import UserError
from ctxseg.views import page

# Of a run, by its mode; of one that trains also IOU and the name of a class.
SCORES = {
    "train": ("mIoU", "pixel accuracy", "mean accuracy", "seconds per image", "parameters, M", "minutes"),
    "complexity": ("parameters, M", "multiply-adds, G", "milliseconds"),
}
IOU = "IoU of "


class Column(NamedTuple):
    """What a table says of each row.

    Attributes:
        title: of the column.
        score: one of `SCORES`, or `IoU of CLASS`, a class of the data set.
        overrides: {field: value} of the config, where columns are runs of their own; a row's come after them.
        dataset: where columns are of different data sets; None for the row's.
        runs: whether there are figures of ours; not of a split whose labels a test server keeps.
    """

    title: str = "mIoU"
    score: str = "mIoU"
    overrides: Mapping[str, Any] = {}
    dataset: str | None = None
    runs: bool = True


class Row(NamedTuple):
    """A line of a table.

    Attributes:
        name: as the table shows it.
        system: its config file's name; None where there is no code, where a test server keeps the labels, or where the paper starts from
            weights that others of its rows do not: only the paper's figures are shown, and the table's note says what comes nearest.
        overrides: {field: value} of the system's config.
        paper: the paper's figure in each column: a number, a text, or None.
        dataset: where rows are of different data sets; None for the table's.
    """

    name: str
    system: str | None
    overrides: Mapping[str, Any] = {}
    paper: Sequence[float | str | None] = ()
    dataset: str | None = None


class Table(NamedTuple):
    """Rows that are compared, the first with all others.

    Attributes:
        name: for folders.
        source: where in which paper, or what a grid is of.
        dataset: that the rows are trained on, unless they say otherwise.
        rows: of which the first is what the others are compared with.
        columns: of every row.
        mode: of every run: `train`, which ends with an evaluation, or `complexity`.
        folds: overrides of the runs that a figure is the mean of, as those of a cross-validation.
        note: a sentence that the reader needs.
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
    """Finds what a table's author may have got wrong, before anything trains for it.

    Raises:
        UserError: the first field that is not as the classes above have it, by row and column.
    """

    def want(good, what, field, value, rule):
        if not good:
            raise UserError(f"table {table.name!r}{what}: {field} is {value!r}, but must be {rule}")

    folder = isinstance(table.name, str) and re.fullmatch(r"[\w.,-]*\w[\w.,-]*", table.name)
    want(folder, "", "name", table.name, "a folder's name")
    for field in ("source", "dataset", "note"):
        want(isinstance(getattr(table, field), str), "", field, getattr(table, field), "a text")
    want(table.mode in [*SCORES], "", "mode", table.mode, " or ".join(SCORES))
    for field, kind, rule in (
        ("rows", Row, "Row"),
        ("columns", Column, "Column"),
        ("folds", Mapping, "{field: value}"),
    ):
        entries = getattr(table, field)
        good = isinstance(entries, (list, tuple)) and not isinstance(entries, kind) and bool(entries)
        want(good and all(isinstance(e, kind) for e in entries), "", field, entries, f"a list of one or more {rule}")
    for field, names in (("rows", [row.name for row in table.rows]), ("columns", [c.title for c in table.columns])):
        good = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
        want(good, "", f"the names of {field}", names, "texts that differ")
    for c, column in enumerate(table.columns):
        scores, where = SCORES[table.mode], f", column {c} ({column.title})"
        of_class = table.mode == "train" and isinstance(column.score, str) and column.score.startswith(IOU)
        rule = f"one of {', '.join(scores)}{f', {IOU}CLASS' * (table.mode == 'train')}"
        want(of_class or column.score in [*scores], where, "score", column.score, rule)
        want(isinstance(column.overrides, Mapping), where, "overrides", column.overrides, "{field: value}")
    for r, row in enumerate(table.rows):
        where = f", row {r} ({row.name})"
        want(isinstance(row.overrides, Mapping), where, "overrides", row.overrides, "{field: value}")
        good = isinstance(row.paper, (list, tuple)) and len(row.paper) <= len(table.columns)
        good = good and all(map(_is_figure, row.paper))
        rule = f"a list of {len(table.columns)} or fewer numbers, texts or None, one a column"
        want(good, where, "paper", row.paper, rule)


def _is_figure(x: Any) -> bool:
    """Whether a paper's figure may be this: a finite number, a text or None."""
    return x is None or type(x) is str or type(x) in (int, float) and math.isfinite(x)


def on(table: Table, dataset: str | None) -> Table:
    """One column of a table whose columns are data sets: that of `dataset`; if none is, the first, run on `dataset` instead.

    Args:
        table: whose rows name no data set.
        dataset: None for the table as it is.
    """
    if dataset is None:
        return table
    of = [column.dataset for column in table.columns]
    c = of.index(dataset) if dataset in of else 0
    rows = [row._replace(paper=row.paper[c : c + 1]) for row in table.rows]
    note = "" if dataset in of else f"The paper's figures are those on {table.columns[c].title}."
    return table._replace(
        dataset=dataset,
        rows=[row for row in rows if row.system or row.paper[0] is not None],
        columns=[table.columns[c]._replace(title=table.columns[c].score, dataset=None)],
        note=" ".join(filter(None, (table.note, note))),
    )


class Orderings(NamedTuple):
    """How pairs of rows that differ in the paper come out here, by their means.

    Attributes:
        held: pairs in the paper's order, by more than the seeds scatter.
        open: pairs that are closer than that.
        turned: (better in the paper, worse) of those in the other order.
    """

    held: int
    open: int
    turned: list[tuple[str, str]]


def orderings(made: dict, column: int) -> Orderings:
    """Of the rows that have a figure of the paper's and one of ours.

    Seeds scatter by the root of the sum of both rows' variances; with one seed by nothing.
    """
    known = [(row["name"], row["cells"][column]) for row in made["rows"]]
    known = [(name, cell) for name, cell in known if type(cell["paper"]) in (int, float) and cell["mean"] is not None]
    held, undecided, turned = 0, 0, []
    for pair in itertools.combinations(known, 2):
        (better, a), (worse, b) = sorted(pair, key=lambda entry: -entry[1]["paper"])
        if a["paper"] == b["paper"]:
            continue
        moved, scatter = a["mean"] - b["mean"], math.hypot(a["std"] or 0, b["std"] or 0)
        if abs(moved) <= scatter:
            undecided += 1
        elif moved > 0:
            held += 1
        else:
            turned.append((better, worse))
    return Orderings(held, undecided, turned)


def cells(made: dict) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """The table in words: its head, (title of the column that it belongs to, or "", text), and a list for each row."""
    several = len(made["columns"]) > 1
    head = [("", "#"), ("", "row")]
    for title in made["columns"]:
        of = ("ours", "to the first row", "95 %", "paper", "paper: to its first row")
        head += [(title, text) for text in of] if several else [("", text) for text in (title, *of[1:])]
    head += [("", "parameters"), ("", "minutes")]
    # Differences of the paper's figures have the digits that these have.
    papers = [[row["cells"][c]["paper"] for row in made["rows"]] for c in range(len(made["columns"]))]
    digits = [max((len(str(x).partition(".")[2]) for x in of if type(x) in (int, float)), default=0) for of in papers]
    rows = []
    for i, row in enumerate(made["rows"]):
        line = [str(i), row["name"]]
        for cell, decimals in zip(row["cells"], digits, strict=True):
            ours = "–" if cell["mean"] is None else number(cell["mean"])
            if cell["std"] is not None:
                ours += f" ± {number(cell['std'], like=cell['mean'])}"
            if cell["ours"] and len(cell["ours"]) < made["seeds"]:
                ours += f" ({len(cell['ours'])} of {made['seeds']})"
            if row["failed"] and not cell["ours"]:
                ours = "failed"
            interval, moved = cell["interval"], cell["paper_difference"]
            line += [
                ours,
                number(cell["difference"], "+", cell["mean"]),
                "–" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}",
                "–" if cell["paper"] is None else str(cell["paper"]),
                "–" if moved is None else f"{moved:+.{decimals}f}",
            ]
        parameters = f"{row['parameters'] / 1e6:.2f} M" if row["parameters"] else "–"
        rows.append([*line, parameters, number(row["minutes"])])
    empty = [k for k in range(2, len(head)) if all(line[k] == "–" for line in rows)]
    head, *rows = ([entry for k, entry in enumerate(line) if k not in empty] for line in (head, *rows))
    return head, rows


def number(value, sign="", like=None):
    """One decimal, or two digits where `like`, by default the value itself, is smaller than one; – for None."""
    if value is None:
        return "–"
    like = abs(value if like is None else like)
    return f"{value:{sign}.1f}" if like >= 1 or value == 0 else f"{value:{sign}.2g}"


def setting(made: dict) -> str:
    """What the figures are of."""
    if not made["seeds"]:
        return "the paper's figures alone"
    dataset = "the paper's data sets" if made["dataset"] == "papers" else made["dataset"]
    return f"here on {dataset}, {made['seeds']} seed{'s' * (made['seeds'] != 1)}"


def remarks(made: dict) -> list[str]:
    """What the reader has to know beside the table: a paragraph each."""
    found = [made["note"]] * bool(made["note"])
    for column, title in enumerate(made["columns"]):
        held, undecided, turned = orderings(made, column)
        count = held + undecided + len(turned)
        if count:
            of = f"{title}: pairs" if len(made["columns"]) > 1 else "Pairs"
            names = "; ".join(f"“{a}” is below “{b}”" for a, b in turned)
            several = made["seeds"] > 1
            found.append(
                f"{of} of rows that differ in the paper: {count}. In the same order here: {held}."
                + f" Within the variation between seeds: {undecided}." * several
                + f" Reversed: {len(turned)}{f' ({names})' if turned else ''}."
                + " One seed does not show how much seeds vary." * (not several)
            )
        counts: dict[int, list[int]] = {}
        for i, row in enumerate(made["rows"]):
            for classes in row["cells"][column]["classes"]:
                counts.setdefault(classes, []).append(i)
        if len(counts) > 1:
            of = f"{title}: the" if len(made["columns"]) > 1 else "The"
            means = "; ".join(
                f"{k} in runs of row {', '.join(map(str, dict.fromkeys(v)))}" for k, v in sorted(counts.items())
            )
            found.append(f"{of} mean is over the classes that are in the truth or in the prediction: {means}.")
    if any(cell["interval"] for row in made["rows"] for cell in row["cells"]):
        found.append(
            "95 %: a confidence interval for the difference, from a paired bootstrap over images. It says how much the difference would "
            "vary with other images, not with other seeds. ± is the standard deviation over seeds."
        )
    return found + [f"failed: {row['name']}: {row['failed']}" for row in made["rows"] if row["failed"]]


def markdown(made: dict) -> str:
    """The table, its source and setting above and remarks below."""
    head, rows = cells(made)
    texts = [[f"{of}: {text}" if of else text for of, text in head], *rows]
    lines = [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in texts]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n\n".join([f"**{made['source']}**; {setting(made)}", "\n".join(lines), *remarks(made)]) + "\n"


def as_csv(made: dict) -> str:
    """A line for each row and column, with the figures of all seeds; empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = ("mean", "std", "difference", "low", "high", "paper", "paper_difference")
    seeds = range(made["seeds"])
    writer.writerow(["row", "name", "column", *figures, "parameters", "minutes", *(f"seed {seed}" for seed in seeds)])
    for r, row in enumerate(made["rows"]):
        for title, cell in zip(made["columns"], row["cells"], strict=True):
            low, high = cell["interval"] or (None, None)
            values = [(cell | {"low": low, "high": high})[figure] for figure in figures]
            ours = [cell["ours"].get(seed) for seed in seeds]
            writer.writerow([r, row["name"], title, *values, row["parameters"], row["minutes"], *ours])
    return out.getvalue()


def as_html(made: dict, pages: Sequence[Sequence[str]]) -> str:
    """The page of the table; `pages` are the folders of each row's runs, relative to the page's, whose report.html are linked."""
    head, rows = cells(made)
    head = [*head, ("", "runs")]
    return page.render(
        "table.html",
        title=made["source"],
        setting=setting(made),
        groups=[(of, len(list(columns))) for of, columns in itertools.groupby(of for of, _ in head)],
        head=[text for _, text in head],
        rows=[(row, list(dict.fromkeys(folders))) for row, folders in zip(rows, pages, strict=True)],
        remarks=remarks(made),
    )
