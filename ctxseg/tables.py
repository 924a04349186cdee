"""Tables of results: what a file in `configs/tables/` describes, and how a table reads as text, Markdown and CSV."""

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """What a table says of each row.

    Attributes:
        title: of the column.
        score: a key of `read_scores`.
        overrides: {field: value} of the config, where columns are runs of their own; a row's come after them.
        dataset: where columns are of different data sets; None for the row's.
    """

    title: str = "mIoU"
    score: str = "mIoU"
    overrides: Mapping[str, Any] = {}
    dataset: str | None = None


class Row(NamedTuple):
    """A line of a table.

    Attributes:
        name: as the table shows it.
        system: its config file's name; None for what there is no code or no truth for: only the paper's figures are shown.
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
    rows = []
    for i, row in enumerate(made["rows"]):
        line = [str(i), row["name"]]
        for cell in row["cells"]:
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
                "–" if moved is None else f"{round(moved, 2):+g}",
            ]
        rows.append([*line, f"{row['parameters']:.2f} M" if row["parameters"] else "–", number(row["minutes"])])
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
    return f"here on {made['dataset']}, {made['seeds']} seed{'s' * (made['seeds'] > 1)}"


def remarks(made: dict) -> list[str]:
    """What the reader has to know beside the table: a paragraph each."""
    found = [made["note"]] * bool(made["note"])
    for column, title in enumerate(made["columns"]):
        held, undecided, turned = orderings(made, column)
        count = held + undecided + len(turned)
        if count:
            of = f"{title}: of" if len(made["columns"]) > 1 else "Of"
            names = "; ".join(f"“{a}” is below “{b}”" for a, b in turned)
            found.append(
                f"{of} {count} pairs of rows that differ in the paper, {held} come in its order here, {undecided} are closer than the "
                f"seeds scatter, and {len(turned)} come in the other order{f': {names}' if turned else ''}."
            )
    if any(cell["interval"] for row in made["rows"] for cell in row["cells"]):
        found.append(
            "95 %: of the difference, had the split had other images (a paired bootstrap over images); what another seed would give is "
            "not in it, but in ±, the standard deviation over seeds."
        )
    return found + [f"failed: {row['name']}: {row['failed']}" for row in made["rows"] if row["failed"]]


def markdown(made: dict) -> str:
    """The table, its source and setting above and remarks below."""
    head, rows = cells(made)
    lines = [[f"{of}: {text}" if of else text for of, text in head], *rows]
    lines = [f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |" for line in lines]
    lines.insert(1, "|---" * len(head) + "|")
    return "\n\n".join([f"**{made['source']}**; {setting(made)}", "\n".join(lines), *remarks(made)]) + "\n"


def as_csv(made: dict) -> str:
    """A line for each row, column and seed, and one of each for the paper's figure, with seed `paper`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["row", "name", "column", "seed", "value"])
    for r, row in enumerate(made["rows"]):
        for title, cell in zip(made["columns"], row["cells"], strict=True):
            writer.writerows([r, row["name"], title, seed, value] for seed, value in cell["ours"].items())
            if cell["paper"] is not None:
                writer.writerow([r, row["name"], title, "paper", cell["paper"]])
    return out.getvalue()
