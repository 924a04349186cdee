"""`--mode=prepare`: builds a data set, checks it, prints a summary and computes its super-pixels."""

import sys

from ctxseg import data
from ctxseg.data import pipeline, superpixels
from ctxseg.data.summary import summarise, table, warnings
from ctxseg.errors import UserError
from ctxseg.views import data_summary


def run(values) -> None:
    print(prepare(values.config.data))


def prepare(config) -> str:
    """Prepares the data set of `config.data` and prints a table of its contents.

    It can be interrupted at any time: complete files are kept, and not built again.

    Args:
        config: the section `data`.

    Returns:
        The folder of the prepared data set.

    Raises:
        UserError: as `data.load`; faulty files, all named on stderr; no labelled pixel to train on; a `data_dir` that is full or
            cannot be written.
    """
    superpixels.check(config.superpixels)
    builder = data.load(config.name, config.data_dir, config.manual_dir, download=True)
    summary = summarise(builder, data_summary.draw)
    # The training split, or folds.
    training = {split: values for split, values in summary["splits"].items() if split not in ("val", "test")}
    if not any(c["pixels"] for values in training.values() for c in values["classes"].values()):
        raise UserError(
            f"{builder.name} {', '.join(training)} has no labelled pixel to learn from; correct the labels, delete "
            f"{builder.data_dir} and prepare it again"
        )
    for line in warnings(summary):
        print(f"warning: {line}", file=sys.stderr)
    for split in builder.info.splits:
        pipeline.source(builder, split, config.superpixels)
    print(table(summary))
    return str(builder.data_dir)
