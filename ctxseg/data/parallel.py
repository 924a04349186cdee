"""Work on many files or records by all cores."""

import os
from collections.abc import Callable, Iterator, Sequence

import grain

from ctxseg.progress import progress


def each(function: Callable, items: Sequence, label: str) -> Iterator:
    """`function` of every item, in order, with progress on stderr under `label`; a few are computed ahead, by all cores.

    For work that lets go of Python's lock, as decoders do.
    """
    threads = min(os.cpu_count() or 1, 16)
    results = grain.MapDataset.source(items).map(function)
    ahead = results.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads))
    return progress(ahead, len(items), label)
