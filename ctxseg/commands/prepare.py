"""`--mode=prepare`: builds a data set, checks it, says what is in it, and computes its super-pixels."""

import sys

from ctxseg import data
from ctxseg.data import pipeline, superpixels
from ctxseg.data.summary import summarise, table, warnings
from ctxseg.errors import UserError
from ctxseg.views import data_summary


def run(values) -> None:
    print(prepare(values.config.data))


def prepare(config) -> str:
    """Prepares the data set of `config.data` and prints a table of what is in it.

    It can be interrupted at any time: run again, it keeps what is complete. What is there already is not made again.

    Args:
        config: the section `data`.

    Returns:
        The folder of the prepared data set.

    Raises:
        UserError: as `data.load`; faulty files, all of them on stderr; no labelled pixel to train on; a `data_dir` that cannot
            be written, or is full.
    """
    superpixels.check(config.superpixels)
    builder = data.load(config.name, config.data_dir, config.manual_dir, download=True)
    summary = summarise(builder, data_summary.draw)
    trained = {split: values for split, values in summary["splits"].items() if split not in ("val", "test")}  # or folds
    if not any(c["pixels"] for values in trained.values() for c in values["classes"].values()):
        raise UserError(
            f"{builder.name} {', '.join(trained)} has no labelled pixel, so nothing can be learnt: correct the labels, "
            f"delete {builder.data_dir}, and prepare it again"
        )
    for line in warnings(summary):
        print(f"warning: {line}", file=sys.stderr)
    for split in builder.info.splits:
        pipeline.source(builder, split, config.superpixels)
    print(table(summary))
    return str(builder.data_dir)
