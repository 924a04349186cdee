"""Tables of results: what a file in `configs/tables/` describes, and how a table reads as text, Markdown and CSV."""

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
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


def orderings(made: dict) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Whether the rows come in the paper's order, column by column.

    Yields:
        How many pairs of rows differ in the paper, and those of them, (better in the paper, worse), that do not come in this order
        here by their means.
    """
    for c in range(len(made["columns"])):
        known = [(row["name"], row["cells"][c]) for row in made["rows"]]
        known = [
            (name, cell) for name, cell in known if type(cell["paper"]) in (int, float) and cell["mean"] is not None
        ]
        pairs = [
            sorted(pair, key=lambda entry: -entry[1]["paper"])
            for pair in itertools.combinations(known, 2)
            if pair[0][1]["paper"] != pair[1][1]["paper"]
        ]
        yield len(pairs), [(a[0], b[0]) for a, b in pairs if a[1]["mean"] <= b[1]["mean"]]


def cells(made: dict) -> list[list[str]]:
    """The table in words: its head, and a list for each row."""
    head = ["#", "row"]
    for title in made["columns"]:
        of = f"{title}: " if len(made["columns"]) > 1 else ""
        head += [title, *(of + text for text in ("to the first row", "95 %", "paper", "paper: to its first row"))]
    lines = [head + ["parameters", "minutes"]]
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
                number(cell["difference"], "+"),
                "–" if interval is None else f"{interval[0]:+.1f} to {interval[1]:+.1f}",
                "–" if cell["paper"] is None else str(cell["paper"]),
                "–" if moved is None else f"{round(moved, 2):+g}",
            ]
        line += [f"{row['parameters']:.2f} M" if row["parameters"] else "–", number(row["minutes"])]
        lines.append(line)
    empty = [k for k in range(2, len(lines[0])) if all(line[k] == "–" for line in lines[1:])]
    return [[text for k, text in enumerate(line) if k not in empty] for line in lines]


def number(value, sign="", like=None):
    """One decimal, or two digits where `like`, by default the value itself, is smaller than one; – for None."""
    if value is None or isinstance(value, str):
        return value or "–"
    like = abs(value if like is None else like)
    return f"{value:{sign}.1f}" if like >= 1 or sign or value == 0 else f"{value:.2g}"


def markdown(made: dict) -> str:
    """The table, its source above and its note and orderings below."""
    head, *lines = cells(made)
    text = [f"**{made['source']}**; here on {made['dataset']}, {made['seeds']} seed{'s' * (made['seeds'] > 1)}", ""]
    text += [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(line)} |" for line in lines), ""]
    text += [made["note"], ""] if made["note"] else []
    for title, (count, other) in zip(made["columns"], orderings(made), strict=True):
        if count:
            of = f"{title}: " if len(made["columns"]) > 1 else ""
            names = "; ".join(f"“{a}” is not above “{b}”" for a, b in other)
            text.append(
                f"{of}{count - len(other)} of {count} pairs of rows come in the paper's order{f'. Not: {names}' if other else ''}."
            )
    text += [f"failed: {row['name']}: {row['failed']}" for row in made["rows"] if row["failed"]]
    return "\n".join(text).rstrip() + "\n"


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
